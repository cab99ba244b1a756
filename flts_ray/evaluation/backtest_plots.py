"""The picture of a rolling-origin backtest: how each model does from window to window."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flts_ray.evaluation.backtest_table import BacktestResult
from flts_ray.evaluation.leaderboard import PERSISTENCE
from flts_ray.evaluation.plot_style import BASELINES, INK, WIDE, figure, legend, model_colour, plain_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def backtest_figure(result: BacktestResult) -> Figure:
    """Error and skill by window, one line a model; all series together.

    A baseline that is worse than repeating the last value is not drawn: it would flatten what matters.
    """
    from matplotlib.ticker import PercentFormatter

    drawn = [model for model in reversed(result.models) if model == PERSISTENCE or _useful(result, model)]
    with figure(WIDE, 3.0, columns=2) as (fig, (error, gain)):
        for model in drawn:
            _line(error, result, model, "rmse_scaled")
            if model != PERSISTENCE:
                _line(gain, result, model, "skill_vs_persistence")
        gain.axhline(0, color=INK, linewidth=1.0)
        gain.yaxis.set_major_formatter(PercentFormatter(xmax=1.0))
        for ax, label in ((error, "RMSE (scaled)"), (gain, "skill over repeating the last")):
            ax.set_ylabel(label)
            ax.set_xticks([w.number for w in result.windows], [_day(w.scored_from) for w in result.windows])
            ax.margins(x=0.08)
        error.set_ylim(bottom=0)
        legend(error, columns=3)
    return fig


def _useful(result: BacktestResult, model: str) -> bool:
    row = result.row(model)
    if row is None or row.role == "candidate":
        return True
    return row.skill_vs_persistence is not None and row.skill_vs_persistence >= 0


def _line(ax: Axes, result: BacktestResult, model: str, key: str) -> None:
    rows = [row for row in result.rows if (row.model, row.series) == (model, "*") and row.window]
    points = [(row.window, value) for row in rows if (value := getattr(row, key)) is not None]
    baseline = model in BASELINES
    ax.plot(
        [x for x, _ in points], [y for _, y in points], label=plain_label(model), color=model_colour(model),
        linewidth=1.3 if baseline else 1.9, linestyle=(0, (4, 2)) if baseline else "-", marker="o", markersize=4,
    )  # fmt: skip


def _day(time: str) -> str:
    return time[:16].replace("T", "\n")
