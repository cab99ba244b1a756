"""No timing: whether one network for two real stations gains from a learnt vector a station, seed by seed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import Pairs, Row
from benchmarks.sources import Source, prepare
from flts_ray.cluster import Cluster
from flts_ray.config import Settings
from flts_ray.data.dataset import Dataset
from flts_ray.data.storage import Store
from flts_ray.data.windows import test_origins
from flts_ray.evaluation.backtest import backtest
from flts_ray.models.base import Forecaster
from flts_ray.models.recurrent import Cell
from flts_ray.training.fit import fit_recurrent

CELLS: tuple[Cell, ...] = ("gru", "lstm")
STATIONS = ("PobleSec", "ElBorn")
VALIDATION = "validation composite"
NUMBERS = 4
SEEDS = 5


def run(*, quick: bool) -> list[Row]:
    """Both networks on PobleSec and ElBorn together; nothing where the files are not at hand."""
    torch.set_num_threads(1)
    folder = Path(os.environ.get("FLTS_DATA_DIR", Path(__file__).resolve().parents[2] / "shared" / "data"))
    train, test = (tuple(str(folder / f"{name}{end}.csv") for name in STATIONS) for end in ("", "_test"))
    if not all(Path(file).exists() for file in (*train, *test)):
        return []
    with tempfile.TemporaryDirectory(prefix="flts-bench-") as scratch, Cluster(Settings().run) as cluster:
        cluster.ensure()
        options = {"training__epochs": 1} if quick else {}
        settings, dataset = prepare(Source("both", train, test), Store(f"{scratch}/home"), options)
        seeds = [settings.seed + i for i in range(1 if quick else SEEDS)]
        return [row for cell in CELLS for row in _compared(cell, dataset, settings, seeds)]


def _compared(cell: Cell, dataset: Dataset, settings: Settings, seeds: list[int]) -> list[Row]:
    told, plain = ([_figures(cell, dataset, settings, seed, numbers) for seed in seeds] for numbers in (NUMBERS, 0))
    return [
        Pairs(tuple(f[what] for f in told), tuple(f[what] for f in plain)).row(
            higher_is_better=False, benchmark="identity", case=f"{cell}: {what}", unit="scaled"
        )
        for what in (VALIDATION, *STATIONS)
    ]


def _figures(cell: Cell, dataset: Dataset, settings: Settings, seed: int, numbers: int) -> dict[str, float]:
    """Composite of the validation tail, and RMSE of each station's test rows."""
    recurrent = settings.recurrent.model_copy(update={"series_embedding": numbers})
    own = settings.model_copy(update={"seed": seed, "recurrent": recurrent})
    fitted = fit_recurrent(cell, dataset.frames, dataset.transforms, own)
    best = fitted.result.history[fitted.result.best_epoch - 1].val_composite
    return {VALIDATION: best, **_test_rmse(fitted.forecaster, dataset)}


def _test_rmse(model: Forecaster, dataset: Dataset) -> dict[str, float]:
    found = {}
    for frame in dataset.frames:
        tested = backtest(frame, model, test_origins(frame, model.lookback, model.horizon))
        errors = (tested.predictions - tested.observed) / dataset.transforms[frame.series].target_range
        found[frame.series] = float(np.sqrt(np.mean(errors[tested.valid] ** 2)))
    return found
