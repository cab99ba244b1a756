"""No timing: how often untouched test rows of real stations raise an alarm, and how often a broken column does.

The peer is the index as it is commonly used: ten bins over all of training, alarm from 0.25 on, whatever the time of
day and the number of rows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.harness import Row
from flts_ray.config import Settings
from flts_ray.config_serving import DriftSettings
from flts_ray.data.frame import FloatArray, RawFrame, TimeArray
from flts_ray.data.source import read_rows
from flts_ray.data.transform import Transform
from flts_ray.drift.inputs import column_drift
from flts_ray.drift.psi import psi
from flts_ray.drift.snapshot import ColumnSnapshot

STEP_S = 120.0
LENGTHS = (200, 360, 720, 1440)
BROKEN, FACTOR = "up", 1 / 15
FALSE_BAR, FOUND_BAR = 0.03, 0.85
"""Judged on PobleSec: at any length, and from half a day of rows on."""

Alarm = Callable[[ColumnSnapshot, FloatArray, TimeArray], bool]


def run(*, quick: bool) -> list[Row]:
    """PobleSec and ElBorn; nothing where the files are not at hand."""
    folder = Path(os.environ.get("FLTS_DATA_DIR", Path(__file__).resolve().parents[2] / "shared" / "data"))
    rows: list[Row] = []
    for name in ("PobleSec", "ElBorn"):
        if all((folder / f"{name}{part}.csv").exists() for part in ("", "_test")):
            rows += _station(name, folder, LENGTHS[-1:] if quick else LENGTHS)
    return rows


def _station(name: str, folder: Path, lengths: tuple[int, ...]) -> Iterator[Row]:
    train, test = (_read(folder / f"{name}{part}.csv") for part in ("", "_test"))
    transform = Transform.fit(train, Settings(), STEP_S)
    known = {
        column: ColumnSnapshot.of(train.column(column), train.time, scaler, STEP_S)
        for column, scaler in zip(transform.columns, transform.scalers, strict=True)
    }
    for length in (*lengths, len(test)):
        if length > len(test):
            continue
        judged = name == "PobleSec"
        span = f"all {length} test rows" if length == len(test) else f"{length} rows"
        false = [np.mean([_share(alarm, s, test, c, length) for c, s in known.items()]) for alarm in (_ours, _common)]
        found = [_share(alarm, known[BROKEN], test, BROKEN, length, FACTOR) for alarm in (_ours, _common)]
        yield Row(
            benchmark="drift", case=f"{name}, {span}: untouched columns in alarm", ours=float(false[0]),
            peer=float(false[1]), unit="share", score=float(false[0]), sense="<=", bar=FALSE_BAR if judged else None,
        )  # fmt: skip
        yield Row(
            benchmark="drift", case=f"{name}, {span}: '{BROKEN}' / 15 found", ours=found[0], peer=found[1],
            unit="share", score=found[0], bar=FOUND_BAR if judged and length >= LENGTHS[1] else None,
        )  # fmt: skip


def _read(path: Path) -> RawFrame:
    return read_rows(path.read_bytes(), path.name, Settings().data, series=path.stem).frames[0]


def _share(alarm: Alarm, known: ColumnSnapshot, test: RawFrame, column: str, length: int, factor: float = 1.0) -> float:
    """Share of stretches of the test rows, each overlapping the next by three quarters, that raise an alarm."""
    values, starts = test.column(column) * factor, range(0, len(test) - length + 1, max(1, length // 4))
    return float(np.mean([alarm(known, values[s : s + length], test.time[s : s + length]) for s in starts]))


def _ours(known: ColumnSnapshot, values: FloatArray, time: TimeArray) -> bool:
    return column_drift("", "", known, known.histogram(values, time), DriftSettings()).state == "alarm"


def _common(known: ColumnSnapshot, values: FloatArray, time: TimeArray) -> bool:
    live = known.histogram(values, time).sum(axis=0)
    return psi(np.asarray(known.counts).sum(axis=0), live) >= DriftSettings().psi_alarm
