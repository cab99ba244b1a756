"""Drift of what one replica is being sent, and of how right it was, over its latest rows."""

from __future__ import annotations

import threading
import time

import numpy as np

from flts_ray.config_serving import DriftSettings
from flts_ray.data.frame import FloatArray, RawFrame, TimeArray
from flts_ray.drift.inputs import ColumnDrift, column_drift
from flts_ray.drift.live_residuals import LiveResiduals, ResidualFigures
from flts_ray.drift.snapshot import SeriesSnapshot, Snapshot
from flts_ray.inference.queries import Forecast, Notice, Query
from flts_ray.models.manifest import BundleManifest

TOLERATED_AHEAD = np.timedelta64(1, "D")
"""Rows stamped later than this from now are not counted: one wrong clock would hide all rows that follow."""


class DriftMonitor:
    """Holds what a replica is sent, and the errors of its answers, against the training of its model; thread-safe.

    Requests of one station overlap in all but their last rows: each time of a station is counted once, and only rows
    later than those counted before. What they report settles the answers given before. Inert where the bundle has no
    snapshot.

    Args:
        manifest: Of the model that answers.
        settings: Thresholds, and how many rows to look back.
        level: Nominal coverage of the intervals that are watched; None: none are.
    """

    def __init__(self, manifest: BundleManifest, settings: DriftSettings, *, level: float | None = None) -> None:
        known = Snapshot.read(manifest.snapshot).series
        self._settings, self._lock = settings, threading.Lock()
        self._windows = {series: _Window(snapshot, settings.window_rows) for series, snapshot in known.items()}
        self._residuals = {
            series: LiveResiduals(series, snapshot, manifest, settings, level) for series, snapshot in known.items()
        }
        self._targets = manifest.targets
        self._found: dict[str, tuple[ColumnDrift, ...]] = {}
        self._errors: tuple[ResidualFigures, ...] = ()

    def observe(self, query: Query, forecast: Forecast | None = None) -> None:
        """Take in the rows of a request that are new, and its answer: a copy of those rows, no computing."""
        series = self._known(query.history.series)
        window = self._windows.get(series)
        if window is not None and len(query.history):
            with self._lock:
                window.add(query.history)
                if forecast is not None:
                    self._residuals[series].remember(forecast)

    def refresh(self) -> None:
        """Compute the figures anew; for a timer, a few milliseconds a station."""
        for series, window in self._windows.items():
            residuals = self._residuals[series]
            with self._lock:
                time, values = window.rows()
                due = residuals.due(time)
            self._found[series] = tuple(
                column_drift(series, name, column, column.histogram(values[:, i], time), self._settings)
                for i, (name, column) in enumerate(window.snapshot.columns.items())
            )
            names = list(window.snapshot.columns)
            residuals.settle(due, time, values[:, [names.index(target) for target in self._targets]])
        self._errors = tuple(found for residuals in self._residuals.values() for found in residuals.figures())

    def figures(self) -> dict[str, dict[str, float]]:
        """Index by station and column as of the last refresh; columns with too few rows are left out."""
        found = {
            series: {c.column: c.psi for c in columns if c.psi is not None and c.state != "few"}
            for series, columns in self._found.items()
        }
        return {series: columns for series, columns in found.items() if columns}

    def residuals(self) -> tuple[ResidualFigures, ...]:
        """Errors against training as of the last refresh; what has too few outcomes is left out."""
        return self._errors

    def notices(self, series: str) -> tuple[Notice, ...]:
        """A warning for each column of a station that was in alarm at the last refresh."""
        found = self._found.get(self._known(series), ())
        return tuple(Notice("drift", column.sentence) for column in found if column.state == "alarm")

    def _known(self, series: str) -> str:
        """The station that is meant: a model of one station answers for any name."""
        return next(iter(self._windows)) if len(self._windows) == 1 else series


class _Window:
    """The latest rows of one station, as reported."""

    def __init__(self, snapshot: SeriesSnapshot, size: int) -> None:
        self.snapshot, self._size = snapshot, size
        self._names = tuple(snapshot.columns)
        self._time: TimeArray = np.zeros(0, dtype="datetime64[ns]")
        self._values: FloatArray = np.zeros((0, len(self._names)))
        self._new: list[tuple[TimeArray, FloatArray]] = []
        self._waiting = 0
        self._latest = np.datetime64(np.iinfo(np.int64).min + 1, "ns")

    def add(self, history: RawFrame) -> None:
        """Take the rows that are later than all before."""
        first = max(int(np.searchsorted(history.time, self._latest, side="right")), len(history) - self._size)
        if first == len(history) or not set(self._names) <= set(history.columns):
            return
        if history.time[-1] > np.datetime64(time.time_ns(), "ns") + TOLERATED_AHEAD:
            return
        self._latest = history.time[-1]
        picked = [history.columns.index(name) for name in self._names]
        self._new.append((history.time[first:].copy(), history.values[first:, picked]))
        self._waiting += len(history) - first
        if self._waiting > 2 * self._size:  # nobody asks for figures: what no figure will rest on can go
            self.rows()

    def rows(self) -> tuple[TimeArray, FloatArray]:
        """Times ``(n,)`` and values ``(n, columns)`` of the window."""
        parts = [(self._time, self._values), *self._new]
        self._time = np.concatenate([time for time, _ in parts])[-self._size :]
        self._values = np.concatenate([values for _, values in parts])[-self._size :]
        self._new, self._waiting = [], 0
        return self._time, self._values
