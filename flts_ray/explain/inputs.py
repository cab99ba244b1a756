"""Which windows are looked at, and which columns belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from flts_ray.config import FeatureSettings
from flts_ray.data import features as feature_columns
from flts_ray.data.frame import IntArray, SeriesFrame
from flts_ray.evaluation.backtest import outcomes

LEAST_WINDOWS = 32
"""Windows of one station at least: fewer give too little to shuffle among, so fewer stations are looked at instead."""


def chosen_windows(
    frames: Sequence[SeriesFrame], origins: Mapping[str, IntArray], windows: int, horizon: int
) -> dict[str, IntArray]:
    """Some scored test windows, evenly spread over stations and time.

    Args:
        frames: The stations.
        origins: By station, the rows that every model was scored from.
        windows: How many windows in all, at most.
        horizon: Rows forecast.

    Returns:
        By station, increasing origins. Of many stations every n-th by name is taken, so that each has
        ``LEAST_WINDOWS`` where it has that many at all. Origins without an observed outcome are left out.
    """
    scored = {}
    for frame in frames:
        rows = origins[frame.series]
        _, valid = outcomes(frame, rows, horizon)
        if valid.any():
            scored[frame.series] = rows[valid.any(axis=(1, 2))]
    names = sorted(scored)
    names = [names[i] for i in _spread(len(names), max(1, windows // LEAST_WINDOWS))]
    return {name: scored[name][_spread(len(scored[name]), max(1, windows // len(names)))] for name in names}


def feature_groups(columns: Sequence[str], targets: Sequence[str], settings: FeatureSettings) -> dict[str, IntArray]:
    """Columns that say the same and must be shuffled together: the others would give the shuffled one away.

    Args:
        columns: Reported columns, in order.
        targets: Columns to forecast.
        settings: Which columns are derived from them.

    Returns:
        By group, column numbers: each reported column with its lagged copies, the calendar, and of each target its
        moving averages, deviations and yesterday's profile.
    """
    labels = [*columns, *("calendar" for _ in feature_columns.calendar_names(settings.calendar))]
    for target in targets:
        labels += [f"{target}, moving averages"] * len(settings.ema_spans)
        labels += [f"{target}, deviations"] * len(settings.rolling_std)
        labels += [f"{target}, yesterday"] * (2 * settings.profile)
    labels += list(columns) * settings.lags
    named = np.array(labels)
    return {label: np.flatnonzero(named == label) for label in dict.fromkeys(labels)}


def _spread(n: int, wanted: int) -> IntArray:
    """At most ``wanted`` of ``n`` places, evenly spread, first and last among them."""
    return np.unique(np.linspace(0, n - 1, min(n, wanted)).round().astype(np.int64))
