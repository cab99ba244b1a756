"""Forecasts from many origins of one series: the numbers of evaluation, in pieces that bound memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from flts_ray.data.frame import FloatArray, IntArray, RawFrame
from flts_ray.data.windows import training_origins
from flts_ray.errors import DataError, TooFewRowsError
from flts_ray.evaluation.backtest import outcomes
from flts_ray.evaluation.conformal import IntervalTracker
from flts_ray.evaluation.intervals import SeriesStates
from flts_ray.inference.bands import miss_rate
from flts_ray.models.bundle import Bundle

CHUNK_ROWS = 32_768
"""Origins forecast at once: bounds memory, not results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rolled:
    """Forecasts of some origins of a series, in time order.

    Attributes:
        origins: ``(m,)`` row numbers of the last known row.
        values: ``(m, horizon, n_targets)`` in the target's unit.
        lower: ``(n_levels, m, horizon, n_targets)``; NaN where there is no interval.
        upper: As ``lower``.
        skipped: Origins that were due among these and have no gap-free lookback.
    """

    origins: IntArray
    values: FloatArray
    lower: FloatArray
    upper: FloatArray
    skipped: int


def roll(
    bundle: Bundle,
    raw: RawFrame,
    states: SeriesStates,
    levels: Sequence[float],
    *,
    every: int = 1,
    first_row: int = 0,
    chunk_rows: int = CHUNK_ROWS,
) -> Iterator[Rolled]:
    """Forecast from every ``every``-th row, each time reading only the rows up to it.

    Values and intervals are those that evaluation computes when ``first_row`` is its first test row: intervals start
    from the calibration and adapt to the outcome of every row from ``first_row`` on, whatever ``every`` leaves out.

    Args:
        bundle: The model.
        raw: All rows of the station.
        states: Interval states to start from: those of the bundle.
        levels: Nominal coverages wanted; others than the calibrated one are derived from it as in the service.
        every: Distance of the origins, in rows.
        first_row: First row to be forecast; rows before it are history only.
        chunk_rows: Rows that are held as features at once, besides their history.

    Yields:
        Origins chunk by chunk; together they are all rows from ``first_row - 1`` on, in steps of ``every``, that the
        lookback allows.

    Raises:
        DataError: If the model does not know the station.
        TooFewRowsError: If there are fewer rows than the model reads.
    """
    lookback, horizon = bundle.manifest.lookback, bundle.manifest.horizon
    if len(raw) < lookback:
        raise TooFewRowsError(f"series '{raw.series}' has {len(raw)} rows, the model reads {lookback}: give more rows")
    station = station_of(bundle, raw.series)
    transform = bundle.manifest.transforms[station]
    margin = 2 * bundle.context_rows  # features then differ from those with all of history by rounding only
    start, stop = max(lookback - 1, first_row - 1), len(raw)
    warm_up = max(lookback - 1, first_row - horizon)  # later steps of these are outcomes to adapt to, as in evaluation
    intervals = _Intervals(states, levels)
    for low in range(warm_up, stop, chunk_rows):
        high, begin = min(low + chunk_rows, stop), max(0, low - margin)
        frame = transform.apply(_slice(raw, station, begin, high + horizon), train_rows=max(0, first_row - begin))
        local = training_origins(frame.segment, lookback, 0)
        local = local[(local >= low - begin) & (local < high - begin)]
        origins, values = local + begin, np.asarray(bundle.forecaster.predict(frame, local), dtype=np.float64)
        observed, _ = outcomes(frame, local, horizon)
        lower, upper = intervals.follow(values, observed, origins)
        wanted = (origins >= start) & ((origins - start) % every == 0)
        yield Rolled(
            origins=origins[wanted],
            values=values[wanted],
            lower=lower[:, wanted],
            upper=upper[:, wanted],
            skipped=_due(low, high, start, every) - int(wanted.sum()),
        )


def station_of(bundle: Bundle, series: str) -> str:
    """The station of the bundle that a series is: with one station in it, whatever the series is called.

    Raises:
        DataError: If the bundle knows several and this is none of them.
    """
    known = bundle.manifest.transforms
    if series not in known and len(known) > 1:
        raise DataError(
            f"series '{series}' is unknown to this model: it knows {', '.join(known)}; name files after their station, "
            "or set data.series_by"
        )
    return series if series in known else next(iter(known))


def _due(low: int, high: int, start: int, every: int) -> int:
    """How many of ``start, start + every, ...`` lie in ``[low, high)``."""
    before, up_to = (max(0, -(-(row - start) // every)) for row in (low, high))
    return up_to - before


def _slice(raw: RawFrame, station: str, begin: int, end: int) -> RawFrame:
    rows = slice(begin, end)
    return replace(raw, series=station, time=raw.time[rows], values=raw.values[rows])


class _Intervals:
    """The intervals of one station, from origin to origin and from chunk to chunk."""

    def __init__(self, states: SeriesStates, levels: Sequence[float]) -> None:
        self._trackers = [[IntervalTracker(state) for state in steps] for steps in states]
        self._levels = levels

    def follow(self, values: FloatArray, observed: FloatArray, origins: IntArray) -> tuple[FloatArray, FloatArray]:
        """Lower and upper bounds, ``(n_levels, m, horizon, n_targets)``, of forecasts ``(m, horizon, n_targets)``."""
        lower, upper = np.full((2, len(self._levels), *values.shape), math.nan)
        for k, steps in enumerate(self._trackers):
            for h, tracker in enumerate(steps):
                points, actual = values[:, h, k].tolist(), observed[:, h, k].tolist()
                for t, (origin, point, outcome) in enumerate(zip(origins.tolist(), points, actual, strict=True)):
                    calibrated = tracker.advance(origin, point, outcome)
                    for n, level in enumerate(self._levels):
                        bounds = calibrated
                        if not math.isclose(level, tracker.start.coverage):
                            radius = tracker.radius(tracker.spread(), miss_rate(tracker, level))
                            bounds = tracker.bounds(point, radius)
                        lower[n, t, h, k], upper[n, t, h, k] = bounds
        return lower, upper
