"""The forecasts every candidate must beat: persistence, moving average, seasonal naive. None of them learns."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np

from flts_ray.config import Settings
from flts_ray.data.frame import FloatArray, IntArray, SeriesFrame
from flts_ray.errors import BundleError
from flts_ray.models.base import Arrays, Forecaster

_TIME_TOLERANCE_NS = 500_000


class Persistence(Forecaster):
    """Every step is the last known value."""

    kind: ClassVar[str] = "persistence"
    lookback = 1

    def __init__(self, horizon: int) -> None:
        """Forecast ``horizon`` rows."""
        self.horizon = horizon

    @classmethod
    def fit(cls, settings: Settings) -> Self:
        """Take the horizon from the settings."""
        return cls(settings.windows.horizon)

    def predict(self, frame: SeriesFrame, origins: IntArray) -> FloatArray:
        """Repeat the origin's value; see :meth:`Forecaster.predict`."""
        return np.repeat(frame.targets[origins][:, None, :], self.horizon, axis=1)

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """The horizon."""
        return {"horizon": self.horizon}, {}

    @classmethod
    def from_state(cls, meta: dict[str, Any], arrays: Arrays) -> Self:
        """Rebuild from :meth:`state`."""
        return cls(int(_entry(cls.kind, meta, "horizon")))


class MovingAverage(Forecaster):
    """Every step is the mean of the last rows.

    At the start of a gap-free stretch the mean is over the rows there are, so that no origin is lost to it.
    """

    kind: ClassVar[str] = "moving_average"
    lookback = 1

    def __init__(self, rows: int, horizon: int) -> None:
        """Average ``rows`` rows and forecast ``horizon``."""
        self.rows, self.horizon = rows, horizon

    @classmethod
    def fit(cls, settings: Settings) -> Self:
        """Take width and horizon from the settings."""
        return cls(settings.baselines.moving_average_rows, settings.windows.horizon)

    def predict(self, frame: SeriesFrame, origins: IntArray) -> FloatArray:
        """Average up to the origin; see :meth:`Forecaster.predict`."""
        stretch_start = np.searchsorted(frame.segment, frame.segment[origins], side="left")
        total, count = np.zeros((len(origins), frame.targets.shape[1])), np.zeros((len(origins), 1))
        for back in range(self.rows):
            row = origins - back
            inside = row >= stretch_start
            total[inside] += frame.targets[row[inside]]
            count[inside] += 1
        return np.repeat((total / count)[:, None, :], self.horizon, axis=1)

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Width and horizon."""
        return {"rows": self.rows, "horizon": self.horizon}, {}

    @classmethod
    def from_state(cls, meta: dict[str, Any], arrays: Arrays) -> Self:
        """Rebuild from :meth:`state`."""
        return cls(int(_entry(cls.kind, meta, "rows")), int(_entry(cls.kind, meta, "horizon")))


class SeasonalNaive(Forecaster):
    """Every step is the value one season earlier, by its timestamp; where that report was lost, the last before it.

    Steps beyond one season repeat the last known season. A step with nothing so far back is NaN: a season is long,
    and asking for it of every origin would take origins from all other models.
    """

    kind: ClassVar[str] = "seasonal_naive"
    lookback = 1

    def __init__(self, season_rows: int, step_s: float, horizon: int) -> None:
        """Forecast ``horizon`` rows.

        Args:
            season_rows: Rows in a season.
            step_s: Seconds between rows.
            horizon: Rows to forecast.
        """
        self.season_rows, self.step_s, self.horizon = season_rows, step_s, horizon

    @classmethod
    def fit(cls, settings: Settings, step_s: float) -> Self:
        """Take season and horizon from the settings; a season is rounded to whole rows, at least one."""
        season_rows = max(1, round(settings.baselines.season_s / step_s))
        return cls(season_rows, step_s, settings.windows.horizon)

    def predict(self, frame: SeriesFrame, origins: IntArray) -> FloatArray:
        """Look up the season before; see :meth:`Forecaster.predict`. NaN where there is none."""
        ahead = np.arange(1, self.horizon + 1)
        rows_back = ahead - self.season_rows * -(-ahead // self.season_rows)  # at most 0: never after the origin
        offset_ns = np.round(rows_back * self.step_s * 1e9).astype(np.int64)
        time = frame.time.astype("datetime64[ns]").astype(np.int64)
        wanted = time[origins][:, None] + offset_ns
        row = np.searchsorted(time, wanted + _TIME_TOLERANCE_NS, side="right") - 1
        row = np.minimum(row, origins[:, None])
        return np.where((row >= 0)[:, :, None], frame.targets[np.maximum(row, 0)], np.nan)

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Season, step and horizon."""
        return {"season_rows": self.season_rows, "step_s": self.step_s, "horizon": self.horizon}, {}

    @classmethod
    def from_state(cls, meta: dict[str, Any], arrays: Arrays) -> Self:
        """Rebuild from :meth:`state`."""
        return cls(
            int(_entry(cls.kind, meta, "season_rows")),
            float(_entry(cls.kind, meta, "step_s")),
            int(_entry(cls.kind, meta, "horizon")),
        )


def _entry(kind: str, meta: dict[str, Any], key: str) -> Any:
    if key not in meta:
        raise BundleError(f"the state of a '{kind}' baseline lacks '{key}': write the bundle again")
    return meta[key]
