"""Missing values and outliers, with constants learnt on the training rows only."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from flts_ray.config import CleaningSettings, Section
from flts_ray.data.frame import FloatArray
from flts_ray.errors import AllMissingError


class Cleaner(Section):
    """What stands in for missing values, and the bounds of each column.

    Attributes:
        method: ``ffill`` carries the last value forward and uses ``fill`` before the first; others use ``fill``.
        fill: One constant a column.
        low: Lower bounds, or empty.
        high: Upper bounds, or empty.
    """

    method: Literal["ffill", "mean", "median", "zero"]
    fill: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    @classmethod
    def fit(cls, values: FloatArray, columns: tuple[str, ...], settings: CleaningSettings) -> Cleaner:
        """Learn fill values and bounds.

        Args:
            values: ``(n, len(columns))`` training rows, NaN where missing.
            columns: Names, for the error.
            settings: What to do.

        Raises:
            AllMissingError: If a column has no value at all.
        """
        empty = [name for name, column in zip(columns, values.T, strict=True) if np.isnan(column).all()]
        if empty:
            raise AllMissingError(
                f"column '{empty[0]}' has no value in any train row: remove it from data.columns or mend the source"
            )
        if settings.missing == "zero":
            fill = np.zeros(values.shape[1])
        else:
            fill = np.nanmedian(values, axis=0) if settings.missing == "median" else np.nanmean(values, axis=0)
        low, high = _bounds(values, settings)
        return cls(
            method=settings.missing,
            fill=tuple(fill.tolist()),
            low=tuple(low.tolist()),
            high=tuple(high.tolist()),
        )

    def apply(self, values: FloatArray) -> FloatArray:
        """Fill and clip: ``(..., n, columns)`` without NaN, fresh and in the memory order of ``values``. Causal."""
        out, missing = values.copy(order="K"), np.isnan(values)
        if self.method == "ffill" and missing.any():
            out = _forward_fill(values, missing)
            missing = np.isnan(out)
        np.copyto(out, np.asarray(self.fill), where=missing)
        if self.low:
            np.clip(out, np.asarray(self.low), np.asarray(self.high), out=out)
        return out


def _forward_fill(values: FloatArray, missing: npt.NDArray[np.bool_]) -> FloatArray:
    rows = np.arange(values.shape[-2])[:, None]
    last = np.maximum.accumulate(np.where(missing, 0, rows), axis=-2)
    return np.take_along_axis(values, last, axis=-2)


def _bounds(values: FloatArray, settings: CleaningSettings) -> tuple[FloatArray, FloatArray]:
    factor = settings.clip_factor
    if settings.clip == "iqr":
        q1, q3 = np.nanquantile(values, (0.25, 0.75), axis=0)
        return q1 - factor * (q3 - q1), q3 + factor * (q3 - q1)
    if settings.clip == "percentile":
        low, high = np.nanquantile(values, (factor, 1 - factor), axis=0)
        return low, high
    return np.zeros(0), np.zeros(0)
