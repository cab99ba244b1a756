"""The parts that Prophet's forecasts are the sum of: trend, seasons, holidays, and the autoregression on the rest."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from flts_ray.data.frame import FloatArray, IntArray, SeriesFrame, TimeArray
from flts_ray.data.scaling import ColumnScaler
from flts_ray.explain.document import ProphetParts, Season
from flts_ray.models.prophet import ProphetForecaster, load_model

TREND_POINTS = 200
"""Times at which the trend is written down: it is a broken line."""

SEASON_POINTS = 168
"""Times at which one period of a season is written down."""

MONDAY = np.datetime64("2018-01-01T00:00:00", "ns")
"""Where the period that is written down begins: a Monday, and the first day of a year."""


def prophet_parts(
    model: ProphetForecaster, frame: SeriesFrame, origins: IntArray, targets: tuple[str, ...]
) -> tuple[ProphetParts, ...]:
    """Take the forecasts of one station apart.

    Args:
        model: Knows the station.
        frame: Its rows.
        origins: ``(m,)`` rows to forecast from, for the size of each part.
        targets: Names of the targets, in the model's order.
    """
    meta, arrays = model.state()
    fits = [
        (fit, w) for fit, w in zip(meta["fits"], arrays["coefficients"], strict=True) if fit["series"] == frame.series
    ]
    found = []
    for k, (fit, weights) in enumerate(fits):
        curve = load_model(json.dumps(fit["model"]))
        z = ColumnScaler.model_validate(fit["scaler"]).forward(frame.targets[:, k])
        span = frame.time[np.linspace(0, len(frame) - 1, min(len(frame), TREND_POINTS)).round().astype(np.int64)]
        found.append(
            ProphetParts(
                series=frame.series,
                target=targets[k],
                mode=curve.seasonality_mode,
                trend_time=tuple(np.datetime_as_string(span, unit="s").tolist()),
                trend=tuple(_terms(curve, span)["trend"].tolist()),
                seasons={name: _season(curve, name, season["period"]) for name, season in curve.seasonalities.items()},
                holidays=_holidays(curve, frame.time),
                autoregression={step: tuple(row[1:].tolist()) for step, row in enumerate(weights, start=1)},
                spread=_spread(curve, frame, z, origins, weights[0], model.step_s),
            )
        )
    return tuple(found)


def _terms(curve: Any, time: TimeArray) -> dict[str, FloatArray]:
    """Every column of Prophet's own prediction at increasing times, each ``(n,)``."""
    import pandas as pd

    made = curve.predict(pd.DataFrame({"ds": time}))
    return {name: made[name].to_numpy(dtype=np.float64) for name in made.columns if name != "ds"}


def _season(curve: Any, name: str, period_days: float) -> Season:
    days = np.linspace(0.0, period_days, SEASON_POINTS, endpoint=False)
    effect = _terms(curve, MONDAY + (days * 86_400e9).astype("timedelta64[ns]"))[name]
    return Season(period_days=period_days, days=tuple(days.tolist()), values=tuple(effect.tolist()))


def _holidays(curve: Any, time: TimeArray) -> dict[str, float]:
    """The strongest effect of each holiday that falls into these times."""
    if curve.train_holiday_names is None:
        return {}
    terms = _terms(curve, time)
    strongest = {name: float(max(terms[name], key=abs)) for name in curve.train_holiday_names if name in terms}
    return {name: effect for name, effect in strongest.items() if effect}


def _spread(
    curve: Any, frame: SeriesFrame, z: FloatArray, origins: IntArray, weights: FloatArray, step_s: float
) -> dict[str, float]:
    """Standard deviation of each part of the one-step forecasts; ``weights`` are ``(1 + lags,)``."""
    lags = len(weights) - 1
    first = int(origins.min()) - max(lags - 1, 0)
    known = slice(first, int(origins.max()) + 1)
    residual = z[known] - _terms(curve, frame.time[known])["yhat"]
    rest = residual[(origins - first)[:, None] - np.arange(lags)] @ weights[1:]
    terms = _terms(curve, frame.time[origins] + np.timedelta64(round(step_s * 1e9), "ns"))
    names = [*curve.seasonalities, *(["holidays"] if "holidays" in terms else [])]
    scale = terms["trend"] if curve.seasonality_mode == "multiplicative" else 1.0
    parts = {"trend": terms["trend"], **{name: terms[name] * scale for name in names}, "autoregression": rest}
    return {name: float(np.std(part)) for name, part in parts.items()}
