"""A rolling-origin backtest for people and trackers: tables, a section of the report, metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flts_ray.evaluation.backtest_table import BacktestResult
from flts_ray.evaluation.plot_style import UnitScale, duration, unit_scale
from flts_ray.evaluation.report_sections import Cell, Picture, ReportSection, Table, Written

if TYPE_CHECKING:
    import rich.table

MAX_SERIES = 12
"""Series that are listed: those on which the best candidate gains least."""

METRICS = ("rmse_scaled", "mae_scaled", "rmse_bits", "mae_bits", "composite", "skill_vs_persistence")


def backtest_section(result: BacktestResult) -> ReportSection:
    """The section of the report, picture included."""
    from flts_ray.evaluation.backtest_plots import backtest_figure

    return ReportSection(
        title="Backtest",
        text=result.description,
        figures=(Picture.of("Error and skill by window", backtest_figure(result)),),
        tables=backtest_tables(result),
        notes=backtest_notes(result),
    )


def backtest_metrics(result: BacktestResult, model: str) -> dict[str, float]:
    """What a tracker keeps of one model: ``backtest_*`` over all windows, and its skill in the worst of them."""
    row = result.row(model)
    if row is None:
        return {}
    found = {f"backtest_{name}": float(value) for name in METRICS if (value := getattr(row, name)) is not None}
    skills = _skills(result, model)
    known = [skill for skill in skills if skill is not None]
    if len(known) == len(skills):
        found["backtest_worst_skill"] = min(known)
    return found


def backtest_tables(result: BacktestResult) -> tuple[Table, ...]:
    """Models by window and, where several series took part, series by model."""
    return (_models(result), _series(result)) if len(result.series) > 1 else (_models(result),)


def backtest_notes(result: BacktestResult) -> tuple[str, ...]:
    """What each window is, and what is missing from the tables."""
    windows = (
        f"{w.number}: {_minute(w.scored_from)} to {_minute(w.scored_to)}, after {w.learn_rows:,} rows"
        for w in result.windows
    )
    failed = (
        f"{row.model} has no score{f' in window {row.window}' if row.window else ''}: {row.note}"
        for row in result.rows
        if row.note and row.series == "*" and (row.window or len(result.windows) == 1)
    )
    out = (f"{series} was left out: {reason}" for series, reason in result.left_out.items())
    return (f"Windows: {'; '.join(windows)}.", *(f"{note.rstrip('.')}." for note in (*failed, *out)))


def terminal_tables(result: BacktestResult) -> tuple[rich.table.Table, ...]:
    """The same tables for a terminal."""
    from rich import box
    from rich.table import Table as Drawn
    from rich.text import Text

    from flts_ray.evaluation.report_sections import cell_text

    drawn = []
    for table in backtest_tables(result):
        lines = Drawn(title=Text(table.title), title_justify="left", box=box.SIMPLE)
        for column, head in enumerate(table.head):
            lines.add_column(Text(head), justify="left" if table.left(column) else "right")
        for number, row in enumerate(table.rows):
            lines.add_row(*(Text(cell_text(cell)) for cell in row), style="bold" if number in table.best else None)
        drawn.append(lines)
    return tuple(drawn)


def _models(result: BacktestResult) -> Table:
    rows = [row for model in result.models if (row := result.row(model)) is not None]
    scale = unit_scale(np.array([row.rmse_bits or 0.0 for row in rows]), result.target_unit, 0.0)
    lines = [
        (
            row.model,
            _number(row.rmse_scaled),
            _number(row.mae_scaled),
            _bits(row.rmse_bits, scale),
            _bits(row.mae_bits, scale),
            _share(row.skill_vs_persistence),
            *(_share(skill) for skill in _skills(result, row.model)),
            None if row.fit_s is None else Written(row.fit_s, duration(row.fit_s)),
        )
        for row in rows
    ]
    head = ("model", "RMSE scaled", "MAE scaled", f"RMSE {scale.label}", f"MAE {scale.label}", "skill")
    best = next((i for i, row in enumerate(rows) if row.role == "candidate" and row.composite is not None), None)
    return Table(
        title=f"{len(result.windows)} window(s), {max(row.n for row in rows):,} forecasts of each model",
        head=(*head, *(f"skill in {window.number}" for window in result.windows), "fit"),
        rows=tuple(lines),
        best=frozenset() if best is None else frozenset({best}),
    )


def _series(result: BacktestResult) -> Table:
    """Skill of every candidate over all windows, by series."""
    candidates = [m for m in result.models if (row := result.row(m)) is not None and row.role == "candidate"]
    models = candidates or list(result.models)
    skills = {
        series: [None if (row := result.row(m, series=series)) is None else row.skill_vs_persistence for m in models]
        for series in result.series
    }
    worst = sorted(skills, key=lambda series: (skills[series][0] is not None, skills[series][0] or 0.0))[:MAX_SERIES]
    shown = f"{len(worst)} of {len(skills)} stations" if len(worst) < len(skills) else "every station"
    return Table(
        title=f"skill over all windows, {shown}, least first",
        head=("station", *models),
        rows=tuple((series, *map(_share, skills[series])) for series in worst),
    )


def _skills(result: BacktestResult, model: str) -> list[float | None]:
    """Skill in each window."""
    rows = [result.row(model, window=window.number) for window in result.windows]
    return [None if row is None else row.skill_vs_persistence for row in rows]


def _number(value: float | None) -> Cell:
    return None if value is None else Written(value, f"{value:.5f}")


def _bits(value: float | None, scale: UnitScale) -> Cell:
    return None if value is None else Written(value, f"{value / scale.factor:,.2f}")


def _share(value: float | None) -> Cell:
    return None if value is None else Written(value, f"{value:+.1%}")


def _minute(time: str) -> str:
    return time[:16].replace("T", " ")
