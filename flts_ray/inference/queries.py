"""What is asked of a model and what it answers, whoever asks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flts_ray.data.frame import FloatArray, RawFrame, TimeArray


@dataclass(frozen=True, slots=True)
class Notice:
    """Something about an answer that its reader should know.

    Attributes:
        code: ``gaps_filled``, ``missing_values``, ``short_history``, ``extrapolation``, ``drift``, ``recursive``,
            ``ignored_columns``, ``series`` or ``time_zone``.
        message: The same in a sentence.
    """

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A history and what is wanted from it.

    Attributes:
        history: Checked rows of one station, without gaps in the rows that the model reads.
        horizon: Steps wanted, from 1.
        levels: Nominal coverages of the intervals, each between 0 and 1.
        adapt_rows: Latest origins of the history by whose outcomes the intervals adapt.
        notices: What checking the history found.
    """

    history: RawFrame
    horizon: int
    levels: tuple[float, ...]
    adapt_rows: int
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The answer to a query.

    Attributes:
        series: Station, as it was named.
        origin: datetime64[ns] of the last row of the history.
        time: ``(horizon,)`` datetime64[ns]; the first is one step after the origin.
        values: ``(horizon, n_targets)`` in ``unit``.
        lower: ``(n_levels, horizon, n_targets)``; NaN where there is no interval.
        upper: As ``lower``.
        levels: Nominal coverage of each interval.
        direct_steps: Steps that the model was trained for; those after them are recursive.
        targets: Names of the columns of ``values``.
        unit: Their unit.
        step_s: Seconds between steps.
        notices: What the reader should know.
    """

    series: str
    origin: np.datetime64
    time: TimeArray
    values: FloatArray
    lower: FloatArray
    upper: FloatArray
    levels: tuple[float, ...]
    direct_steps: int
    targets: tuple[str, ...]
    unit: str
    step_s: float
    notices: tuple[Notice, ...] = ()
