"""Rolling-origin forecasts of rows that a model has not seen, the same rows for every model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from flts_ray.data.frame import FloatArray, IntArray, SeriesFrame
from flts_ray.data.windows import test_origins, training_origins
from flts_ray.errors import ConfigError, DataError
from flts_ray.models.base import Forecaster

BoolArray = npt.NDArray[np.bool_]

COMMON_SHARE = 0.9
"""A baseline that can forecast from fewer than this share of the origins is not scored, rather than shrink them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backtest:
    """Forecasts of one model for one series, next to what was observed.

    Attributes:
        series: Name of the station.
        model: Kind of the forecaster.
        origins: ``(m,)`` row numbers of the last known row.
        predictions: ``(m, horizon, n_targets)`` in bits, as the model gave them.
        observed: ``(m, horizon, n_targets)`` in bits; NaN where ``valid`` is False.
        valid: ``(m, horizon, n_targets)``; the row exists, belongs to the scored part, lies in the origin's
            gap-free stretch, and the target was reported.
        predict_s: Seconds that all forecasts took.
    """

    series: str
    model: str
    origins: IntArray
    predictions: FloatArray
    observed: FloatArray
    valid: BoolArray
    predict_s: float

    @property
    def finite(self) -> bool:
        """Whether every scored forecast is a finite number."""
        return bool(np.isfinite(self.predictions[self.valid]).all())


def backtest(
    frame: SeriesFrame, forecaster: Forecaster, origins: IntArray, *, part: Literal["test", "train"] = "test"
) -> Backtest:
    """Forecast from each origin and line the forecasts up with what was observed.

    Args:
        frame: The station's rows, train rows first.
        forecaster: The model.
        origins: ``(m,)`` increasing row numbers; see :func:`common_origins` and :func:`calibration_origins`.
        part: Which rows are scored: the test rows, or (for calibration) the train rows.

    Raises:
        DataError: If the forecaster returns an array of the wrong shape.
    """
    observed, valid = outcomes(frame, origins, forecaster.horizon, part=part)
    started = time.perf_counter()
    predictions = np.asarray(forecaster.predict(frame, origins), dtype=np.float64)
    predict_s = time.perf_counter() - started
    if predictions.shape != observed.shape:
        raise DataError(
            f"{forecaster.kind} returned forecasts of shape {predictions.shape} for series {frame.series!r} where "
            f"{observed.shape} (origins, horizon, targets) was due; refit it for this dataset"
        )
    return Backtest(
        series=frame.series,
        model=forecaster.kind,
        origins=origins,
        predictions=predictions,
        observed=observed,
        valid=valid,
        predict_s=predict_s,
    )


def outcomes(
    frame: SeriesFrame, origins: IntArray, horizon: int, *, part: Literal["test", "train"] = "test"
) -> tuple[FloatArray, BoolArray]:
    """What was observed at each step after each origin, and where that counts.

    Returns:
        ``observed`` (NaN where invalid) and ``valid``, both ``(m, horizon, n_targets)``.
    """
    rows = origins[:, None] + np.arange(1, horizon + 1)
    first, end = (frame.train_rows, len(frame)) if part == "test" else (0, frame.train_rows)
    inside = (rows >= first) & (rows < end)
    rows = np.minimum(rows, len(frame) - 1)
    inside &= frame.segment[rows] == frame.segment[origins][:, None]
    observed = frame.observed[rows]
    valid = inside[:, :, None] & np.isfinite(observed)
    return np.where(valid, observed, np.nan), valid


def common_origins(frame: SeriesFrame, forecasters: Sequence[Forecaster]) -> IntArray:
    """Test origins from which every one of these forecasters can forecast: the longest history decides.

    Raises:
        ConfigError: If there are none, or they disagree on the horizon.
    """
    horizons = sorted({f.horizon for f in forecasters})
    if len(horizons) != 1:
        raise ConfigError(
            f"forecasters to be compared have horizons {horizons}; fit them all with the same windows.horizon"
        )
    return test_origins(frame, max(f.lookback for f in forecasters), horizons[0])


def unscorable(frames: Sequence[SeriesFrame], forecaster: Forecaster) -> str:
    """Why this forecaster should not take part in :func:`common_origins`, or an empty string.

    One with a long memory (a season, say) would take the rows away from all the others where the history is
    short or broken by gaps; it is then left out, with this note on its leaderboard row.
    """
    for frame in frames:
        most = len(test_origins(frame, 1, forecaster.horizon))
        own = len(test_origins(frame, forecaster.lookback, forecaster.horizon))
        if own < COMMON_SHARE * most:
            return (
                f"needs {forecaster.lookback} gap-free rows of history, which series {frame.series!r} has before only "
                f"{own} of {most} test rows"
            )
    return ""


def validation_start(train_rows: int, validation_fraction: float, horizon: int) -> int:
    """First row of the validation tail of ``train_rows`` train rows: the one that training starts it at."""
    return train_rows - max(horizon, int(train_rows * validation_fraction))


def calibration_origins(frame: SeriesFrame, lookback: int, horizon: int, validation_fraction: float) -> IntArray:
    """Origins whose whole horizon lies in the validation tail of the train rows (history may reach before it).

    Returns:
        ``(m,)`` int64, increasing; no test row is touched.
    """
    origins = training_origins(frame.segment[: frame.train_rows], lookback, horizon)
    return origins[origins + 1 >= validation_start(frame.train_rows, validation_fraction, horizon)]
