"""The plots of a run: how training went, how the forecast follows the data, and where it errs.

Every function takes plain arrays in physical units and returns a :class:`matplotlib.figure.Figure`; turn it into
text or bytes with :func:`~flts_ray.evaluation.plot_style.to_svg` and :func:`~flts_ray.evaluation.plot_style.to_png`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flts_ray.data.frame import FloatArray, TimeArray
from flts_ray.evaluation.plot_style import (
    ACTUAL,
    BASELINES,
    FORECAST,
    HALF,
    INK,
    MISS,
    MUTED,
    WIDE,
    UnitScale,
    envelope,
    figure,
    legend,
    model_colour,
    plain_label,
    to_png,
    to_svg,
    unit_scale,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Forecast", "LossCurve", "forecast_figure", "horizon_figure", "hourly_figure", "last_day", "loss_figure",
    "residual_figure", "to_png", "to_svg", "worst_day",
]  # fmt: skip

DAY = np.timedelta64(24, "h")
POINTS = 1600
"""Points of one line at most: more than the pixels of a plot, few enough for a small SVG."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossCurve:
    """The epochs of one candidate.

    Attributes:
        model: Name of the candidate.
        epoch: Epoch numbers, ``(e,)``.
        train_loss: Training loss in scaled units, ``(e,)``.
        val_rmse: Validation RMSE in scaled units, ``(e,)``; empty where there was no validation.
    """

    model: str
    epoch: Sequence[int]
    train_loss: Sequence[float]
    val_rmse: Sequence[float] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Forecasts of one station against what came, one value a test row.

    Attributes:
        time: ``(n,)`` datetime64, strictly increasing: the time each value is *for*.
        actual: ``(n,)`` as observed, NaN where missing.
        forecast: ``(n,)``.
        lower: ``(n,)`` lower end of the interval, or None without intervals.
        upper: ``(n,)`` upper end.
        unit: Unit of all values.
        step_s: Seconds between two rows.
    """

    time: TimeArray
    actual: FloatArray
    forecast: FloatArray
    lower: FloatArray | None = None
    upper: FloatArray | None = None
    unit: str = "bits"
    step_s: float

    def between(self, start: np.datetime64, stop: np.datetime64) -> Forecast:
        """The rows with ``start <= time < stop``."""
        rows = (self.time >= start) & (self.time < stop)
        return Forecast(
            time=self.time[rows],
            actual=self.actual[rows],
            forecast=self.forecast[rows],
            lower=None if self.lower is None else self.lower[rows],
            upper=None if self.upper is None else self.upper[rows],
            unit=self.unit,
            step_s=self.step_s,
        )


def last_day(data: Forecast) -> Forecast:
    """The last 24 hours."""
    if len(data.time) == 0:
        return data
    end = data.time[-1] + np.timedelta64(1, "ns")
    return data.between(end - DAY, end)


def worst_day(data: Forecast) -> tuple[np.datetime64, Forecast] | None:
    """The calendar day with the largest RMSE among days with at least half their rows, or None without such a day."""
    days = data.time.astype("datetime64[D]")
    error = (data.actual - data.forecast) ** 2
    least = 0.5 * 86_400 / data.step_s
    worst: tuple[float, np.datetime64] | None = None
    for day in np.unique(days):
        scored = error[(days == day) & np.isfinite(error)]
        if len(scored) >= least and (worst is None or scored.mean() > worst[0]):
            worst = (float(scored.mean()), day)
    if worst is None:
        return None
    start = worst[1].astype(data.time.dtype)
    return worst[1], data.between(start, start + DAY)


def _with_breaks(data: Forecast) -> Forecast:
    """Insert a NaN row into every gap, so that no line is drawn across it."""
    step = np.timedelta64(round(data.step_s * 1e9), "ns")
    gaps = np.flatnonzero(np.diff(data.time.astype("datetime64[ns]")) > 1.5 * step) + 1
    if len(gaps) == 0:
        return data

    def broken(values: FloatArray) -> FloatArray:
        return np.insert(values.astype(np.float64), gaps, np.nan)

    return Forecast(
        time=np.insert(data.time, gaps, data.time[gaps - 1] + step.astype(data.time.dtype.str.replace("M8", "m8"))),
        actual=broken(data.actual),
        forecast=broken(data.forecast),
        lower=None if data.lower is None else broken(data.lower),
        upper=None if data.upper is None else broken(data.upper),
        unit=data.unit,
        step_s=data.step_s,
    )


def forecast_figure(
    data: Forecast, *, label: str = "forecast", coverage: float | None = None, title: str = "", height: float = 2.9
) -> Figure:
    """Forecast and interval against what came; long series are thinned to their envelope.

    Args:
        data: The station's rows.
        label: Name of the forecasting model, for the legend.
        coverage: Nominal coverage of the interval, for the legend.
        title: Drawn above (only for pictures that stand alone).
        height: Inches.
    """
    scale = unit_scale(data.actual, data.unit, data.step_s)
    dense = len(data.time) > POINTS
    drawn = _with_breaks(data)
    with figure(WIDE, height) as (fig, (ax,)):
        if drawn.lower is not None and drawn.upper is not None:
            _band(ax, drawn, scale, f"{coverage:.0%} interval" if coverage is not None else "interval")
        width = 0.8 if dense else 1.2
        for values, name, colour, z in (
            (drawn.actual, "actual", ACTUAL, 3),
            (drawn.forecast, plain_label(label), FORECAST, 4),
        ):
            time, thinned = envelope(drawn.time, values, POINTS)
            alpha = 0.85 if values is drawn.forecast else 1.0
            ax.plot(time, thinned / scale.factor, label=name, color=colour, linewidth=width, alpha=alpha, zorder=z)
        if not dense:
            _misses(ax, drawn, scale)
        _time_axis(ax)
        ax.set_ylabel(scale.label)
        ax.set_ylim(bottom=min(0.0, float(np.nanmin(drawn.actual, initial=0.0)) / scale.factor))
        ax.margins(x=0.005)
        legend(ax)
        if title:
            ax.set_title(plain_label(title), loc="right", color=INK, fontsize=10)
    return fig


def _band(ax: Axes, data: Forecast, scale: UnitScale, label: str) -> None:
    if data.lower is None or data.upper is None:
        return
    bins = max(1, -(-len(data.time) // (POINTS // 2)))
    edges = np.arange(0, len(data.time), bins)
    # Per bin the outer hull: the band of a thinned plot is never drawn narrower than the interval was.
    lower = np.fmin.reduceat(data.lower, edges) / scale.factor
    upper = np.fmax.reduceat(data.upper, edges) / scale.factor
    ax.fill_between(data.time[edges], lower, upper, color=FORECAST, alpha=0.18, linewidth=0, label=label, zorder=2)


def _misses(ax: Axes, data: Forecast, scale: UnitScale) -> None:
    if data.lower is None or data.upper is None:
        return
    out = (data.actual < data.lower) | (data.actual > data.upper)
    if out.any():
        ax.plot(
            data.time[out], data.actual[out] / scale.factor, "o", markersize=2.8, color=MISS, markeredgewidth=0,
            label="outside the interval", zorder=5,
        )  # fmt: skip


def _time_axis(ax: Axes) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=4, maxticks=9)  # type: ignore[no-untyped-call]
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    ax.xaxis.get_offset_text().set_color(MUTED)


def loss_figure(curves: Sequence[LossCurve]) -> Figure:
    """Training loss and validation RMSE by epoch, one line a candidate; the best epoch is marked."""
    with figure(WIDE, 2.9, columns=2) as (fig, (train, validation)):
        for curve in curves:
            name, colour = plain_label(curve.model), model_colour(curve.model)
            style = {"color": colour, "linewidth": 1.6, "marker": "o", "markersize": 3}
            train.plot(curve.epoch, curve.train_loss, label=name, **style)  # type: ignore[arg-type]
            scores = np.asarray(curve.val_rmse, dtype=np.float64)
            if scores.size:
                validation.plot(curve.epoch, scores, label=name, **style)  # type: ignore[arg-type]
            if np.isfinite(scores).any():
                best = int(np.nanargmin(scores))
                validation.plot([curve.epoch[best]], [scores[best]], "o", markersize=8, mfc="none", color=colour)
        for ax, label in ((train, "train loss (scaled)"), (validation, "validation RMSE (scaled)")):
            ax.set_xlabel("epoch")
            ax.set_ylabel(label)
            _whole_numbers(ax)
            if ax.lines:
                legend(ax)
    return fig


def hourly_figure(
    errors: Mapping[str, FloatArray], *, unit: str, step_s: float, metric: str = "MAE", width: float = HALF
) -> Figure:
    """Error by hour of day, one line a model.

    Args:
        errors: Model name to ``(24,)`` errors in ``unit``, NaN for an hour without rows.
        unit: Unit of the errors.
        step_s: Seconds that one value covers.
        metric: Name of the error, for the axis.
        width: Inches.
    """
    scale = unit_scale(np.concatenate([np.zeros(1), *errors.values()]), unit, step_s)
    with figure(width, 3.0) as (fig, (ax,)):
        for name, values in errors.items():
            _model_line(ax, np.arange(24), values / scale.factor, name)
        ax.set_xticks(range(0, 24, 3))
        ax.set_xlim(-0.3, 23.3)
        ax.set_xlabel("hour of day")
        ax.set_ylabel(f"{metric}, {scale.label}")
        ax.set_ylim(bottom=0)
        legend(ax, columns=3)
    return fig


def horizon_figure(rmse: Mapping[str, FloatArray], *, unit: str, step_s: float, width: float = HALF) -> Figure:
    """RMSE at each step ahead, one line a model.

    Args:
        rmse: Model name to ``(horizon,)`` RMSE in ``unit`` at steps 1..horizon.
        unit: Unit of the errors.
        step_s: Seconds of one step.
        width: Inches.
    """
    scale = unit_scale(np.concatenate([np.zeros(1), *rmse.values()]), unit, step_s)
    with figure(width, 3.0) as (fig, (ax,)):
        for name, values in rmse.items():
            _model_line(ax, np.arange(1, len(values) + 1), values / scale.factor, name)
        ax.set_xlabel("steps ahead")
        ax.set_ylabel(f"RMSE, {scale.label}")
        ax.set_ylim(bottom=0)
        _whole_numbers(ax)
        legend(ax, columns=3)
    return fig


def _whole_numbers(ax: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _model_line(ax: Axes, x: np.ndarray[tuple[int, ...], np.dtype[np.int64]], y: FloatArray, name: str) -> None:
    baseline = name in BASELINES
    ax.plot(
        x, y, label=plain_label(name), color=model_colour(name), linewidth=1.3 if baseline else 1.9,
        linestyle=(0, (4, 2)) if baseline else "-", marker="o" if len(y) <= 2 else "", markersize=4,
    )  # fmt: skip


def residual_figure(data: Forecast, *, width: float = HALF) -> Figure:
    """How the errors (actual minus forecast) are spread; the outer half percent on either side is not shown."""
    residual = data.actual - data.forecast
    residual = residual[np.isfinite(residual)]
    scale = unit_scale(residual, data.unit, data.step_s)
    with figure(width, 3.0 if width <= HALF else 2.4) as (fig, (ax,)):
        if residual.size:
            low, high = np.percentile(residual, [0.5, 99.5]) / scale.factor
            room = 1e-6 * max(abs(low), abs(high), 1.0)  # errors that are all alike still need bins of some width
            low, high = low - room, high + room
            ax.hist(residual / scale.factor, bins=60, range=(low, high), color=FORECAST, alpha=0.75)
            median = float(np.median(residual))
            ax.axvline(0, color=INK, linewidth=1.0, label="no error")
            ax.axvline(
                median / scale.factor, color=MISS, linewidth=1.2, linestyle="--", label=f"median {scale.text(median)}"
            )
            legend(ax)
        ax.set_xlabel(f"actual minus forecast, {scale.label}")
        ax.set_ylabel("rows")
    return fig
