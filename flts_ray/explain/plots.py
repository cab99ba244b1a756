"""The pictures of an explanation, in the style of :mod:`flts_ray.evaluation.plots`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from flts_ray.evaluation.plot_style import (
    BASELINES,
    HALF,
    INK,
    MUTED,
    WIDE,
    UnitScale,
    figure,
    legend,
    model_colour,
    plain_label,
)
from flts_ray.explain.document import Attribution, Importance, Increase, ProphetParts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_NAMES = 24
"""Names on one axis at most: the first, or those with the largest numbers."""

_ROW = 0.24
"""Height of a name on an axis, in inches."""

_LINES = ("prophet", "lstm", "gru", "moving_average", "ridge", "seasonal_naive")
"""Whose colours the lines of several stations take, one after another."""


def feature_figure(found: Sequence[Importance], groups: Sequence[str], scale: UnitScale) -> Figure:
    """Growth of the RMSE by feature group, a dot a model, the first group on top.

    The thick line spans the repeats, the thin one two standard errors over the windows on either side.
    """
    names = groups[:MAX_NAMES]
    with figure(WIDE, 1.0 + _ROW * len(names)) as (fig, (ax,)):
        for i, one in enumerate(found):
            places = [k for k, name in enumerate(names) if name in one.by_feature]
            beside = np.array(places) + 0.16 * (i - (len(found) - 1) / 2)
            _dots(ax, one.model, beside, [one.by_feature[names[k]] for k in places], scale)
        _named_rows(ax, names)
        ax.axvline(0, color=MUTED, linewidth=0.8)
        ax.set_xlabel(f"growth of the RMSE, {scale.label}")
        legend(ax)
    return fig


def lag_figure(found: Sequence[Importance], scale: UnitScale) -> Figure:
    """Growth of the RMSE by age of the shuffled row, a line a model, a band over its repeats."""
    with figure(WIDE, 2.7) as (fig, (ax,)):
        for one in found:
            age, colour = np.arange(len(one.by_lag)), model_colour(one.model)
            mean, low, high = (
                np.array([getattr(grown, name) for grown in one.by_lag]) / scale.factor
                for name in ("bits", "low_bits", "high_bits")
            )
            ax.fill_between(age, low, high, color=colour, alpha=0.18, linewidth=0)
            ax.plot(
                age, mean, label=plain_label(one.model), color=colour, linewidth=1.6, marker="o", markersize=3,
                linestyle=(0, (4, 2)) if one.model in BASELINES else "-",
            )  # fmt: skip
        ax.axhline(0, color=MUTED, linewidth=0.8)
        _whole_numbers(ax)
        ax.set_xlabel("age of the row (0: the one that is forecast from)")
        ax.set_ylabel(f"growth of the RMSE,\n{scale.label}")
        legend(ax)
    return fig


def attribution_figure(found: Attribution) -> Figure:
    """Mean absolute attribution of every feature in every row; the darker, the larger."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    size = np.array(found.size).T
    largest = np.argsort(-size.sum(axis=1), kind="stable")[:MAX_NAMES]
    colour = to_rgb(model_colour(found.model))
    shades = LinearSegmentedColormap.from_list("shades", [(*colour, 0.0), (*colour, 1.0)])
    with figure(HALF, 1.0 + 0.18 * len(largest)) as (fig, (ax,)):
        ax.grid(visible=False)
        ax.pcolormesh(size[largest], cmap=shades, vmin=0.0, vmax=float(size.max()) or 1.0)
        _named_rows(ax, [found.features[i] for i in largest], first=0.5)
        ages = np.arange(0, size.shape[1], max(1, size.shape[1] // 10))
        ax.set_xticks(ages + 0.5, [str(age) for age in ages])
        ax.set_xlabel("age of the row")
        ax.set_title(f"darkest: {size.max():.2g} scaled units", loc="right", color=MUTED, fontsize=8.5)
    return fig


def trend_figure(found: Sequence[ProphetParts]) -> Figure:
    """Trend of each station and target."""
    with figure(HALF, 2.6) as (fig, (ax,)):
        for i, parts in enumerate(found):
            _line(ax, i, parts, np.array(parts.trend_time, dtype="datetime64[s]"), parts.trend)
        _time_axis(ax)
        ax.set_ylabel("scaled units")
        legend(ax, columns=2)
    return fig


def season_figure(found: Sequence[ProphetParts], name: str) -> Figure:
    """One season of each station and target over one period."""
    with figure(HALF, 2.6) as (fig, (ax,)):
        for i, parts in enumerate(found):
            if name in parts.seasons:
                season = parts.seasons[name]
                _line(ax, i, parts, np.array(season.days), season.values)
        ax.axhline(0, color=MUTED, linewidth=0.8)
        period = max(parts.seasons[name].period_days for parts in found if name in parts.seasons)
        _season_axis(ax, period)
        ax.set_ylabel(_effect(found))
        legend(ax, columns=2)
    return fig


def holiday_figure(found: Sequence[ProphetParts]) -> Figure:
    """The strongest effect of each holiday, a dot a station and target."""
    size = {name: abs(effect) for parts in found for name, effect in parts.holidays.items()}
    names = sorted(size, key=lambda name: size[name], reverse=True)[:MAX_NAMES]
    with figure(HALF, 1.0 + _ROW * len(names)) as (fig, (ax,)):
        for i, parts in enumerate(found):
            own = [(k, parts.holidays[name]) for k, name in enumerate(names) if name in parts.holidays]
            ax.plot([x for _, x in own], [k for k, _ in own], "o", markersize=5, color=_colour(i), label=_title(parts))
        _named_rows(ax, names)
        ax.axvline(0, color=MUTED, linewidth=0.8)
        ax.set_xlabel(_effect(found))
        legend(ax, columns=2)
    return fig


def autoregression_figure(found: Sequence[ProphetParts]) -> Figure:
    """Weight of each earlier error of the curve in the forecast one step ahead."""
    with figure(HALF, 2.6) as (fig, (ax,)):
        for i, parts in enumerate(found):
            weights = parts.autoregression[1]
            _line(ax, i, parts, np.arange(len(weights)), weights, marker="o")
        ax.axhline(0, color=MUTED, linewidth=0.8)
        _whole_numbers(ax)
        ax.set_xlabel("age of the row (0: the one that is forecast from)")
        ax.set_ylabel("weight")
        legend(ax, columns=2)
    return fig


def _dots(
    ax: Axes, model: str, places: np.ndarray[tuple[int, ...], np.dtype[np.float64]], grown: Sequence[Increase],
    scale: UnitScale,
) -> None:  # fmt: skip
    colour, hollow = model_colour(model), model in BASELINES
    low, mean, high, error = (
        np.array([getattr(one, name) for one in grown]) / scale.factor
        for name in ("low_bits", "bits", "high_bits", "error_bits")
    )
    ax.hlines(places, mean - 2 * error, mean + 2 * error, color=colour, linewidth=0.8)
    ax.hlines(places, low, high, color=colour, linewidth=2.2, alpha=0.5)
    ax.plot(mean, places, "o", markersize=5, color=colour, mfc="none" if hollow else colour, label=plain_label(model))


def _named_rows(ax: Axes, names: Sequence[str], *, first: float = 0.0) -> None:
    ax.set_yticks(np.arange(len(names)) + first, [plain_label(name) for name in names], fontsize=8.5)
    ax.set_ylim(len(names) - 0.5 + first, first - 0.5)


def _line(
    ax: Axes, i: int, parts: ProphetParts, x: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
    values: Sequence[float], marker: str = "",
) -> None:  # fmt: skip
    ax.plot(x, values, label=_title(parts), color=_colour(i), linewidth=1.6, marker=marker, markersize=3.5)


def _colour(i: int) -> str:
    return model_colour(_LINES[i % len(_LINES)])


def _title(parts: ProphetParts) -> str:
    return plain_label(f"{parts.series}, {parts.target}")


def _effect(found: Sequence[ProphetParts]) -> str:
    return "share of the trend" if found[0].mode == "multiplicative" else "scaled units"


def _season_axis(ax: Axes, period_days: float) -> None:
    if period_days == 1:
        ax.set_xticks(np.arange(0, 25, 4) / 24, [str(hour) for hour in range(0, 25, 4)])
        ax.set_xlabel("hour of day")
    elif period_days == 7:
        ax.set_xticks(np.arange(7) + 0.5, ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"])
        ax.tick_params(axis="x", length=0)
    else:
        ax.set_xlabel("day of the period")
    ax.set_xlim(0, period_days)


def _time_axis(ax: Axes) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=3, maxticks=6)  # type: ignore[no-untyped-call]
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    ax.xaxis.get_offset_text().set_color(INK)


def _whole_numbers(ax: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
