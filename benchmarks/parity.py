"""No timing: how far Ray Train's results are from the plain loop's, and two workers' from one worker's."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Row
from benchmarks.sources import prepare, station
from flts_ray.cluster import Cluster
from flts_ray.config import Settings
from flts_ray.data.dataset import Dataset
from flts_ray.data.frame import SeriesFrame
from flts_ray.data.storage import Store
from flts_ray.data.transform import Transform
from flts_ray.data.windows import test_origins
from flts_ray.models.recurrent import Cell, RecurrentForecaster
from flts_ray.training.fit import fit_recurrent
from flts_ray.training.relay import Relay
from flts_ray.training.trainer import fit_on_ray

CELLS: tuple[Cell, ...] = ("gru", "lstm")


def weight_difference(one: RecurrentForecaster, other: RecurrentForecaster) -> float:
    """Largest absolute difference of any weight."""
    mine, theirs = one.state()[1], other.state()[1]
    return max(float(np.abs(mine[name] - theirs[name]).max()) for name in mine)


def forecast_difference(
    one: RecurrentForecaster, other: RecurrentForecaster, frame: SeriesFrame, transform: Transform
) -> float:
    """Largest absolute difference of any test forecast, in scaled units (train maximum minus minimum is 1)."""
    origins = test_origins(frame, one.lookback, one.horizon)
    difference = np.abs(one.predict(frame, origins) - other.predict(frame, origins))
    return float((difference / transform.target_range).max())


def run(*, quick: bool) -> list[Row]:
    """The default recipe, GRU and LSTM."""
    torch.set_num_threads(1)
    options: dict[str, Any] = {"training__epochs": 1} if quick else {}
    if quick:
        options |= {"sampling__train_rows": 3_000, "sampling__test_rows": 500}
    with tempfile.TemporaryDirectory(prefix="flts-bench-") as scratch:
        source, store = station(Path(scratch)), Store(f"{scratch}/home")
        with Cluster(source.settings().run) as cluster:
            cluster.ensure()
            settings, dataset = prepare(source, store, options)
            return [row for cell in CELLS for row in rows_of(cell, store, dataset, settings)]


def rows_of(cell: Cell, store: Store, dataset: Dataset, settings: Settings) -> list[Row]:
    """Fit one network three ways and compare."""
    plain = fit_recurrent(cell, dataset.frames, dataset.transforms, settings).forecaster
    one, two = (_on_ray(cell, store, dataset, settings, workers) for workers in (1, 2))
    exact = weight_difference(plain, one)
    close = max(forecast_difference(one, two, f, dataset.transforms[f.series]) for f in dataset.frames)
    epochs = settings.training.epochs
    return [
        Row(
            benchmark="parity",
            case=f"{cell.upper()}, {epochs} epochs: 1 Ray Train worker against the plain loop, weights",
            ours=exact,
            unit="largest difference",
            score=exact,
            sense="<=",
            bar=0.0,
        ),
        Row(
            benchmark="parity",
            case=f"{cell.upper()}, {epochs} epochs: 2 workers against 1, scaled test forecasts",
            ours=close,
            unit="largest difference",
            score=close,
            sense="<=",
            bar=1e-3,
            detail={"weights": weight_difference(one, two)},
        ),
    ]


def _on_ray(cell: Cell, store: Store, dataset: Dataset, settings: Settings, workers: int) -> RecurrentForecaster:
    training = settings.training.model_copy(update={"workers": workers})
    with Relay(lambda beat: None) as relay:
        fitted = fit_on_ray(
            cell,
            store=store,
            dataset_id=dataset.dataset_id,
            settings=settings.model_copy(update={"training": training}),
            run_name=f"parity-{cell}-{workers}",
            relay=relay,
        )
    if fitted.result.workers != workers:
        raise AssertionError(f"{workers} workers were asked for, {fitted.result.workers} trained")
    return fitted.forecaster
