"""Frames and models of which it is known what they look at."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np

from flts_ray.data.frame import FloatArray, IntArray, SeriesFrame
from flts_ray.data.windows import histories
from flts_ray.models.base import Arrays, Forecaster
from tests.evaluation.stations import make_frame


class OneCell(Forecaster):
    """Forecasts one cell of its window, ``lag`` rows old, plus the last value if it is told to."""

    kind: ClassVar[str] = "one-cell"

    def __init__(self, *, lookback: int, lag: int, column: int, last_value: bool = False) -> None:
        self.lookback, self.horizon = lookback, 1
        self.lag, self.column, self.last_value = lag, column, last_value

    def predict(self, frame: SeriesFrame, origins: IntArray) -> FloatArray:
        read = histories(frame.features, origins, self.lookback)[:, self.lookback - 1 - self.lag, self.column]
        made = read.astype(np.float64)[:, None, None]
        return made + frame.targets[origins][:, None, :] if self.last_value else made

    def state(self) -> tuple[dict[str, Any], Arrays]:
        return {}, {}

    @classmethod
    def from_state(cls, meta: dict[str, Any], arrays: Arrays) -> Self:
        raise NotImplementedError


def noise_frame(
    rows: int = 200, columns: int = 3, *, series: str = "a", size: float = 1.0, seed: int = 0
) -> SeriesFrame:
    """Independent features; each target is the first feature two rows before it, times ``size``."""
    features = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
    features[:, 0] *= size
    targets = np.concatenate([np.zeros(2), features[:-2, 0].astype(np.float64)])
    return replace(make_frame(targets, rows // 2, series=series), features=features)
