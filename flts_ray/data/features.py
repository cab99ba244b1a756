"""Columns derived from the reports. Every one is causal: row t is computed from rows up to t."""

from __future__ import annotations

import math

import numpy as np

from flts_ray.config import FeatureSettings
from flts_ray.data.frame import FloatArray, IntArray, TimeArray

DAY_S = 86_400.0
PROFILE_HALF_WIDTH = 5
"""Rows on either side over which yesterday's value is smoothed."""


def calendar_names(kind: str) -> tuple[str, ...]:
    """Names of the calendar columns of one kind."""
    if kind == "cyclic":
        parts = ("min_of_day", "day_of_week", "day_of_year")
        return tuple(f"{part}_{wave}" for part in parts for wave in ("sin", "cos"))
    if kind == "harmonics":
        return ("day_sin", "day_cos", "half_day_sin", "half_day_cos", "weekend")
    return ()


def calendar(time: TimeArray, kind: str) -> FloatArray:
    """Calendar columns: ``(n, len(calendar_names(kind)))``."""
    if len(time) == 0:
        return np.zeros((0, len(calendar_names(kind))))
    day, second = np.divmod(time.astype("datetime64[s]").astype(np.int64), round(DAY_S))
    weekday = (day + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
    if kind == "cyclic":
        out = np.empty((6, len(time)))  # few different values: their waves are computed once and looked up
        for i, (place, period) in enumerate(((second // 60, 1440), (weekday, 7), (_day_of_year(day), 365.25))):
            angle = 2 * np.pi * (np.arange(math.ceil(period) + 1) / period)
            np.take(np.sin(angle), place, out=out[2 * i])
            np.take(np.cos(angle), place, out=out[2 * i + 1])
        return out.T
    if kind == "harmonics":
        angle = 2 * np.pi * second / DAY_S
        waves = [np.sin(angle), np.cos(angle), np.sin(2 * angle), np.cos(2 * angle)]
        return np.stack([*waves, (weekday >= 5).astype(np.float64)]).T
    return np.zeros((len(time), 0))


def _day_of_year(day: IntArray) -> IntArray:
    """From days since 1970 to 1..366, by a table of the days that occur."""
    first = day.min()
    table = np.arange(first, day.max() + 1).astype("datetime64[D]")
    numbers = (table - table.astype("datetime64[Y]")).astype(np.int64) + 1
    return np.asarray(numbers[day - first])


def derived_names(columns: tuple[str, ...], targets: tuple[str, ...], settings: FeatureSettings) -> tuple[str, ...]:
    """Names of the derived columns, in the order of :func:`derived`."""
    names = []
    for target in targets:
        names += [f"{target}_ema_{span}" for span in settings.ema_spans]
        names += [f"{target}_std_{rows}" for rows in settings.rolling_std]
        if settings.profile:
            names += [f"{target}_yesterday_level", f"{target}_yesterday_slope"]
    lags = range(settings.lag_step, settings.lag_step * settings.lags + 1, settings.lag_step)
    return (*names, *(f"{column}_lag_{lag}" for lag in lags for column in columns))


def derived(
    z: FloatArray,
    columns: tuple[str, ...],
    targets: tuple[str, ...],
    settings: FeatureSettings,
    step_s: float,
    *,
    rows: int | None = None,
) -> FloatArray:
    """Moving averages, deviations, yesterday's profile and lags, all in scaled units.

    Args:
        z: ``(..., n, len(columns))`` cleaned and scaled rows; each leading index is a series of its own.
        columns: Names of z's columns.
        targets: Columns that get averages, deviations and a profile.
        settings: Which ones.
        step_s: Seconds between rows.
        rows: Latest rows to compute them for, at most ``n``; all by default. Of columns that are no target only these
            rows are read, and the :func:`lagged_rows` before them.

    Returns:
        ``(..., rows, len(derived_names(...)))``. Averages and profile are relative to the row's own value.
    """
    n = z.shape[-2]
    first = 0 if rows is None else n - rows
    parts: list[FloatArray] = []
    for target in targets:
        x = z[..., columns.index(target)]
        parts += [_ema(x, span)[..., first:] - x[..., first:] for span in settings.ema_spans]
        parts += [_rolling_std(x, width, first) for width in settings.rolling_std]
        if settings.profile:
            parts += _yesterday(x, max(1, round(DAY_S / step_s)), first)
    for lag in range(settings.lag_step, settings.lag_step * settings.lags + 1, settings.lag_step):
        parts += list(np.moveaxis(z[..., np.maximum(np.arange(first, n) - lag, 0), :], -1, 0))
    return np.moveaxis(np.stack(parts), 0, -1) if parts else np.zeros((*z.shape[:-2], n - first, 0))


def lagged_rows(settings: FeatureSettings) -> int:
    """How far before a row its lags reach."""
    return settings.lags * settings.lag_step


def grid_positions(time: TimeArray, step_s: float) -> IntArray:
    """Place of each row on a regular grid: ``(n,)`` int64, strictly increasing from 0.

    A gap of more than eight days counts as seven days and its odd hours, so that one wrong timestamp cannot
    ask for a grid of years.
    """
    if len(time) == 0:
        return np.zeros(0, dtype=np.int64)
    step_ns = round(step_s * 1e9)
    steps = np.maximum(1, (np.diff(time).astype(np.int64) + step_ns // 2) // step_ns)
    day_rows = max(1, round(DAY_S / step_s))
    steps = np.where(steps > 8 * day_rows, 7 * day_rows + steps % day_rows, steps)
    return np.concatenate([[0], np.cumsum(steps)]).astype(np.int64)


def context_rows(settings: FeatureSettings, step_s: float) -> int:
    """Rows of history after which the derived columns no longer depend on where history starts.

    Exact for windows, lags and profile; for an average of span s, what came more than 8 s rows earlier
    weighs less than 1e-6.
    """
    needs = [1, *(8 * span for span in settings.ema_spans), *settings.rolling_std]
    if settings.profile:
        needs.append(max(1, round(DAY_S / step_s)) + PROFILE_HALF_WIDTH + 1)
    needs.append(settings.lags * settings.lag_step + 1)
    return max(needs)


def _ema(x: FloatArray, span: int) -> FloatArray:
    from scipy.signal import lfilter  # most processes never compute features, and it takes long to import

    if x.shape[-1] == 0:
        return x
    alpha = 2.0 / (span + 1.0)
    out, _ = lfilter([alpha], [1.0, alpha - 1.0], x, zi=(1.0 - alpha) * x[..., :1])
    return np.asarray(out, dtype=np.float64)


def _running_total(x: FloatArray) -> FloatArray:
    total: FloatArray = np.zeros((*x.shape[:-1], x.shape[-1] + 1))
    np.cumsum(x, axis=-1, out=total[..., 1:])
    return total


def _rolling_std(x: FloatArray, width: int, first: int) -> FloatArray:
    end = np.arange(first + 1, x.shape[-1] + 1)
    start = np.maximum(end - width, 0)
    count = (end - start).astype(np.float64)
    total, squares = _running_total(x), _running_total(x * x)
    mean: FloatArray = (total[..., end] - total[..., start]) / count
    variance: FloatArray = (squares[..., end] - squares[..., start]) / count - mean**2
    return np.sqrt(np.maximum(variance, 0.0))


def _yesterday(x: FloatArray, day_rows: int, first: int) -> list[FloatArray]:
    """Yesterday's smoothed value at the next row's time, relative to now; and its change from this row's time.

    Both are zero in the first day, where there is no yesterday.
    """
    n, half = x.shape[-1], PROFILE_HALF_WIDTH
    level, slope = np.zeros((2, *x.shape[:-1], n - first))
    start = max(first, day_rows + half)
    if n > start and day_rows > half + 1:
        total = _running_total(x)
        here = np.arange(start, n) - day_rows

        def smooth(center: IntArray) -> FloatArray:
            low = np.maximum(center - half, 0)
            return np.asarray((total[..., center + half + 1] - total[..., low]) / (center + half + 1 - low))

        level[..., start - first :] = smooth(here + 1) - x[..., start:]
        slope[..., start - first :] = smooth(here + 1) - smooth(here)
    return [level, slope]
