"""What an explanation says, as it is stored in ``explanations.json``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flts_ray.config_base import Section


class Increase(Section):
    """How much the error grows when something is shuffled between windows.

    Attributes:
        bits: Growth of the RMSE in the target's unit, mean over the repeats; below zero where shuffling helped.
        low_bits: Least growth of any repeat.
        high_bits: Largest growth of any repeat.
        error_bits: Standard error of ``bits`` over the windows, taken as independent: other test windows would give
            another number. Growth below twice this is not to be told from none.
        share: ``bits`` over the RMSE of the forecasts as they are.
    """

    bits: float
    low_bits: float
    high_bits: float
    error_bits: float
    share: float


class Importance(Section):
    """What one model's forecasts rest on (Breiman, 2001; Fisher, Rudin & Dominici, 2019).

    Attributes:
        model: Its name on the leaderboard.
        windows: Windows looked at.
        rmse_bits: RMSE of its forecasts on these windows, all steps and targets pooled, in the target's unit.
        last_value: Shuffled: the last known value of the targets, which a change is added to.
        by_lag: Shuffled: all columns of one row of the history, in order of its age; the first is the row that is
            forecast from.
        by_feature: Shuffled: the columns of one group in all rows of the history.
        by_series: The same by station, ``share`` of its own RMSE; of one station empty.
    """

    model: str
    windows: int
    rmse_bits: float
    last_value: Increase
    by_lag: tuple[Increase, ...]
    by_feature: dict[str, Increase]
    by_series: dict[str, dict[str, float]]


class Attribution(Section):
    """Integrated gradients of one network and target (Sundararajan, Taly & Yan, 2017).

    Attributes:
        model: Its name on the leaderboard.
        target: Column that is forecast, mean over the steps, in scaled units.
        features: Feature columns.
        size: ``(lookback, n_features)`` mean absolute attribution; the first row is the one that is forecast from.
        output: Mean absolute difference between the network's output for a window and for the baseline.
        completeness_error: Largest difference of a window between that and the sum of its attributions, as a share of
            ``output``: how far the sum over ``steps`` points is from the integral.
    """

    model: str
    target: str
    features: tuple[str, ...]
    size: tuple[tuple[float, ...], ...]
    output: float
    completeness_error: float


class Season(Section):
    """One season of Prophet over one period.

    Attributes:
        period_days: Its length.
        days: Time since the start of the period (a week starts on Monday, 0 h), in days.
        values: The effect: in scaled units, or as a share of the trend where the mode is multiplicative.
    """

    period_days: float
    days: tuple[float, ...]
    values: tuple[float, ...]


class ProphetParts(Section):
    """What Prophet's forecast of one target is the sum of.

    Attributes:
        series: Station.
        target: Column that is forecast.
        mode: Whether seasons and holidays are added to the trend or multiply it.
        trend_time: Times, ISO 8601, from the first to the last row of the station.
        trend: The trend then, in scaled units.
        seasons: By name.
        holidays: Strongest effect of each holiday between the first and the last row, as of the seasons.
        autoregression: By steps ahead, the weights of what the curve left over, latest first.
        spread: Standard deviation of each part of the one-step forecasts of the windows looked at, in scaled units.
    """

    series: str
    target: str
    mode: Literal["additive", "multiplicative"]
    trend_time: tuple[str, ...]
    trend: tuple[float, ...]
    seasons: dict[str, Season]
    holidays: dict[str, float]
    autoregression: dict[int, tuple[float, ...]]
    spread: dict[str, float]


class Explanations(Section):
    """Everything that was found, and from what.

    Attributes:
        dataset_id: The data.
        unit: Unit of what is named ``*_bits``.
        step_s: Seconds between rows.
        windows: By station, test windows looked at.
        stations: Stations of the dataset.
        repeats: Shuffles of each feature group and row.
        steps: Points on the path of the integrated gradients.
        seed: Of the shuffles.
        importances: One a model that reads windows, ridge among them.
        attributions: One a network and target.
        prophet: One a station and target; of many stations the first.
        failures: By model, why it could not be explained.
    """

    dataset_id: str
    unit: str
    step_s: float
    windows: dict[str, int]
    stations: int
    repeats: int
    steps: int
    seed: int
    importances: tuple[Importance, ...] = ()
    attributions: tuple[Attribution, ...] = ()
    prophet: tuple[ProphetParts, ...] = ()
    failures: dict[str, str] = Field(default_factory=dict)
