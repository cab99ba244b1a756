"""Forming every training window: strided gather against a Python loop over the rows of a pandas frame."""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.harness import Row, alternate, seconds
from benchmarks.sources import station
from flts_ray.data.frame import Float32Array, SeriesFrame
from flts_ray.data.source import read_rows
from flts_ray.data.transform import Transform
from flts_ray.data.windows import histories, training_origins

Windows = tuple[Float32Array, Float32Array]


def ours(frame: SeriesFrame, levels: Float32Array, lookback: int, horizon: int) -> Windows:
    """Histories ``(n, lookback, d)`` and futures ``(n, horizon)`` of every origin."""
    origins = training_origins(frame.segment, lookback, horizon)
    return histories(frame.features, origins, lookback), histories(levels, origins + horizon, horizon)[:, :, 0]


def peer(table: pd.DataFrame, target: str, lookback: int, horizon: int) -> Windows:
    """The same, cut out row by row: what a loop over ``iloc`` does."""
    inputs, outputs = [], []
    for start in range(len(table) - lookback - horizon + 1):
        window = table.iloc[start : start + lookback + horizon]
        inputs.append(window.iloc[:lookback].to_numpy())
        outputs.append(window[target].iloc[lookback:].to_numpy())
    return np.stack(inputs), np.stack(outputs)


def check_equal(mine: Windows, theirs: Windows) -> None:
    """Raise AssertionError unless both ways give the same windows."""
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


CASES = ((10, 1), (60, 30))
"""Lookback and horizon."""


def run(*, quick: bool) -> list[Row]:
    """Measure on the train rows of one station, with the features of the classic recipe."""
    with tempfile.TemporaryDirectory(prefix="flts-bench-") as scratch:
        source = station(Path(scratch))
        settings = source.settings(recipe="classic")
        file = Path(source.train[0])
        raw = read_rows(file.read_bytes(), file.name, settings.data, series=file.stem).frames[0]
    raw = raw.head(3_000) if quick else raw
    transform = Transform.fit(raw, settings, 120.0)
    frame = transform.apply(raw, len(raw))
    frame = replace(
        frame,
        features=np.ascontiguousarray(frame.features),  # as it is read from storage
        segment=np.zeros(len(frame), dtype=np.int64),  # the loop knows nothing of gaps
    )
    return [_row(frame, transform, lookback, horizon, source.name) for lookback, horizon in CASES]


def _row(frame: SeriesFrame, transform: Transform, lookback: int, horizon: int, name: str) -> Row:
    target = transform.targets[0]
    table = pd.DataFrame(frame.features, columns=list(transform.feature_names))
    levels = frame.features[:, [transform.columns.index(target)]]
    check_equal(ours(frame, levels, lookback, horizon), peer(table, target, lookback, horizon))
    pairs = alternate(
        lambda: statistics.median(seconds(lambda: ours(frame, levels, lookback, horizon)) for _ in range(5)),
        lambda: seconds(lambda: peer(table, target, lookback, horizon)),
        rounds=5,
    )
    count, width = len(training_origins(frame.segment, lookback, horizon)), frame.features.shape[1]
    return pairs.row(
        higher_is_better=False,
        benchmark="windows",
        case=f"{count:,} windows, lookback {lookback}, horizon {horizon}, {width} columns ({name})",
        unit="s",
        bar=20.0,
    )
