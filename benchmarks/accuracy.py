"""No timing: scores on the test rows of real stations, as evaluation computes them, and what they owe to what.

Trained by the plain loop, which Ray Train equals bit for bit (see ``parity``). Ridge stands here twice: as the baseline
of every run, on the inputs of the pipeline that this one replaces, and on the very features that the networks read.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Row, Sense
from benchmarks.sources import Source, prepare
from flts_ray.cluster import Cluster
from flts_ray.config import Settings
from flts_ray.data.dataset import Dataset
from flts_ray.data.storage import Store
from flts_ray.evaluation.backtest import common_origins, unscorable
from flts_ray.evaluation.leaderboard import Row as Scores
from flts_ray.evaluation.metrics import diebold_mariano
from flts_ray.evaluation.scoring import Entry
from flts_ray.evaluation.stage import entry, fit_baselines, interval_states, leaderboard
from flts_ray.models.base import Forecaster
from flts_ray.models.recurrent import Cell
from flts_ray.models.ridge import Ridge
from flts_ray.training.fit import fit_recurrent

CELLS: tuple[Cell, ...] = ("gru", "lstm")
SAME_FEATURES = "ridge on the networks' features"
RMSE_BARS = {"PobleSec": 0.0348, "ElBorn": 0.0438}
MAE_BARS = {"PobleSec": 0.0183, "ElBorn": 0.0220}


def run(*, quick: bool) -> list[Row]:
    """Both recipes on PobleSec, the default one on ElBorn; nothing where the files are not at hand."""
    torch.set_num_threads(1)
    folder = Path(os.environ.get("FLTS_DATA_DIR", Path(__file__).resolve().parents[2] / "shared" / "data"))
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="flts-bench-") as scratch, Cluster(Settings().run) as cluster:
        for name in RMSE_BARS:
            train, test = folder / f"{name}.csv", folder / f"{name}_test.csv"
            if not (train.exists() and test.exists()):
                continue
            cluster.ensure()
            source = Source(name, (str(train),), (str(test),))
            options: dict[str, Any] = {"training__epochs": 1} if quick else {}
            settings, dataset = prepare(source, Store(f"{scratch}/home"), options)
            rows += _default(name, settings, dataset)
            if name == "PobleSec":
                settings, dataset = prepare(source, Store(f"{scratch}/home"), {**options, "recipe": "classic"})
                rows += _classic(name, settings, dataset)
    return rows


def scored(settings: Settings, dataset: Dataset) -> tuple[dict[str, Scores], dict[str, Entry]]:
    """Pooled scores and forecasts of both networks, all baselines, and ridge on the networks' features."""
    networks: dict[str, Forecaster] = {
        cell: fit_recurrent(cell, dataset.frames, dataset.transforms, settings).forecaster for cell in CELLS
    }
    networks[SAME_FEATURES] = Ridge.fit(dataset.frames, dataset.transforms, settings)
    models = {
        **{name: (model, dataset.frames, "candidate") for name, model in networks.items()},
        **{
            name: (baseline.model, baseline.frames, "baseline")
            for name, baseline in fit_baselines(dataset, settings).items()
            if not unscorable(baseline.frames, baseline.model)
        },
    }
    origins = {f.series: common_origins(f, [model for model, _, _ in models.values()]) for f in dataset.frames}
    entries = {
        name: entry(
            name,
            "candidate" if role == "candidate" else "baseline",
            model,
            frames,
            origins,
            interval_states(model, frames, settings),
            fit_s=None,
        )
        for name, (model, frames, role) in models.items()
    }
    board = leaderboard(list(entries.values()), dataset, settings)
    return {name: row for name in entries if (row := board.overall(name)) is not None}, entries


def _default(name: str, settings: Settings, dataset: Dataset) -> list[Row]:
    scores, entries = scored(settings, dataset)
    best = min(CELLS, key=lambda cell: _of(scores, cell, "composite"))
    against = _losses_differ(entries, best, SAME_FEATURES, name)
    found = [
        _row(name, best, "RMSE, scaled", _of(scores, best, "rmse_scaled"), "<=", RMSE_BARS[name]),
        _row(name, best, "MAE, scaled", _of(scores, best, "mae_scaled"), "<=", MAE_BARS[name]),
        _row(name, best, "p against ridge", _of(scores, best, "dm_p_vs_ridge"), "<", 0.05),
        _row(name, best, "coverage, off 0.90 by", abs(_of(scores, best, "coverage_90") - 0.9), "<=", 0.01),
        _row(name, best, "coverage, worst 250 rows", _of(scores, best, "coverage_min_250"), ">=", 0.85),
        _row(name, best, f"p against {SAME_FEATURES}", 1.0 if against is None else against, "<", None),
    ]
    others = [other for other in scores if other != best]
    return found + [
        _row(name, other, "RMSE, scaled", _of(scores, other, "rmse_scaled"), "<=", None) for other in others
    ]


def _classic(name: str, settings: Settings, dataset: Dataset) -> list[Row]:
    scores, _ = scored(settings, dataset)
    return [
        _row(f"{name}, classic", cell, "RMSE, scaled", _of(scores, cell, "rmse_scaled"), "<=", 0.0370) for cell in CELLS
    ]


def _row(station: str, model: str, what: str, value: float, sense: Sense, bar: float | None) -> Row:
    return Row(
        benchmark="accuracy", case=f"{station}: {model}, {what}", ours=value, unit="", score=value, sense=sense, bar=bar
    )


def _of(scores: Mapping[str, Scores], model: str, field: str) -> float:
    value = getattr(scores[model], field)
    return float("nan") if value is None else float(value)


def _losses_differ(entries: Mapping[str, Entry], one: str, other: str, series: str) -> float | None:
    tests = [entries[name].backtests[series] for name in (one, other)]
    losses = [((test.predictions - test.observed) ** 2)[test.valid] for test in tests]
    return diebold_mariano(losses[0], losses[1])
