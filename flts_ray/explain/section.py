"""The sections of the report that show an explanation."""

from __future__ import annotations

import numpy as np

from flts_ray.evaluation.plot_style import BASELINES, UnitScale, duration, unit_scale
from flts_ray.evaluation.report_sections import Cell, Picture, ReportSection, Table, Written
from flts_ray.explain import plots
from flts_ray.explain.document import Explanations, Importance, Increase

MAX_SERIES = 8
"""Stations in the table by station; ``explanations.json`` has all that were looked at."""

LAST_VALUE = "last value"


def explain_sections(found: Explanations) -> tuple[ReportSection, ...]:
    """What was found, ready for the report: up to three sections, none of them empty."""
    sections = []
    if found.importances or found.failures:
        sections.append(_importance_section(found))
    if found.attributions:
        sections.append(_attribution_section(found))
    if found.prophet:
        sections.append(_prophet_section(found))
    return tuple(sections)


def _importance_section(found: Explanations) -> ReportSection:
    models = found.importances
    windows = sum(found.windows.values())
    text = (
        f"How much the RMSE grows on {windows:,} test windows when an input is taken from another window of the same "
        f"station, over {found.repeats} shuffle{'s' if found.repeats > 1 else ''}. Columns that say the same are "
        "shuffled together. The last value is what a forecast change is added to; it is shuffled apart from the row "
        "that is read. Thick lines span the shuffles, thin ones two standard errors over the windows."
    )
    notes = [f"{name} could not be explained: {reason}" for name, reason in found.failures.items()]
    if found.stations > len(found.windows):
        notes.append(f"Looked at were {len(found.windows)} of {found.stations} stations, evenly spread by name.")
    if not models:
        return ReportSection(title="What the models look at", text=text, notes=tuple(notes))
    growth = np.array([grown.bits for one in models for grown in (*one.by_feature.values(), *one.by_lag)])
    scale = unit_scale(growth[growth >= np.percentile(growth, 90)], found.unit, found.step_s)
    pictures = (
        Picture.of("By feature, in all rows of the history", plots.feature_figure(models, _ranked(models), scale)),
        Picture.of(f"By row of the history, {duration(found.step_s)} apart", plots.lag_figure(models, scale)),
    )
    tables = [_importance_table(models, scale)]
    if any(one.by_series for one in models):
        tables.append(_series_table(found))
        if len(found.windows) > MAX_SERIES:
            notes.append(f"By station, {MAX_SERIES} are shown; explanations.json has all {len(found.windows)}.")
    return ReportSection(
        title="What the models look at", text=text, figures=pictures, tables=tuple(tables), notes=tuple(notes)
    )


def _ranked(models: tuple[Importance, ...]) -> list[str]:
    """Feature groups by what they are to the candidates; those that only a baseline reads come last."""
    growth: dict[str, float] = {}
    for one in models:
        for group, grown in one.by_feature.items():
            bits = -np.inf if one.model in BASELINES else grown.bits
            growth[group] = max(growth.get(group, -np.inf), bits)
    return sorted(growth, key=lambda group: growth[group], reverse=True)


def _importance_table(models: tuple[Importance, ...], scale: UnitScale) -> Table:
    rows = [{LAST_VALUE: one.last_value, **one.by_feature} for one in models]
    ranked = [LAST_VALUE, *_ranked(models)]
    return Table(
        title="Growth of the RMSE, and as a share of it (?: within two standard errors of none)",
        head=("Shuffled", *(one.model for one in models)),
        rows=tuple((name, *(_grown(row.get(name), scale) for row in rows)) for name in ranked),
    )


def _grown(grown: Increase | None, scale: UnitScale) -> Cell:
    if grown is None:
        return None
    sure = "" if abs(grown.bits) > 2 * grown.error_bits else " ?"
    return Written(grown.bits, f"{scale.text(grown.bits)} ({grown.share:+.1%}){sure}")


def _series_table(found: Explanations) -> Table:
    """What each candidate looks at most, by station."""
    candidates = [one for one in found.importances if one.model not in BASELINES and one.by_series]
    rows = []
    for series in list(found.windows)[:MAX_SERIES]:
        for one in candidates:
            if series in one.by_series:
                ranked = sorted(one.by_series[series].items(), key=lambda item: -item[1])[:3]
                rows.append((series, one.model, "; ".join(f"{name} {share:+.1%}" for name, share in ranked)))
    return Table(title="The three strongest by station", head=("Station", "Model", "Strongest"), rows=tuple(rows))


def _attribution_section(found: Explanations) -> ReportSection:
    worst = max(one.completeness_error for one in found.attributions)
    text = (
        "Integrated gradients: which numbers of a window move a network's output away from that for the mean train row "
        "(scaled units, mean size over the windows). Attributions of a window add up to that difference, here to "
        f"within {worst:.1g} of its mean size with {found.steps} steps."
    )
    several = len({one.target for one in found.attributions}) > 1
    pictures = tuple(
        Picture.of(f"{one.model}, {one.target}" if several else one.model, plots.attribution_figure(one))
        for one in found.attributions
    )
    return ReportSection(title="Integrated gradients", text=text, figures=pictures)


def _prophet_section(found: Explanations) -> ReportSection:
    parts = found.prophet
    pictures = []
    if any(max(one.trend) - min(one.trend) > 1e-9 for one in parts):
        pictures.append(Picture.of("Trend", plots.trend_figure(parts)))
    for name in dict.fromkeys(name for one in parts for name in one.seasons):
        pictures.append(Picture.of(f"{name.capitalize()} season", plots.season_figure(parts, name)))
    if any(one.holidays for one in parts):
        pictures.append(Picture.of("Holidays", plots.holiday_figure(parts)))
    if any(one.autoregression[1] for one in parts):
        pictures.append(Picture.of("Autoregression on the rest", plots.autoregression_figure(parts)))
    names = dict.fromkeys(name for one in parts for name in one.spread)
    table = Table(
        title="How far each part moves the forecasts (standard deviation, scaled units)",
        head=("Station", "Target", *names),
        rows=tuple((one.series, one.target, *(one.spread.get(name) for name in names)) for one in parts),
    )
    shown = len({one.series for one in parts})
    notes = (f"Shown are {shown} of {found.stations} stations.",) if shown < found.stations else ()
    text = "What Prophet's forecasts are the sum of, on the scale it was fitted on. A trend that is level is not drawn."
    if parts[0].mode == "multiplicative":
        text = "What Prophet's forecasts are made of, on the scale it was fitted on; seasons multiply the trend."
    return ReportSection(title="Parts of Prophet", text=text, figures=tuple(pictures), tables=(table,), notes=notes)
