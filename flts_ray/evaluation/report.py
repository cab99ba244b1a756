"""One HTML file a run: the verdict first, then the evidence. It loads nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from flts_ray.data.frame import FloatArray
from flts_ray.evaluation.plot_style import BLANK, HALF, WIDE, UnitScale, duration, to_svg, unit_scale
from flts_ray.evaluation.plots import (
    forecast_figure,
    horizon_figure,
    hourly_figure,
    last_day,
    loss_figure,
    residual_figure,
    worst_day,
)
from flts_ray.evaluation.report_data import ReportData, ScoreRow, SeriesForecast
from flts_ray.evaluation.report_sections import cell_order, cell_text

MAX_SERIES = 6
"""Stations whose forecasts are drawn: those with the largest error relative to their load."""

_SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    const key = row => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)], [p, q] = [parseFloat(x), parseFloat(y)];
      if (x === "" || y === "") return (x === "") - (y === "");
      return (isNaN(p) || isNaN(q) ? x.localeCompare(y) : p - q) * (down ? -1 : 1);
    };
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
  }));
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """One column of the leaderboard: which score, how it is written, and what it means."""

    key: str
    label: str
    hint: str
    kind: str = "plain"  # plain | fine | bits | share | p | seconds


_COLUMNS = (
    _Column(key="rmse_bits", label="RMSE", hint="Root mean squared error. Lower is better.", kind="bits"),
    _Column(key="mae_bits", label="MAE", hint="Mean absolute error. Lower is better.", kind="bits"),
    _Column(
        key="skill_vs_persistence", label="Skill", kind="share",
        hint="How much lower the RMSE is than that of repeating the last value. Higher is better; below 0 is useless.",
    ),
    _Column(key="mase", label="MASE", hint="MAE over the one-step naive MAE of the training rows. Lower is better."),
    _Column(key="r2", label="R²", hint="Share of the variance explained. Higher is better."),
    _Column(key="composite", label="Composite", hint="What ranks: 0.5 RMSE + 0.3 MAE + 0.2 MSE, scaled.", kind="fine"),
    _Column(key="coverage_90", label="Coverage", hint="Share of outcomes inside the interval.", kind="share"),
    _Column(key="interval_width_bits", label="Width", hint="Mean width of the interval.", kind="bits"),
    _Column(
        key="dm_p_vs_persistence", label="p", kind="p",
        hint="Diebold-Mariano test against persistence: small means that the difference is not chance.",
    ),
    _Column(key="fit_s", label="Fit", hint="Time to fit.", kind="seconds"),
)  # fmt: skip


class _Tile(NamedTuple):
    """One of the large numbers; ``tone`` is good, bad or nothing."""

    label: str
    value: str
    note: str
    tone: str = ""


def render_report(data: ReportData) -> str:
    """The report as one HTML document, without any reference to the network.

    Names and texts come from the data and are escaped; the only script is the table sorter, pinned by its hash in the
    page's content security policy.
    """
    environment = Environment(
        loader=PackageLoader("flts_ray.evaluation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(duration=duration, cell_text=cell_text, cell_order=cell_order, inline=_svg)
    winner = next((row for row in data.leaderboard if row.model == data.winner), None)
    scale = unit_scale(np.array(_errors(data)), data.unit, data.step_s)
    columns = _used_columns(data)
    least = min((e for e in _errors(data) if e > 0), default=scale.factor)
    decimals = int(np.clip(3 - np.floor(np.log10(least / scale.factor)), 0, 6))  # four digits for the smallest error
    shown = _worst_first(data.forecasts)[:MAX_SERIES]
    return environment.get_template("report.html.j2").render(
        data=data,
        script=Markup(_SCRIPT),
        script_hash=base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode(),
        summary=_summary(data, winner, scale),
        tiles=_tiles(data, winner, scale),
        unit=scale.label,
        columns=columns,
        rows=[_cells(row, scale, decimals, columns) for row in data.leaderboard],
        series=[_series_plots(item, data.coverage) for item in shown],
        left_out=len(data.forecasts) - len(shown),
        error_plots=_error_plots(data),
        losses=_losses(data),
        total_s=sum(data.timings.values()),
        longest_s=max(data.timings.values(), default=0.0),
        changed=[row for row in data.config if row.origin != "default"],
    )


def _svg(text: str) -> Markup:
    return Markup(text)  # made by matplotlib, which escapes the text it draws


def _errors(data: ReportData) -> list[float]:
    """The finite RMSEs of the leaderboard."""
    errors = (row.scores.get("rmse_bits") for row in data.leaderboard)
    return [error for error in errors if error is not None and np.isfinite(error)]


def _summary(data: ReportData, winner: ScoreRow | None, scale: UnitScale) -> str:
    if winner is None:
        return "No candidate could be scored, so there is no forecast to judge."
    scores = winner.scores
    ahead = "one step" if data.horizon == 1 else f"up to {data.horizon} steps"
    parts = [f"{winner.model.upper()} forecasts {ahead} ({duration(data.horizon * data.step_s)}) ahead"]
    if (mae := scores.get("mae_bits")) is not None:
        parts.append(f"and is off by {scale.text(mae)} on average")
    text = " ".join(parts)
    if (skill := scores.get("skill_vs_persistence")) is not None:
        versus = "less" if skill >= 0 else "more"
        text += f", with {abs(skill):.1%} {versus} RMSE than repeating the last value"
    if (coverage := scores.get("coverage_90")) is not None:
        text += f"; {coverage:.1%} of the outcomes lay inside its {data.coverage:.0%} interval"
    return f"{text}."


def _tiles(data: ReportData, winner: ScoreRow | None, scale: UnitScale) -> list[_Tile]:
    """The few numbers an operator reads first."""
    if winner is None:
        return []
    get = winner.scores.get
    tiles = []
    if (rmse := get("rmse_bits")) is not None:
        tiles.append(_Tile("RMSE", scale.text(rmse), f"per {scale.every}"))
    if (skill := get("skill_vs_persistence")) is not None:
        tiles.append(_Tile("Skill", f"{skill:+.1%}", "over repeating the last", _tone(skill > 0)))
    ridge = next((row.scores.get("rmse_bits") for row in data.leaderboard if row.model == "ridge"), None)
    if rmse is not None and ridge:
        gain = 1 - rmse / ridge
        tiles.append(_Tile("Against ridge", f"{gain:+.1%}", "the strongest simple model", _tone(gain > 0)))
    if (coverage := get("coverage_90")) is not None:
        close = abs(coverage - data.coverage) <= 0.02
        tiles.append(_Tile("Coverage", f"{coverage:.1%}", f"wanted {data.coverage:.0%}", _tone(close)))
    if (width := get("interval_width_bits")) is not None:
        tiles.append(_Tile("Interval width", scale.text(width), "mean"))
    return tiles


def _tone(good: bool) -> str:
    return "good" if good else "bad"


def _used_columns(data: ReportData) -> list[_Column]:
    return [c for c in _COLUMNS if any(row.scores.get(c.key) is not None for row in data.leaderboard)]


def _cells(row: ScoreRow, scale: UnitScale, decimals: int, columns: list[_Column]) -> dict[str, object]:
    cells = []
    for column in columns:
        value = row.scores.get(column.key)
        cells.append(
            {
                "text": _written(value, column.kind, scale, decimals),
                "sort": "" if value is None else repr(float(value)),
                "bar": max(0.0, min(1.0, value / 0.3)) if column.key == "skill_vs_persistence" and value else 0.0,
                "low": column.key == "skill_vs_persistence" and value is not None and value < 0,
            }
        )
    return {"row": row, "cells": cells}


def _written(value: float | None, kind: str, scale: UnitScale, decimals: int) -> str:
    if value is None or not np.isfinite(value):
        return BLANK
    if kind == "bits":
        return f"{value / scale.factor:,.{decimals}f}"
    if kind == "share":
        return f"{value:.1%}"
    if kind == "p":
        return "< 0.001" if value < 0.001 else f"{value:.3f}"
    if kind == "seconds":
        return duration(value)
    return f"{value:.5f}" if kind == "fine" else f"{value:.3f}"


def _worst_first(forecasts: tuple[SeriesForecast, ...]) -> list[SeriesForecast]:
    def relative_error(item: SeriesForecast) -> float:
        error = np.abs(item.data.actual - item.data.forecast)
        if not np.isfinite(error).any():
            return 0.0
        return float(np.nanmean(error) / max(float(np.nanmean(np.abs(item.data.actual))), 1e-12))

    return sorted(forecasts, key=relative_error, reverse=True)


def _series_plots(item: SeriesForecast, coverage: float) -> dict[str, object]:
    data = item.data
    scale = unit_scale(data.actual, data.unit, data.step_s)
    views = [("The whole test", data), ("The last 24 hours", last_day(data))]
    if (worst := worst_day(data)) is not None:
        views.append((f"The worst day, {worst[0]}", worst[1]))
    plots = []
    for title, part in views:
        if len(part.time):
            drawn = forecast_figure(part, label=item.model, coverage=coverage)
            plots.append({"title": title, "svg": _svg(to_svg(drawn, f"{title}: {item.series}"))})
    residuals = to_svg(residual_figure(data, width=WIDE), f"Residuals: {item.series}")
    plots.append({"title": "Residuals", "svg": _svg(residuals)})
    return {"item": item, "plots": plots, "facts": _facts(item, scale)}


def _facts(item: SeriesForecast, scale: UnitScale) -> list[str]:
    names = {"rmse_bits": "RMSE", "mae_bits": "MAE"}
    facts = [f"{len(item.data.time):,} rows"]
    facts += [f"{names[key]} {scale.text(v)}" for key in names if (v := item.scores.get(key)) is not None]
    if (skill := item.scores.get("skill_vs_persistence")) is not None:
        facts.append(f"skill {skill:+.1%}")
    if (coverage := item.scores.get("coverage_90")) is not None:
        facts.append(f"coverage {coverage:.1%}")
    return facts


def _error_plots(data: ReportData) -> list[dict[str, object]]:
    """Error by hour and, beyond one step, by step; a lone plot takes the whole width."""
    curves = _arrays(data.horizon_rmse) if data.horizon > 1 else {}
    hours = _arrays(data.hourly_error)
    width = HALF if curves and hours else WIDE
    plots: list[dict[str, object]] = []
    if hours:
        drawn = hourly_figure(hours, unit=data.unit, step_s=data.step_s, width=width)
        title = "Mean absolute error by hour of day"
        plots.append({"title": title, "svg": _svg(to_svg(drawn, title))})
    if curves:
        drawn = horizon_figure(curves, unit=data.unit, step_s=data.step_s, width=width)
        plots.append({"title": "RMSE by steps ahead", "svg": _svg(to_svg(drawn, "RMSE by steps ahead"))})
    return plots


def _losses(data: ReportData) -> Markup | str:
    if not data.losses:
        return ""
    return _svg(to_svg(loss_figure(data.losses), "Training loss and validation RMSE by epoch"))


def _arrays(values: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    return {name: np.asarray(array, dtype=np.float64) for name, array in values.items()}
