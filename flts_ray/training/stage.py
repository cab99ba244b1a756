"""The training stage: every candidate fitted, calibrated and saved; side by side where CPUs allow."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from flts_ray.candidates import CandidateStore, FitSummary, FittedCandidate, candidate_id
from flts_ray.cluster import Cluster
from flts_ray.config import Settings
from flts_ray.data.claims import Claim
from flts_ray.data.dataset import Dataset
from flts_ray.data.locks import hold
from flts_ray.data.storage import Store
from flts_ray.drift.snapshot import take_snapshot
from flts_ray.errors import BundleError, FltsError
from flts_ray.evaluation.intervals import pack
from flts_ray.evaluation.stage import calibrated, validate
from flts_ray.models.base import Forecaster
from flts_ray.models.bundle import Bundle, BundleIdentity
from flts_ray.telemetry import tracing, trails
from flts_ray.telemetry.heartbeat import Beat, Pulse
from flts_ray.telemetry.logging import event
from flts_ray.training.capacity import Job, run_jobs
from flts_ray.training.examples import left_out
from flts_ray.training.watchdog import Watchdog

WORTH_TELLING = {
    "resumed": "resumed",
    "restarting": "workers_restarting",
    "rescheduling": "workers_restarting",
    "preempting": "node_preempted",
    "checkpoint_damaged": "checkpoint_damaged",
}
"""Stages in heartbeats that become events of their own, and the events' names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What the stage ends with: each expected candidate is either fitted or a failure.

    Attributes:
        fitted: The candidates.
        failures: Why there is none.
        failure_codes: The exit code of the error behind each failure; 1 for one that nobody foresaw.
    """

    fitted: dict[str, FittedCandidate]
    failures: dict[str, str]
    failure_codes: dict[str, int] = field(default_factory=dict)


def train_candidates(
    dataset: Dataset,
    settings: Settings,
    *,
    cluster: Cluster,
    store: Store,
    candidates: CandidateStore,
    pulse: Pulse,
    owner: str = "",
) -> Trained:
    """Fit what has not been fitted before.

    Args:
        dataset: Its train rows are learnt from.
        settings: The whole configuration.
        cluster: Started only if something is to be fitted.
        store: Where the dataset lies and checkpoints go.
        candidates: Where fitted candidates are kept.
        pulse: Receives heartbeats.
        owner: Who fits: the run's id. Two runs never fit the same candidate at the same time: the later one waits,
            and takes what the earlier one has fitted.

    Raises:
        ClusterError: If Ray cannot be started or reached.
        ResourceError: If a candidate can never fit on the cluster.
    """
    found: dict[str, FittedCandidate] = {}
    for kind in settings.candidates:
        name = candidate_id(kind, dataset.dataset_id, settings)
        known = None if settings.run.force else known_candidate(candidates, name)
        if known is not None:
            event("candidate_reused", candidate=kind, candidate_id=name)
            trails.follow(store, name)
            found[kind] = known
    missing = [kind for kind in settings.candidates if kind not in found]
    if not missing:
        return Trained(fitted=found, failures={})
    cluster.ensure()
    fits = _Fits(dataset, settings, store, candidates, pulse, owner)
    cpus = settings.training.workers * settings.training.cpus_per_worker
    for kind in missing:
        if kind != "prophet":
            cluster.check_fits(
                name=kind,
                workers=settings.training.workers,
                cpus_per_worker=settings.training.cpus_per_worker,
                gpus_per_worker=float(settings.training.use_gpu),
            )
    with fits.relay, fits.watchdog:
        jobs = [Job(kind, 1.0 if kind == "prophet" else cpus, fits.job(kind)) for kind in missing]
        results = run_jobs(jobs, cluster.cpus(), on_idle=fits.set_idle)
    failures: dict[str, str] = {}
    codes: dict[str, int] = {}
    for name, result in results.items():
        if isinstance(result, Exception):
            failures[name] = str(result) or type(result).__name__
            codes[name] = result.exit_code if isinstance(result, FltsError) else 1
            event(
                "candidate_failed",
                level=logging.WARNING,
                candidate=name,
                error=type(result).__name__,
                reason=str(result),
            )
        else:
            found[name] = result
    fitted: dict[str, FittedCandidate] = {kind: found[kind] for kind in settings.candidates if kind in found}
    return Trained(fitted=fitted, failures=failures, failure_codes=codes)


def find_candidates(dataset: Dataset, settings: Settings, candidates: CandidateStore) -> Trained:
    """The candidates that an earlier job fitted; those that none did are failures."""
    fitted: dict[str, FittedCandidate] = {}
    failures: dict[str, str] = {}
    for kind in settings.candidates:
        name = candidate_id(kind, dataset.dataset_id, settings)
        known = known_candidate(candidates, name)
        if known is None:
            failures[kind] = (
                f"{name} is not fitted: run `flts train --dataset {dataset.dataset_id}` with these settings"
            )
        else:
            fitted[kind] = known
    return Trained(fitted=fitted, failures=failures)


def identity_of(claim: Claim, name: str) -> BundleIdentity:
    """Where a candidate of this dataset comes from."""
    return BundleIdentity(
        candidate_id=name,
        dataset_id=claim.dataset_id,
        config_hash=claim.config_hash,
        claim_digest=claim.digest(),
        sampled=claim.sampled,
    )


def bundle_of(
    forecaster: Forecaster, name: str, dataset: Dataset, settings: Settings, *, judged: Forecaster | None = None
) -> Bundle:
    """A fitted forecaster with its intervals, and a snapshot of what it was trained on: of the stations it knows.

    Args:
        forecaster: The model.
        name: The candidate's id.
        dataset: What it was trained on.
        settings: The whole configuration.
        judged: The same model without the validation rows, if it was trained on them too; its errors make
            the intervals.
    """
    raws = [raw for raw in dataset.raws if forecaster.knows(raw.series)]
    frames = [frame for frame in dataset.frames if forecaster.knows(frame.series)]
    transforms = {series: found for series, found in dataset.transforms.items() if forecaster.knows(series)}
    validation = validate(judged or forecaster, frames, settings)
    return Bundle.create(
        forecaster,
        transforms,
        identity_of(dataset.claim, name),
        target_unit=dataset.target_unit,
        intervals=pack(calibrated(validation, frames, settings)),
        snapshot=take_snapshot(raws, frames, transforms, validation),
    )


def known_candidate(candidates: CandidateStore, name: str) -> FittedCandidate | None:
    """A candidate that was fitted before; a damaged one is removed, so that it is fitted anew."""
    try:
        known = candidates.find(name)
        if known is not None and known.summary.again:
            event("candidate_incomplete", candidate_id=name, series=len(known.summary.failures))
            return None
        return known
    except BundleError as error:
        event("candidate_damaged", candidate_id=name, reason=str(error))
        candidates.forget(name)
        return None


class _Fits:
    """The work of one stage."""

    def __init__(
        self,
        dataset: Dataset,
        settings: Settings,
        store: Store,
        candidates: CandidateStore,
        pulse: Pulse,
        owner: str,
    ) -> None:
        # Ray and PyTorch are imported here: a run that finds everything fitted needs neither.
        from flts_ray.training.relay import Relay, end, look_at

        self.dataset, self.settings, self.store = dataset, settings, store
        self.candidates, self.pulse, self.owner = candidates, pulse, owner
        self.relay = Relay(self.hear)
        self.watchdog = Watchdog(pulse, look=look_at, kill=end)
        self.idle_cpus = 0.0
        self.run_names: dict[str, str] = {}

    def set_idle(self, cpus: float) -> None:
        self.idle_cpus = cpus

    def job(self, kind: str) -> Callable[[], FittedCandidate]:
        return lambda: self.fit(kind)

    def hear(self, beat: Beat) -> None:
        """Take a heartbeat from a worker; what is worth more than a line among many becomes an event."""
        if "rank" in beat and beat["stage"] in WORTH_TELLING:
            told = {name: beat[name] for name in ("candidate", "epoch", "checkpoint", "reason") if name in beat}
            event(WORTH_TELLING[beat["stage"]], level=logging.WARNING, **told)
        self.pulse.beat(beat)

    def fit(self, kind: str) -> FittedCandidate:
        """A candidate, fitted here, or by another run of the same configuration while this one waited for it."""
        name = candidate_id(kind, self.dataset.dataset_id, self.settings)

        def waiting(holder: str) -> None:
            event("candidate_waiting", level=logging.WARNING, candidate=kind, candidate_id=name, holder=holder)
            self.pulse.beat({"candidate": kind, "stage": "waiting"})

        wait_s = self.settings.watchdog.train_deadline_s
        with hold(self.store, f"candidate-{name}", owner=self.owner, wait_s=wait_s, on_wait=waiting):
            known = None if self.settings.run.force else known_candidate(self.candidates, name)
            if known is None:
                with tracing.span("fit", candidate=kind, candidate_id=name):
                    return self.fit_anew(kind, name)
            event("candidate_reused", candidate=kind, candidate_id=name)
            return known

    def fit_anew(self, kind: str, name: str) -> FittedCandidate:
        """Fit, calibrate, save; then remove the checkpoints."""
        started = time.perf_counter()
        event("fit_started", candidate=kind, candidate_id=name)
        self.pulse.beat({"candidate": kind, "stage": "starting"})
        forecaster, summary = self.prophet(name) if kind == "prophet" else self.recurrent(kind, name)
        fitted = self.candidates.save(bundle_of(forecaster, name, self.dataset, self.settings), summary)
        if kind in self.run_names:
            self.store.delete(f"checkpoints/{self.run_names[kind]}")  # the candidate is safe without them
        trails.leave(self.store, name)
        self.pulse.beat({"candidate": kind, "stage": "fitted", "fit_s": summary.fit_s})
        event(
            "fit_done",
            candidate=kind,
            candidate_id=name,
            fit_s=round(summary.fit_s, 3),
            seconds=round(time.perf_counter() - started, 3),
        )
        return fitted

    def recurrent(self, kind: str, name: str) -> tuple[Forecaster, FitSummary]:
        from flts_ray.training.trainer import fit_on_ray

        short = left_out(self.dataset.frames, self.settings)
        for series, reason in short.items():
            event("series_left_out", level=logging.WARNING, candidate=kind, series=series, reason=reason)
        run_name = f"{name}-{self.owner or time.time_ns()}" if self.settings.run.force else name
        fitted = fit_on_ray(
            "gru" if kind == "gru" else "lstm",
            store=self.store,
            dataset_id=self.dataset.dataset_id,
            settings=self.settings,
            run_name=run_name,
            relay=self.relay,
            watchdog=self.watchdog,
        )
        self.run_names[kind] = run_name
        result = fitted.result
        summary = FitSummary(
            kind=kind,
            candidate_id=name,
            fit_s=result.fit_s,
            history=tuple(asdict(metrics) for metrics in result.history),
            facts={
                "best_epoch": result.best_epoch,
                "stopped_early": result.stopped_early,
                "train_windows": result.train_windows,
                "validation_windows": result.validation_windows,
                "workers": result.workers,
                **({"left_out": short} if short else {}),
                **({"resumed_from_epoch": fitted.resumed_from_epoch} if fitted.resumed_from_epoch else {}),
            },
        )
        return fitted.forecaster, summary

    def prophet(self, name: str) -> tuple[Forecaster, FitSummary]:
        from flts_ray.training.prophet_tasks import ProphetProgress, fit_prophet

        def progress(count: ProphetProgress) -> None:
            self.pulse.beat(
                {
                    "candidate": "prophet",
                    "stage": "training",
                    "done": count.done,
                    "failed": count.failed,
                    "total": count.total,
                }
            )

        fit = fit_prophet(
            [frame.train() for frame in self.dataset.frames],
            {series: transform.target_scalers for series, transform in self.dataset.transforms.items()},
            self.settings,
            step_s=self.dataset.step_s,
            on_progress=progress,
            parallel=lambda: 1 + int(self.idle_cpus),
            relay=self.relay,
            watchdog=self.watchdog,
        )
        failures: dict[str, str] = {}
        for (series, target), reason in fit.failures.items():
            event("prophet_failed", level=logging.WARNING, series=series, target=target, reason=reason)
            failures.setdefault(series, f"Prophet could not be fitted on {target}: {reason}")
        summary = FitSummary(kind="prophet", candidate_id=name, fit_s=fit.fit_s, failures=failures, again=fit.again)
        return fit.forecaster, summary
