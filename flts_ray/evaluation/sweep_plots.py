"""What a sweep looked like: every trial as a line across its settings, and every trial's learning curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flts_ray.evaluation.plot_style import BLANK, INK, MUTED, WIDE, figure, legend, model_colour, number, plain_label
from flts_ray.evaluation.report_sections import Cell, Picture, ReportSection, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 15
"""Trials in the table, best first; all are in ``sweep.json``."""

WINNER = "#f07d1a"
SCORE = "validation composite"
Trial = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Scale:
    """One axis of the parallel coordinates: where a value lies between bottom (0) and top (1), and its ticks."""

    name: str
    ticks: tuple[tuple[float, str], ...]
    places: tuple[float, ...]


def sweep_section(document: Mapping[str, Any]) -> ReportSection:
    """The section of a run's report.

    Args:
        document: What ``SweepResult.document`` returned.
    """
    trials: Sequence[Trial] = document["trials"]
    states = [trial["state"] for trial in trials]
    best = next(trial for trial in trials if trial["number"] == document["best"])
    names = list(best["params"])
    rows: list[tuple[Cell, ...]] = [
        (
            trial["number"],
            *(_shown(trial["params"].get(name)) for name in names),
            trial["epochs"],
            trial["val_composite"],
            trial["state"],
        )
        for trial in trials[:SHOWN]
    ]
    failed = [f"Trial {trial['number']} failed: {trial['reason']}" for trial in trials if trial["state"] == "failed"]
    more = [f"{len(trials) - SHOWN} more trials stand in sweep.json."] if len(trials) > SHOWN else []
    return ReportSection(
        title="Sweep",
        text=(
            f"{len(trials)} trials, {states.count('stopped')} of them stopped early. They were compared on the "
            "validation rows, the last of the train rows; the test rows played no part. The winner, trial "
            f"{best['number']}, was trained once more on all train rows and competes as 'tuned'."
        ),
        figures=(
            Picture.of("Settings of each trial and its score", parallel_figure(document)),
            Picture.of("Learning curves of the trials", curves_figure(document)),
        ),
        tables=(
            Table(
                head=("trial", *names, "epochs", SCORE, "state"),
                rows=tuple(rows),
                title="Best trials",
                best=frozenset(i for i, trial in enumerate(trials[:SHOWN]) if trial["number"] == best["number"]),
            ),
        ),
        notes=(*failed, *more),
    )


def parallel_figure(document: Mapping[str, Any]) -> Figure:
    """Parallel coordinates: one line a trial through its settings to its score; better trials are drawn darker.

    Args:
        document: What ``SweepResult.document`` returned.
    """
    trials = [trial for trial in document["trials"] if trial["val_composite"] is not None][::-1]
    scales = [_scale(name, [trial["params"][name] for trial in trials], document) for name in trials[-1]["params"]]
    scores = [trial["val_composite"] for trial in trials]
    scales.append(_numbers(SCORE, scores, log=True))
    with figure(WIDE, 3.4) as (fig, (ax,)):
        ax.grid(visible=False)
        for rank, trial in enumerate(trials):
            winner = trial["number"] == document["best"]
            y = [scale.places[rank] for scale in scales]
            ax.plot(
                range(len(scales)),
                y,
                color=WINNER if winner else model_colour(trial["params"]["cell"]),
                linewidth=2.4 if winner else 1.1,
                alpha=1.0 if winner else 0.15 + 0.6 * (rank + 1) / len(trials),
                zorder=4 if winner else 3,
                label=f"trial {trial['number']} (best)" if winner else None,
            )
        for x, scale in enumerate(scales):
            _axis(ax, x, scale)
        ax.set_xticks(range(len(scales)), [plain_label(scale.name) for scale in scales])
        ax.set_yticks([])
        ax.set_xlim(-0.25, len(scales) - 0.45)
        ax.set_ylim(-0.06, 1.06)
        ax.spines["bottom"].set_visible(False)
        legend(ax)
    return fig


def curves_figure(document: Mapping[str, Any]) -> Figure:
    """Validation composite by epoch, one line a trial; those that were stopped end in a cross.

    Args:
        document: What ``SweepResult.document`` returned.
    """
    from matplotlib.ticker import MaxNLocator

    cells: set[str] = set()
    with figure(WIDE, 3.0) as (fig, (ax,)):
        for trial in document["trials"]:
            if not trial["history"]:
                continue
            winner, cell = trial["number"] == document["best"], str(trial["params"]["cell"])
            epochs = [metrics["epoch"] for metrics in trial["history"]]
            values = [metrics["val_composite"] for metrics in trial["history"]]
            colour = WINNER if winner else model_colour(cell)
            label = f"trial {trial['number']} (best)" if winner else cell if cell not in cells else None
            cells |= set() if winner else {cell}
            ax.plot(
                epochs, values, color=colour, label=label, linewidth=2.2 if winner else 1.1,
                alpha=1.0 if winner else 0.55, zorder=4 if winner else 3,
            )  # fmt: skip
            if trial["state"] == "stopped":
                ax.plot(epochs[-1:], values[-1:], "x", color=colour, markersize=5, zorder=4)
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(lambda value, position: number(value))
        ax.yaxis.set_minor_formatter(lambda value, position: "")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("epoch")
        ax.set_ylabel(f"{SCORE} (scaled)")
        if ax.lines:
            legend(ax)
    return fig


def _axis(ax: Axes, x: int, scale: _Scale) -> None:
    ax.axvline(x, color=MUTED, linewidth=0.8, zorder=2)
    for place, text in scale.ticks:
        ax.plot([x - 0.015, x + 0.015], [place, place], color=MUTED, linewidth=0.8, zorder=2)
        ax.annotate(
            text, (x, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8, color=INK, zorder=5
        )


def _scale(name: str, values: Sequence[Any], document: Mapping[str, Any]) -> _Scale:
    tried = document["space"].get(name, {})
    if tried.get("low") is not None:
        return _numbers(name, values, log=bool(tried.get("log")))
    choices = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    step = 1 / max(1, len(choices) - 1)
    places = {choice: 0.5 if len(choices) == 1 else i * step for i, choice in enumerate(choices)}
    return _Scale(name, tuple((places[c], _shown(c)) for c in choices), tuple(places[value] for value in values))


def _numbers(name: str, values: Sequence[float], *, log: bool) -> _Scale:
    x = np.asarray(values, dtype=np.float64)
    log = log and bool((x > 0).all())
    z = np.log(x) if log else x
    low, high = float(z.min()), float(z.max())
    span = high - low or 1.0
    marks = [low, (low + high) / 2, high] if high > low else [low]
    ticks = tuple(((mark - low) / span, number(float(np.exp(mark)) if log else mark)) for mark in marks)
    return _Scale(name, ticks, tuple(((z - low) / span).tolist()))


def _shown(value: Any) -> str:
    if value is None:
        return BLANK
    return number(value) if isinstance(value, float) else str(value)
