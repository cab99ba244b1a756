"""Live columns held against training, and what that says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flts_ray.config_serving import DriftSettings
from flts_ray.data.frame import IntArray
from flts_ray.drift.snapshot import ColumnSnapshot

State = Literal["ok", "watch", "alarm", "few"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnDrift:
    """One raw column of one station.

    Attributes:
        series: Station.
        column: Raw column.
        rows: Live rows.
        psi: Their index against training; None without a row.
        usual: Largest index that training itself shows over so many rows.
        state: ``alarm``: beyond ``drift.psi_alarm`` and beyond what is usual. ``watch``: beyond ``drift.psi_warn``.
            ``few``: fewer than ``drift.min_rows`` rows.
    """

    series: str
    column: str
    rows: int
    psi: float | None
    usual: float
    state: State

    @property
    def sentence(self) -> str:
        """What an operator should know."""
        if self.psi is None or self.state == "few":
            return f"column '{self.column}': {self.rows:,} rows are too few to tell"
        figures = f"PSI {self.psi:.2f} over {self.rows:,} rows; up to {self.usual:.2f} is usual in training"
        verdict = {"alarm": "has drifted", "watch": "is to be watched"}.get(self.state, "is as in training")
        return f"column '{self.column}' {verdict}: {figures}"


def column_drift(
    series: str, column: str, snapshot: ColumnSnapshot, live: IntArray, settings: DriftSettings
) -> ColumnDrift:
    """Judge the live rows of one column.

    Args:
        series: Station.
        column: Its name.
        snapshot: Of the same column in training.
        live: ``(DAY_PARTS, bins)`` rows from ``snapshot.histogram``.
        settings: Thresholds.
    """
    rows = int(live.sum())
    psi = snapshot.psi(live) if rows else None
    usual = snapshot.limit(rows)
    state: State = "ok"
    if psi is None or rows < settings.min_rows:
        state = "few"
    elif psi >= settings.psi_alarm and psi > usual:
        state = "alarm"
    elif psi >= settings.psi_warn:
        state = "watch"
    return ColumnDrift(series=series, column=column, rows=rows, psi=psi, usual=usual, state=state)
