"""What the rows and errors of the log say when they are held against the training of a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from flts_ray.config_serving import DriftSettings
from flts_ray.data.frame import FloatArray, RawFrame
from flts_ray.drift.inputs import ColumnDrift, State, column_drift
from flts_ray.drift.live import Live, Outcomes
from flts_ray.drift.residuals import ResidualTest, coverage_test, ks_distance, residual_tests
from flts_ray.drift.snapshot import ResidualSnapshot, SeriesSnapshot, Snapshot
from flts_ray.errors import DataError
from flts_ray.models.manifest import BundleManifest

Verdict = Literal["ok", "few", "drift"]
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class InputDrift:
    """One raw column of one station: over the whole span of the log, and over its latest day.

    Attributes:
        overall: All rows.
        latest: Those of the latest day, so that what has just begun is not drowned.
        bounds: Between the bins, as reported: one less than there are bins of values.
        live: ``(bins,)`` shares of all live rows; the last bin is that of missing values.
        training: The same of training, at the same times of day.
    """

    overall: ColumnDrift
    latest: ColumnDrift
    bounds: FloatArray
    live: FloatArray
    training: FloatArray

    @property
    def worst(self) -> ColumnDrift:
        """The one of the two that says more."""
        order: tuple[State, ...] = ("few", "ok", "watch", "alarm")
        return max(self.overall, self.latest, key=lambda found: (order.index(found.state), found.psi or 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDrift:
    """The errors of one station, target and step.

    Attributes:
        outcomes: Forecasts and what came.
        errors: ``(n,)`` scaled outcome minus scaled forecast.
        training: The same in training.
        needed: Rows below which nothing is concluded: ``drift.min_rows``, and a day, whose rhythm errors have.
        tests: Empty with fewer rows than that.
        alarms: Names of the tests that found drift.
        ks: Distance of the distribution of errors from training's; None without tests.
    """

    outcomes: Outcomes
    errors: FloatArray
    training: ResidualSnapshot
    needed: int
    tests: tuple[ResidualTest, ...] = ()
    alarms: tuple[str, ...] = ()
    ks: float | None = None

    @property
    def state(self) -> State:
        """``alarm``, ``ok`` or ``few``."""
        return "alarm" if self.alarms else "ok" if self.tests else "few"


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """All that was held against training.

    Attributes:
        inputs: Columns of all stations that were seen.
        errors: By station, target and step, as far as outcomes are known.
        significance: Level of each test on errors, after Bonferroni's correction for their number.
        unknown: Stations in the log that the model does not know.
    """

    inputs: tuple[InputDrift, ...]
    errors: tuple[ErrorDrift, ...]
    significance: float
    unknown: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """``drift`` if anything is in alarm, ``few`` if nothing could be judged."""
        states = {*(column.worst.state for column in self.inputs), *(found.state for found in self.errors)}
        if "alarm" in states:
            return "drift"
        return "ok" if states & {"ok", "watch"} else "few"

    @property
    def headline(self) -> str:
        """The verdict in a sentence."""
        if self.verdict == "few":
            return "There are too few rows to tell."
        inputs = [f"{c.worst.column} of {c.worst.series}" for c in self.inputs if c.worst.state == "alarm"]
        errors = [
            f"{' and '.join(e.alarms)} of {e.outcomes.target} of {e.outcomes.series}, step {e.outcomes.step}"
            for e in self.errors
            if e.alarms
        ]
        named = [f"{what}: {'; '.join(found)}" for what, found in (("Inputs", inputs), ("Errors", errors)) if found]
        if not named:
            return "Neither inputs nor errors have drifted from training."
        return f"{'. '.join(named)}. These are no longer what the model was trained on."

    def document(self) -> dict[str, Any]:
        """All figures as plain JSON values."""
        return {
            "verdict": self.verdict,
            "headline": self.headline,
            "significance_each": self.significance,
            "unknown_series": list(self.unknown),
            "inputs": [
                {"state": c.worst.state, "overall": asdict(c.overall), "latest_day": asdict(c.latest)}
                for c in self.inputs
            ],
            "errors": [
                {
                    "series": e.outcomes.series,
                    "target": e.outcomes.target,
                    "step": e.outcomes.step,
                    "rows": len(e.errors),
                    "needed": e.needed,
                    "state": e.state,
                    "alarms": list(e.alarms),
                    "ks": e.ks,
                    "tests": [asdict(test) for test in e.tests],
                }
                for e in self.errors
            ],
        }


def judge(live: Live, manifest: BundleManifest, settings: DriftSettings) -> Findings:
    """Hold what was logged against the training of a model.

    Args:
        live: From the log; its outcomes are those of this model.
        manifest: Of the model.
        settings: Thresholds.

    Raises:
        DataError: If the model has no snapshot of its training.
        BundleError: If the snapshot cannot be read.
    """
    known = Snapshot.read(manifest.snapshot).series
    if not known:
        raise DataError(
            f"candidate {manifest.identity.candidate_id} was saved without a snapshot of its training, so there is "
            "nothing to compare with: run the pipeline again and promote"
        )
    inputs = [c for f in live.inputs if f.series in known for c in _columns(f, known[f.series], settings)]
    needed = max(settings.min_rows, round(DAY_S / manifest.step_s))
    errors = []
    for outcomes in live.outcomes:
        training = _training(known, outcomes)
        if training is not None:
            scaled = _scaled(outcomes, manifest)
            found = ErrorDrift(outcomes=outcomes, errors=scaled, training=training, needed=needed)
            errors.append(_tested(found) if len(scaled) >= needed else found)
    significance = settings.significance / max(1, sum(len(found.tests) for found in errors))
    return Findings(
        inputs=tuple(inputs),
        errors=tuple(_judged(found, significance) for found in errors),
        significance=significance,
        unknown=tuple(sorted({frame.series for frame in live.inputs} - set(known))),
    )


def _training(known: dict[str, SeriesSnapshot], outcomes: Outcomes) -> ResidualSnapshot | None:
    steps = known[outcomes.series].residuals.get(outcomes.target, ()) if outcomes.series in known else ()
    return steps[outcomes.step - 1] if outcomes.step <= len(steps) else None


def _scaled(outcomes: Outcomes, manifest: BundleManifest) -> FloatArray:
    transform = manifest.transforms[outcomes.series]
    scaler = transform.target_scalers[transform.targets.index(outcomes.target)]
    return scaler.forward(outcomes.actual) - scaler.forward(outcomes.forecast)


def _tested(found: ErrorDrift) -> ErrorDrift:
    outcomes, training = found.outcomes, found.training
    tests = residual_tests(found.errors, training, step=outcomes.step)
    if not np.isnan(outcomes.level):
        tests += (coverage_test(outcomes.inside, outcomes.level, step=outcomes.step),)
    return replace(found, tests=tests, ks=ks_distance(found.errors, training))


def _judged(found: ErrorDrift, significance: float) -> ErrorDrift:
    return replace(found, alarms=tuple(t.name for t in found.tests if t.matters and t.p_value < significance))


def _columns(frame: RawFrame, known: SeriesSnapshot, settings: DriftSettings) -> Iterator[InputDrift]:
    latest = frame.time > frame.time[-1] - np.timedelta64(round(DAY_S), "s")
    latest[-settings.min_rows :] = True  # a day of long steps has too few rows to say anything
    for name in frame.columns:
        if (snapshot := known.columns.get(name)) is None:
            continue
        values = frame.column(name)
        parts = [snapshot.histogram(values, frame.time), snapshot.histogram(values[latest], frame.time[latest])]
        overall, recent = (column_drift(frame.series, name, snapshot, part, settings) for part in parts)
        yield InputDrift(
            overall=overall,
            latest=recent,
            bounds=snapshot.scaler.inverse(np.asarray(snapshot.edges)),
            live=parts[0].sum(axis=0) / parts[0].sum(),
            training=snapshot.shares(parts[0]),
        )
