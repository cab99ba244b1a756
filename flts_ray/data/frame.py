"""The two shapes in which rows travel: as a station reports them, and as a model reads them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
TimeArray = npt.NDArray[np.datetime64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFrame:
    """Rows of one station as reported: physical units, NaN where nothing was reported.

    Attributes:
        series: Name of the station.
        time: ``(n,)`` datetime64[ns], strictly increasing.
        columns: Names of the value columns.
        values: ``(n, len(columns))`` float64.
    """

    series: str
    time: TimeArray
    columns: tuple[str, ...]
    values: FloatArray

    def __len__(self) -> int:
        return len(self.time)

    def head(self, rows: int) -> RawFrame:
        """The first rows, as views."""
        return RawFrame(series=self.series, time=self.time[:rows], columns=self.columns, values=self.values[:rows])

    def column(self, name: str) -> FloatArray:
        """One column, ``(n,)``."""
        return self.values[:, self.columns.index(name)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesFrame:
    """Rows of one station as a model reads them: train rows first, then test rows.

    Attributes:
        series: Name of the station.
        time: ``(n,)`` datetime64[ns], strictly increasing.
        features: ``(n, n_features)`` float32, scaled, without NaN.
        targets: ``(n, n_targets)`` float64 in physical units, without NaN: missing values filled, outliers
            clipped, by what was learnt on the train rows. What models learn from and start from.
        observed: ``(n, n_targets)`` float64 in physical units as reported, NaN where missing. What forecasts
            are scored against.
        segment: ``(n,)`` int64, the number of the gap-free stretch that the row belongs to.
        train_rows: Rows ``[0, train_rows)`` are train, the rest test.
    """

    series: str
    time: TimeArray
    features: Float32Array
    targets: FloatArray
    observed: FloatArray
    segment: IntArray
    train_rows: int

    def __len__(self) -> int:
        return len(self.time)

    @property
    def test_rows(self) -> int:
        """Rows after the train rows."""
        return len(self) - self.train_rows

    def train(self) -> SeriesFrame:
        """The same station without its test rows (views, no copy)."""
        return self.head(self.train_rows)

    def head(self, rows: int) -> SeriesFrame:
        """The first rows, as views; rows beyond ``train_rows`` stay test rows."""
        return SeriesFrame(
            series=self.series,
            time=self.time[:rows],
            features=self.features[:rows],
            targets=self.targets[:rows],
            observed=self.observed[:rows],
            segment=self.segment[:rows],
            train_rows=min(self.train_rows, rows),
        )


def segment_ids(time: TimeArray, step_s: float) -> IntArray:
    """Number the gap-free stretches of a series.

    Args:
        time: ``(n,)`` datetime64[ns], strictly increasing.
        step_s: Regular distance of two rows, in seconds.

    Returns:
        ``(n,)`` int64 starting at 0; it grows by one wherever two neighbours are not one step apart
        (within half a millisecond).
    """
    if len(time) == 0:
        return np.zeros(0, dtype=np.int64)
    step_ns = round(step_s * 1e9)
    breaks = np.abs(np.diff(time).astype(np.int64) - step_ns) > 500_000
    return np.concatenate([[0], np.cumsum(breaks)]).astype(np.int64)
