"""Small frames and forecasters for the evaluation tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow.csv
import pytest

from flts_ray.data.frame import FloatArray, IntArray, SeriesFrame, segment_ids
from flts_ray.models.base import Arrays, Forecaster

STEP_S = 120.0


def make_frame(
    values: FloatArray,
    train_rows: int,
    *,
    series: str = "a",
    observed: FloatArray | None = None,
    gap_at: int | None = None,
) -> SeriesFrame:
    """A frame whose features are its targets; ``gap_at`` lets one step of time pass before that row."""
    targets = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    seconds = np.arange(len(targets)) * STEP_S
    if gap_at is not None:
        seconds[gap_at:] += STEP_S
    time = np.datetime64("2026-01-01", "ns") + seconds.astype("timedelta64[s]")
    return SeriesFrame(
        series=series,
        time=time,
        features=targets.astype(np.float32),
        targets=targets,
        observed=targets if observed is None else np.asarray(observed, dtype=np.float64).reshape(targets.shape),
        segment=segment_ids(time, STEP_S),
        train_rows=train_rows,
    )


class Last(Forecaster):
    """Persistence, with an optional bias and an optional look at the future."""

    kind: ClassVar[str] = "persistence"

    def __init__(self, *, lookback: int = 1, horizon: int = 1, bias: float = 0.0, peek: int = 0) -> None:
        self.lookback, self.horizon, self.bias, self.peek = lookback, horizon, bias, peek

    def predict(self, frame: SeriesFrame, origins: IntArray) -> FloatArray:
        rows = np.minimum(origins + self.peek, len(frame) - 1)
        return np.repeat(frame.targets[rows][:, None, :], self.horizon, axis=1) + self.bias

    def state(self) -> tuple[dict[str, Any], Arrays]:
        return {}, {}

    @classmethod
    def from_state(cls, meta: dict[str, Any], arrays: Arrays) -> Self:
        return cls()


def real_station(name: str) -> tuple[FloatArray, int]:
    """The ``down`` column of a real station, train then test, NaN where missing; skips when it is not here."""
    folder = Path(os.environ.get("FLTS_DATA_DIR", Path(__file__).parents[3] / "shared" / "data"))
    parts = [folder / f"{name}.csv", folder / f"{name}_test.csv"]
    if not all(part.exists() for part in parts):
        pytest.skip(f"{parts[0].name} is not in {folder}; set FLTS_DATA_DIR")
    columns = [pyarrow.csv.read_csv(part)["down"].to_numpy(zero_copy_only=False).astype(np.float64) for part in parts]
    return np.concatenate(columns), len(columns[0])


def real_frame(name: str) -> SeriesFrame:
    """A real station as a frame; missing values are filled with the train mean in ``targets``."""
    down, train_rows = real_station(name)
    return make_frame(
        np.where(np.isnan(down), np.nanmean(down[:train_rows]), down), train_rows, series=name, observed=down
    )
