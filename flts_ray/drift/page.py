"""The drift report as one HTML file, in the style of a run's report. It loads nothing from anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from flts_ray.drift.findings import ErrorDrift, InputDrift
from flts_ray.drift.report import DriftReport
from flts_ray.drift.residuals import QUANTILES, ResidualTest
from flts_ray.evaluation.plot_style import (
    ACTUAL,
    BLANK,
    FORECAST,
    HALF,
    MUTED,
    duration,
    figure,
    legend,
    number,
    plain_label,
    to_svg,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_PLOTS = 12
"""Columns, and steps, that are drawn: the worst ones."""

WORDS = {"ok": "as in training", "watch": "watch", "alarm": "drifted", "few": "too few rows"}
TONES = {"ok": "yes", "watch": "hit", "alarm": "no", "few": "zero"}
PILLS = {"ok": ("good", "no drift"), "few": ("calm", "too few rows"), "drift": ("warn", "drift")}


@dataclass(frozen=True, slots=True)
class _Plot:
    title: str
    svg: Markup


def render(report: DriftReport) -> str:
    """The report as one HTML document. Names come from requests and are escaped."""
    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader("flts_ray.drift", "templates"), PackageLoader("flts_ray.evaluation", "templates")]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(number=number, size=size_of, p_value=p_value)
    findings = report.findings
    tone, pill = PILLS[findings.verdict]
    return environment.get_template("drift.html.j2").render(
        report=report,
        findings=findings,
        tone=tone,
        pill=pill,
        words=WORDS,
        tones=TONES,
        blank=BLANK,
        step=duration(report.step_s),
        inputs=[_input_plot(column) for column in _worst_inputs(findings.inputs)],
        errors=[_error_plot(found) for found in _worst_errors(findings.errors)],
    )


def size_of(test: ResidualTest) -> str:
    """How large a difference is, as its test judges it."""
    if test.name == "bias":
        return f"{test.size:+.2f} std"
    if test.name == "spread":
        return f"x {test.size:.2f}"
    return f"{test.live:.1%} of {test.training:.0%}"


def p_value(value: float) -> str:
    """A p-value for people."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _worst_inputs(columns: tuple[InputDrift, ...]) -> list[InputDrift]:
    seen = [column for column in columns if column.worst.psi is not None]
    return sorted(seen, key=lambda column: (column.worst.state != "alarm", -(column.worst.psi or 0.0)))[:MAX_PLOTS]


def _worst_errors(errors: tuple[ErrorDrift, ...]) -> list[ErrorDrift]:
    tested = [found for found in errors if found.tests]
    return sorted(tested, key=lambda found: (not found.alarms, -(found.ks or 0.0)))[:MAX_PLOTS]


def _input_plot(column: InputDrift) -> _Plot:
    found = column.worst
    title = f"{found.series}: {found.column}, {WORDS[found.state]}"
    return _Plot(title, _svg(_shares_figure(column), f"Shares of rows by bin, {title}"))


def _error_plot(found: ErrorDrift) -> _Plot:
    where = found.outcomes
    title = f"{where.series}: {where.target}, step {where.step}, {WORDS[found.state]}"
    return _Plot(title, _svg(_quantile_figure(found), f"Quantiles of the errors, {title}"))


def _shares_figure(column: InputDrift) -> Figure:
    """Shares of rows in each bin, live beside training; a bin of missing values only where there are any."""
    shown = len(column.live) - (0 if column.live[-1] or column.training[-1] else 1)
    at = np.arange(shown)
    with figure(HALF, 2.6) as (fig, (ax,)):
        ax.bar(at - 0.2, column.training[:shown], width=0.4, color=MUTED, label="training")
        ax.bar(at + 0.2, column.live[:shown], width=0.4, color=FORECAST, label="live")
        labels = [number(bound, 2) for bound in column.bounds]
        ticks = (at[: len(labels)] + 0.5).tolist()
        if shown > len(labels) + 1:
            ticks, labels = [*ticks, float(shown - 1)], [*labels, "missing"]
        ax.set_xticks(ticks, labels, rotation=40, ha="right", fontsize=7.5)
        ax.set_ylabel("share of rows")
        ax.set_xlabel(plain_label(column.overall.column))
        legend(ax)
    return fig


def _quantile_figure(found: ErrorDrift) -> Figure:
    """Quantiles of live errors over those of training, scaled; without drift they lie on the line."""
    inner = slice(1, -1)  # the extremes are single rows
    training = np.asarray(found.training.quantiles)[inner]
    live = np.quantile(found.errors, QUANTILES)[inner]
    ends = [min(training.min(), live.min()), max(training.max(), live.max())]
    with figure(HALF, 2.6) as (fig, (ax,)):
        ax.plot(ends, ends, color=MUTED, linewidth=1, label="as in training")
        ax.plot(training, live, "o-", color=ACTUAL, markersize=3.5, linewidth=1.2, label="5 to 95 % of the errors")
        ax.set_xlabel("error in training, scaled")
        ax.set_ylabel("live error, scaled")
        legend(ax)
    return fig


def _svg(drawn: Figure, label: str) -> Markup:
    return Markup(to_svg(drawn, label))  # made by matplotlib, which escapes the text it draws
