"""Many stations at a glance: how each one's best model does, the worst first, for the terminal and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flts_ray.evaluation.leaderboard import ALL, Leaderboard, Row
from flts_ray.evaluation.promotion import Verdict
from flts_ray.evaluation.report_sections import ReportSection, Table, Written

IN_REPORT, IN_TERMINAL = 50, 5
"""Stations shown: those on which the best candidate gains least over persistence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """One station and its best candidate.

    Attributes:
        series: Its name.
        model: The candidate with the lowest composite on it; empty if none has a score.
        skill: Its gain over persistence, a share; None where undefined.
        rmse_scaled: Its error, in the range of the target on the train rows.
        n: Forecasts.
        without: Candidates that have no result, and why.
    """

    series: str
    model: str
    skill: float | None
    rmse_scaled: float | None
    n: int
    without: Mapping[str, str]


def worst_first(board: Leaderboard) -> list[Station]:
    """Every station of a board: those without a score first, then by rising skill of their best candidate."""
    target = board.overall_target
    rows: dict[str, list[Row]] = {}
    for row in board.rows:
        if row.series != ALL and row.target == target and row.role == "candidate":
            rows.setdefault(row.series, []).append(row)
    return sorted((_station(series, found) for series, found in rows.items()), key=_rank)


def stations_section(board: Leaderboard, verdict: Verdict) -> ReportSection:
    """The report's section on single stations; empty tables never occur, since a board has at least one."""
    stations = worst_first(board)
    shown = stations[:IN_REPORT]
    rows = []
    for station in shown:
        own = verdict.series.get(station.series)
        skill = None if station.skill is None else Written(station.skill, f"{station.skill:+.1%}")
        state = "" if own is None else own.state.replace("_", " ")
        rows.append((station.series, station.model, skill, station.rmse_scaled, station.n, state))
    several = "each is decided for itself" if verdict.series else "one model is decided on for all"
    left = len(stations) - len(shown)
    notes = [
        f"{model} has no result for {station.series}: {reason}"
        for station in shown
        for model, reason in station.without.items()
    ]
    if left:
        notes.append(f"The {left} stations that gain more are on the leaderboard in leaderboard.json.")
    return ReportSection(
        title="Stations",
        text=(
            f"{len(stations)} stations, {several}. The worst come first: where the best candidate gains least over "
            "repeating the last value."
        ),
        tables=(Table(head=("station", "best", "skill", "RMSE scaled", "forecasts", "verdict"), rows=tuple(rows)),),
        notes=tuple(notes),
    )


def shown_in_terminal(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], int]:
    """Which leaderboards to print of a run's document: pooled, then the worst stations; and how many are left out."""
    worst: dict[str, float] = {}
    for row in rows:
        if row["series"] != ALL and row["role"] == "candidate":
            skill = row["skill_vs_persistence"]
            worst[row["series"]] = max(worst.get(row["series"], float("-inf")), -1e9 if skill is None else skill)
    ranked = sorted(worst, key=lambda series: (worst[series], series))
    kept = ranked[:IN_TERMINAL]
    return [ALL, *kept], len(ranked) - len(kept)


def _station(series: str, rows: Sequence[Row]) -> Station:
    scored = [row for row in rows if row.composite is not None]
    best = min(scored, key=lambda row: (row.composite or 0.0, row.model), default=None)
    return Station(
        series=series,
        model=best.model if best else "",
        skill=best.skill_vs_persistence if best else None,
        rmse_scaled=best.rmse_scaled if best else None,
        n=best.n if best else 0,
        without={row.model: row.note for row in rows if row.n == 0},
    )


def _rank(station: Station) -> tuple[bool, float, str]:
    return station.skill is not None, station.skill or 0.0, station.series
