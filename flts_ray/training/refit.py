"""The winner of a sweep, trained once more on all train rows: the candidate ``tuned``.

It takes the epochs that were best for its trial, under the same schedule. Since no row is left to judge it by, its
intervals and its drift snapshot rest on the errors that the trial's own network made on the validation rows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import ray
import torch

from flts_ray.candidates import MODEL_FORMAT, TUNED, CandidateStore, FitSummary, FittedCandidate
from flts_ray.cluster import Cluster
from flts_ray.config import Settings, canonical_digest
from flts_ray.data.dataset import Dataset, load_dataset
from flts_ray.data.locks import hold
from flts_ray.data.storage import Store
from flts_ray.errors import ClusterError, FltsError, TrainingError, error_named
from flts_ray.models.recurrent import RECURRENT, RecurrentForecaster, RecurrentNet, RecurrentShape
from flts_ray.redaction import redacted
from flts_ray.telemetry.heartbeat import Beats, Pulse
from flts_ray.telemetry.logging import event
from flts_ray.telemetry.origin import Origin, joined, origin
from flts_ray.training import stacks
from flts_ray.training.checkpoint import newest_checkpoint
from flts_ray.training.fit import REFIT_RATE, fit_recurrent, refit_recurrent
from flts_ray.training.loop_state import EpochMetrics, LoopState
from flts_ray.training.relay import Relay, end, look_at
from flts_ray.training.stage import bundle_of, known_candidate
from flts_ray.training.sweep_ledger import Ledger, SweepResult, Trial
from flts_ray.training.watchdog import Watchdog

NODE_LOSSES = 3
"""Times Ray runs the fit again whose process or node was lost."""


def tuned_id(sweep: SweepResult) -> str:
    """``tuned-<12 hex>``: a digest of the dataset and of everything that shapes the refitted winner."""
    settings, best = sweep.best_settings, sweep.best
    shaping = {
        "format": MODEL_FORMAT,
        "kind": TUNED,
        "cell": best.cell,
        "dataset_id": sweep.dataset_id,
        "epochs": best.best_epoch,
        "refit_rate": REFIT_RATE,
        "seed": settings.seed,
        "windows": settings.windows.model_dump(mode="json"),
        "evaluation": settings.evaluation.model_dump(mode="json"),
        "recurrent": settings.recurrent.model_dump(mode="json"),
        "training": settings.training.model_dump(mode="json", exclude={"cpus_per_worker", "max_failures", "workers"}),
    }
    return f"{TUNED}-{canonical_digest(shaping)[:12]}"


def refit_best(
    sweep: SweepResult,
    *,
    store: Store,
    cluster: Cluster,
    candidates: CandidateStore,
    pulse: Pulse,
    owner: str = "",
) -> FittedCandidate:
    """Train the winner on all train rows, in one process of the cluster, and save it; or find it saved.

    Args:
        sweep: An ended sweep.
        store: Where dataset and checkpoints lie.
        cluster: Started only if something is to be trained.
        candidates: Where fitted candidates are kept.
        pulse: Receives heartbeats of candidate ``tuned``.
        owner: Who asks: the run's id.

    Raises:
        TrainingError: If every trial failed, or the training did.
        ClusterError: If its process was lost more often than :data:`NODE_LOSSES`.
        StorageError: If the store does not answer.
    """
    name, settings = tuned_id(sweep), sweep.best_settings

    def waiting(holder: str) -> None:
        event("candidate_waiting", level=logging.WARNING, candidate=TUNED, candidate_id=name, holder=holder)

    with hold(store, f"candidate-{name}", owner=owner, wait_s=settings.watchdog.train_deadline_s, on_wait=waiting):
        known = None if settings.run.force else known_candidate(candidates, name)
        if known is not None:
            event("candidate_reused", candidate=TUNED, candidate_id=name)
            return known
        started = time.perf_counter()
        event("fit_started", candidate=TUNED, candidate_id=name)
        pulse.beat({"candidate": TUNED, "stage": "starting"})
        dataset = load_dataset(store, sweep.dataset_id, test=False)
        answer = _on_cluster(sweep, settings, store=store, cluster=cluster, pulse=pulse)
        kind = RECURRENT[sweep.best.cell]
        forecaster, judged = (kind.from_state(*answer[part]) for part in ("refitted", "judged"))
        fitted = candidates.save(
            bundle_of(forecaster, name, dataset, settings, judged=judged), _summary(sweep, name, answer)
        )
        pulse.beat({"candidate": TUNED, "stage": "fitted", "fit_s": answer["fit_s"]})
        event(
            "fit_done",
            candidate=TUNED,
            candidate_id=name,
            fit_s=round(answer["fit_s"], 3),
            seconds=round(time.perf_counter() - started, 3),
        )
        return fitted


def _summary(sweep: SweepResult, name: str, answer: dict[str, Any]) -> FitSummary:
    """How the candidate came about; its epochs are those of the trial, whose validation figures mean something."""
    best = sweep.best
    return FitSummary(
        kind=TUNED,
        candidate_id=name,
        fit_s=answer["fit_s"],
        history=best.history,
        facts={
            "sweep_id": sweep.sweep_id,
            "trial": best.number,
            "trials": len(sweep.trials),
            "params": best.params,
            "best_epoch": best.best_epoch,
            "train_windows": answer["train_windows"],
        },
    )


def _on_cluster(
    sweep: SweepResult, settings: Settings, *, store: Store, cluster: Cluster, pulse: Pulse
) -> dict[str, Any]:
    training = settings.training
    cluster.ensure()
    cluster.check_fits(
        name=TUNED, workers=1, cpus_per_worker=training.cpus_per_worker, gpus_per_worker=float(training.use_gpu)
    )
    with (
        Relay(pulse.beat) as relay,
        Watchdog(pulse, look=look_at, kill=end) as watchdog,
        watchdog.watch(TUNED, lambda stages: settings.watchdog.stall_timeout_s, ranks=lambda: [0]),
    ):
        task = ray.remote(num_cpus=training.cpus_per_worker, num_gpus=int(training.use_gpu), max_retries=NODE_LOSSES)(
            _refit
        )
        try:
            answer: dict[str, Any] = ray.get(
                task.remote(store, sweep.sweep_id, sweep.dataset_id, sweep.best, settings, relay.mailbox, origin())
            )
        except ray.exceptions.RayTaskError as error:
            raise TrainingError(f"training the winner of the sweep failed: {redacted(error.cause)}") from error
        except ray.exceptions.RayError as error:
            raise ClusterError(
                f"the process that trained the winner of the sweep was lost {NODE_LOSSES + 1} times "
                f"({type(error).__name__}): check the cluster's nodes"
            ) from error
    if "error" in answer:
        raise error_named(answer["error"])(answer["message"])
    return answer


def _refit(
    store: Store, sweep: str, dataset_id: str, best: Trial, settings: Settings, mailbox: Any, sender: Origin
) -> dict[str, Any]:
    """Train in a process of the cluster; what is refused on purpose comes back as data."""
    torch.set_num_threads(1)
    stacks.listen()
    node_id = ray.get_runtime_context().get_node_id()
    with joined(sender, "refit.worker", node_id=node_id, rank=0, candidate=TUNED):
        beats = Beats(mailbox.post.remote, candidate=TUNED, rank=0, node_id=node_id)
        return _trained(store, sweep, dataset_id, best, settings, beats)


def _trained(
    store: Store, sweep: str, dataset_id: str, best: Trial, settings: Settings, beats: Beats
) -> dict[str, Any]:
    beats("loading", force=True)

    def on_epoch(metrics: EpochMetrics, capture: Callable[[], LoopState]) -> None:
        beats("training", epoch=metrics.epoch, windows_per_s=metrics.windows_per_s, rss_mb=metrics.rss_mb, force=True)

    def on_step(step: int) -> None:
        beats("training", step=step)

    device = "cuda" if settings.training.use_gpu else "cpu"
    try:
        dataset = load_dataset(store, dataset_id, test=False)
        judged = _of_trial(Ledger(store, sweep).checkpoints(best), best, dataset)
        rows = dataset.frames, dataset.transforms, settings
        if judged is None:  # somebody removed its checkpoint: the same training gives the same network
            judged = fit_recurrent(best.cell, *rows, on_step=on_step, device=device).forecaster
        fitted = refit_recurrent(judged, *rows, on_epoch=on_epoch, on_step=on_step, device=device)
    except FltsError as error:
        return {"error": error.name, "message": str(error)}
    beats("finished", force=True)
    return {
        "refitted": fitted.forecaster.state(),
        "judged": judged.state(),
        "fit_s": fitted.result.fit_s,
        "train_windows": fitted.result.train_windows,
        "history": [asdict(metrics) for metrics in fitted.result.history],
    }


def _of_trial(checkpoints: Store, best: Trial, dataset: Dataset) -> RecurrentForecaster | None:
    """The network of the trial's best epoch, out of its last checkpoint; None if there is none."""
    found = newest_checkpoint(checkpoints)
    if found is None:
        return None
    state = found[1]
    net = RecurrentNet(RecurrentShape.model_validate(state.meta["shape"]))
    net.load_state_dict(state.part("best"))
    scalers = {series: transform.target_scalers for series, transform in dataset.transforms.items()}
    return RECURRENT[best.cell](net, scalers)
