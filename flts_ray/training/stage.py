"""The training stage: every candidate fitted, calibrated and saved; side by side where CPUs allow."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from flts_ray.candidates import CandidateStore, FitSummary, FittedCandidate, candidate_id
from flts_ray.cluster import Cluster
from flts_ray.config import Settings
from flts_ray.data.claims import Claim
from flts_ray.data.dataset import Dataset
from flts_ray.data.storage import Store
from flts_ray.errors import BundleError, TrainingError
from flts_ray.evaluation.intervals import pack
from flts_ray.evaluation.stage import interval_states
from flts_ray.models.base import Forecaster
from flts_ray.models.bundle import Bundle, BundleIdentity
from flts_ray.telemetry.heartbeat import Pulse
from flts_ray.telemetry.logging import event
from flts_ray.training.capacity import Job, run_jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What the stage ends with: each expected candidate is in exactly one of the two."""

    fitted: dict[str, FittedCandidate]
    failures: dict[str, str]


def train_candidates(
    dataset: Dataset, settings: Settings, *, cluster: Cluster, store: Store, candidates: CandidateStore, pulse: Pulse
) -> Trained:
    """Fit what has not been fitted before.

    Args:
        dataset: Its train rows are learnt from.
        settings: The whole configuration.
        cluster: Started only if something is to be fitted.
        store: Where the dataset lies and checkpoints go.
        candidates: Where fitted candidates are kept.
        pulse: Receives heartbeats.

    Raises:
        ResourceError: If a candidate can never fit on the cluster.
    """
    found: dict[str, FittedCandidate] = {}
    for kind in settings.candidates:
        name = candidate_id(kind, dataset.dataset_id, settings)
        known = None if settings.run.force else _known(candidates, name)
        if known is not None:
            event("candidate_reused", candidate=kind, candidate_id=name)
            found[kind] = known
    missing = [kind for kind in settings.candidates if kind not in found]
    if not missing:
        return Trained(fitted=found, failures={})
    cluster.ensure()
    fits = _Fits(dataset, settings, store, candidates, pulse)
    cpus = settings.training.workers * settings.training.cpus_per_worker
    for kind in missing:
        if kind != "prophet":
            cluster.check_fits(
                name=kind,
                workers=settings.training.workers,
                cpus_per_worker=settings.training.cpus_per_worker,
                gpus_per_worker=float(settings.training.use_gpu),
            )
    with fits.relay:
        jobs = [Job(kind, 1.0 if kind == "prophet" else cpus, fits.job(kind)) for kind in missing]
        results = run_jobs(jobs, cluster.cpus(), on_idle=fits.set_idle)
    failures: dict[str, str] = {}
    for name, result in results.items():
        if isinstance(result, Exception):
            failures[name] = str(result)
            event("candidate_failed", candidate=name, error=type(result).__name__, reason=str(result))
        else:
            found[name] = result
    return Trained(fitted={kind: found[kind] for kind in settings.candidates if kind in found}, failures=failures)


def identity_of(claim: Claim, name: str) -> BundleIdentity:
    """Where a candidate of this dataset comes from."""
    return BundleIdentity(
        candidate_id=name,
        dataset_id=claim.dataset_id,
        config_hash=claim.config_hash,
        claim_digest=claim.digest(),
        sampled=claim.sampled,
    )


def _known(candidates: CandidateStore, name: str) -> FittedCandidate | None:
    try:
        return candidates.find(name)
    except BundleError as error:
        event("candidate_damaged", candidate_id=name, reason=str(error))
        candidates.forget(name)
        return None


class _Fits:
    """The work of one stage."""

    def __init__(
        self, dataset: Dataset, settings: Settings, store: Store, candidates: CandidateStore, pulse: Pulse
    ) -> None:
        # Ray and PyTorch are imported here: a run that finds everything fitted needs neither.
        from flts_ray.training.trainer import Relay

        self.dataset, self.settings, self.store = dataset, settings, store
        self.candidates, self.pulse = candidates, pulse
        self.relay = Relay(pulse.beat)
        self.idle_cpus = 0.0
        self.run_names: dict[str, str] = {}

    def set_idle(self, cpus: float) -> None:
        self.idle_cpus = cpus

    def job(self, kind: str) -> Callable[[], FittedCandidate]:
        return lambda: self.fit(kind)

    def fit(self, kind: str) -> FittedCandidate:
        name = candidate_id(kind, self.dataset.dataset_id, self.settings)
        started = time.perf_counter()
        event("fit_started", candidate=kind, candidate_id=name)
        self.pulse.beat({"candidate": kind, "stage": "starting"})
        forecaster, summary = self.prophet(name) if kind == "prophet" else self.recurrent(kind, name)
        bundle = Bundle.create(
            forecaster,
            self.dataset.transforms,
            identity_of(self.dataset.claim, name),
            target_unit=self.dataset.target_unit,
            intervals=pack(interval_states(forecaster, self.dataset.frames, self.settings)),
        )
        fitted = self.candidates.save(bundle, summary)
        if kind in self.run_names:
            self.store.delete(f"checkpoints/{self.run_names[kind]}")  # the candidate is safe without them
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

        run_name = f"{name}-{time.time_ns()}" if self.settings.run.force else name
        fitted = fit_on_ray(
            "gru" if kind == "gru" else "lstm",
            store=self.store,
            dataset_id=self.dataset.dataset_id,
            settings=self.settings,
            run_name=run_name,
            relay=self.relay,
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
        )
        if fit.failures:
            (series, target), reason = next(iter(fit.failures.items()))
            raise TrainingError(
                f"{len(fit.failures)} Prophet fits failed, the first on '{target}' of series '{series}': {reason}"
            )
        summary = FitSummary(kind="prophet", candidate_id=name, fit_s=fit.fit_s)
        return fit.forecaster, summary
