"""The forecasts of one bundle, for a service and a batch alike: from checked histories to numbers with intervals."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from flts_ray.data.frame import FloatArray, IntArray, RawFrame, SeriesFrame
from flts_ray.data.windows import training_origins
from flts_ray.errors import (
    BundleError,
    DataError,
    DeadlineError,
    FltsError,
    MissingColumnError,
    TimeOrderError,
    TooFewRowsError,
)
from flts_ray.evaluation.backtest import outcomes
from flts_ray.inference.bands import Followed, calibrations
from flts_ray.inference.queries import Forecast, Query
from flts_ray.inference.recursion import extend, notice
from flts_ray.inference.runtime import RuntimeChoice, choose_runtime
from flts_ray.inference.stacking import stack
from flts_ray.models.bundle import Bundle

SERVED_KINDS = ("gru", "lstm", "prophet", "ridge", "persistence")
"""Forecasters that read their lookback and nothing before it, so that histories can be computed as one frame."""


@dataclass(slots=True)
class _Work:
    """A query on its way to an answer.

    Attributes:
        place: Where the answer goes.
        query: The query.
        history: Its history, columns in the model's order.
        values: ``(steps so far, n_targets)``.
        intervals: States at the origin, once there is a forecast; None for a station that was not calibrated.
    """

    place: int
    query: Query
    history: RawFrame
    values: FloatArray
    intervals: Followed | None = None


class Engine:
    """Computes forecasts with a bundle. Thread-safe: nothing changes after construction."""

    def __init__(self, bundle: Bundle, *, runtime: RuntimeChoice = "auto") -> None:
        """Make a bundle ready.

        Args:
            bundle: The model.
            runtime: What computes a network.

        Raises:
            BundleError: If it cannot be served, or not by that runtime.
        """
        manifest = bundle.manifest
        if manifest.kind not in SERVED_KINDS:
            raise BundleError(f"a '{manifest.kind}' model cannot be served: choose one of {', '.join(SERVED_KINDS)}")
        self.bundle = bundle
        self._manifest = manifest
        chosen = choose_runtime(bundle.forecaster, runtime)
        self._forecaster, self.runtime, self.runtime_note = chosen.forecaster, chosen.name, chosen.note
        self._calibrations = calibrations(bundle)
        self.context_rows = bundle.context_rows

    @property
    def levels(self) -> tuple[float, ...]:
        """Level of the intervals that were calibrated, the default of a query; empty if none were."""
        coverages = {calibration.coverage for calibration in self._calibrations.values()} - {None}
        return tuple(sorted(c for c in coverages if c is not None))[:1]

    def forecast(self, queries: Sequence[Query], *, deadline: float | None = None) -> list[Forecast | FltsError]:
        """Answer queries together, in order; each fails alone.

        Args:
            queries: With histories that were checked.
            deadline: Time of ``time.monotonic`` after which no further recursive step begins; what is not done then
                is answered by a DeadlineError.
        """
        answers: dict[int, Forecast | FltsError] = {}
        stations: dict[str, list[_Work]] = defaultdict(list)
        for place, query in enumerate(queries):
            try:
                station = self._station(query.history)
                stations[station].append(self._work(place, query, station))
            except FltsError as error:
                answers[place] = error
        for station, works in stations.items():
            try:
                ready = self._direct(station, works, answers)
                ready = self._recursive(station, ready, answers, deadline)
            except FltsError as error:
                answers |= {work.place: error for work in works if work.place not in answers}
                continue
            for work in ready:
                answers[work.place] = self._answer(work)
        return [answers[place] for place in range(len(queries))]

    def check(self) -> None:
        """Prove on a made-up history that every station can be forecast.

        Raises:
            BundleError: If a forecast fails, has the wrong shape, or holds a number that is not finite.
        """
        manifest = self._manifest
        step = np.timedelta64(round(manifest.step_s * 1e9), "ns")
        rows = manifest.lookback + 2 * manifest.horizon
        for station, transform in manifest.transforms.items():
            history = RawFrame(
                series=station,
                time=np.datetime64("2026-01-05T00:00", "ns") + step * np.arange(rows),
                columns=transform.columns,
                values=np.tile([float(s.inverse(np.zeros(1))[0]) for s in transform.scalers], (rows, 1)),
            )
            query = Query(history=history, horizon=manifest.horizon + 1, levels=self.levels, adapt_rows=rows)
            (made,) = self.forecast([query])
            if isinstance(made, FltsError):
                raise BundleError(f"the model cannot forecast series '{station}': {made}") from made
            if station in self._calibrations and not np.isfinite([made.lower, made.upper]).all():
                raise BundleError(
                    f"the intervals of series '{station}' are not finite numbers: calibrate the model anew"
                )

    def _station(self, history: RawFrame) -> str:
        known = self._manifest.transforms
        if history.series in known or len(known) > 1:
            if history.series not in known:
                raise DataError(f"series '{history.series}' is unknown to this model: it knows {', '.join(known)}")
            return history.series
        return next(iter(known))

    def _work(self, place: int, query: Query, station: str) -> _Work:
        history, columns = query.history, self._manifest.transforms[station].columns
        if len(history) < self._manifest.lookback:
            raise TooFewRowsError(
                f"the history has {len(history)} rows, the model reads {self._manifest.lookback}: send more"
            )
        if history.columns != columns:
            missing = [name for name in columns if name not in history.columns]
            if missing:
                raise MissingColumnError(
                    f"the history lacks the column '{missing[0]}': send all of {', '.join(columns)}"
                )
            order = [history.columns.index(name) for name in columns]
            history = replace(history, columns=columns, values=history.values[:, order])
        kept = slice(-(self.context_rows + query.adapt_rows), None)  # what is older has no say
        history = replace(history, time=history.time[kept], values=history.values[kept])
        return _Work(place, query, history, np.empty((0, len(self._manifest.targets))))

    def _direct(self, station: str, works: Sequence[_Work], answers: dict[int, Forecast | FltsError]) -> list[_Work]:
        """Forecast the trained steps of each, and the latest origins of its history that its intervals adapt by."""
        lookback, horizon = self._manifest.lookback, self._manifest.horizon
        rows = [min(len(work.history), lookback + work.query.adapt_rows) for work in works]
        stacked = stack(self._manifest.transforms[station], station, [work.history for work in works], rows)
        frame = stacked.frame
        origins = training_origins(frame.segment, lookback, 0)
        predictions = self._predict(frame, origins)
        observed, _ = outcomes(frame, origins, horizon)
        ends = np.searchsorted(origins, stacked.starts)
        ready = []
        for i, work in enumerate(works):
            own = slice(ends[i], ends[i + 1])
            if own.start == own.stop or origins[own.stop - 1] != stacked.starts[i + 1] - 1:
                answers[work.place] = TimeOrderError(
                    f"the last {lookback} rows of the history must be {self._manifest.step_s:g} s apart: there is a gap"
                )
                continue
            work.values = predictions[own.stop - 1]
            if station in self._calibrations and work.query.levels:
                calibration = self._calibrations[station]
                work.intervals = calibration.follow(predictions[own], observed[own], origins[own])
            ready.append(work)
        return ready

    def _recursive(
        self, station: str, works: list[_Work], answers: dict[int, Forecast | FltsError], deadline: float | None
    ) -> list[_Work]:
        """Extend those that ask for more steps, all of them side by side."""
        manifest = self._manifest
        transform, blocks = manifest.transforms[station], {work.place: work.values for work in works}
        while open_works := [work for work in works if len(work.values) < work.query.horizon]:
            if deadline is not None and time.monotonic() > deadline:
                late = DeadlineError("the forecast was not done by its deadline: ask for fewer steps")
                answers |= {work.place: late for work in open_works}
                return [work for work in works if len(work.values) >= work.query.horizon]
            for work in open_works:
                work.history = extend(
                    work.history,
                    blocks[work.place],
                    manifest.targets,
                    step_s=manifest.step_s,
                    keep_rows=self.context_rows,
                )
            stacked = stack(
                transform, station, [work.history for work in open_works], [manifest.lookback] * len(open_works)
            )
            made = self._predict(stacked.frame, stacked.starts[1:] - 1)
            for work, block in zip(open_works, made, strict=True):
                blocks[work.place] = block
                work.values = np.concatenate([work.values, block])
        return works

    def _predict(self, frame: SeriesFrame, origins: IntArray) -> FloatArray:
        made = self._forecaster.predict(frame, origins)
        shape = (len(origins), self._manifest.horizon, len(self._manifest.targets))
        if made.shape != shape:
            raise BundleError(f"the model forecasts the shape {made.shape} instead of {shape}")
        return made

    def _answer(self, work: _Work) -> Forecast | FltsError:
        manifest, query = self._manifest, work.query
        values = work.values[: query.horizon]
        if not np.isfinite(values).all():
            return DataError("the forecast is not a finite number: the history is too far from what training saw")
        if work.intervals is None:
            lower, upper = np.full((2, len(query.levels), *values.shape), np.nan)
        else:
            lower, upper = work.intervals.bounds(values, query.levels)
        notices = query.notices
        if query.horizon > manifest.horizon:
            notices = (*notices, notice(manifest.horizon))
        origin = query.history.time[-1]
        return Forecast(
            series=query.history.series,
            origin=origin,
            time=origin + np.timedelta64(round(manifest.step_s * 1e9), "ns") * np.arange(1, query.horizon + 1),
            values=values,
            lower=lower,
            upper=upper,
            levels=query.levels,
            direct_steps=manifest.horizon,
            targets=manifest.targets,
            unit=manifest.target_unit,
            step_s=manifest.step_s,
            notices=notices,
        )
