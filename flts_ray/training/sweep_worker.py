"""The body of a trial: the plain loop in the trial's own process, or Ray Train where a trial has several workers."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import ray
import torch
from ray import tune

from flts_ray.config import Settings
from flts_ray.data.frame import SeriesFrame
from flts_ray.data.storage import Store
from flts_ray.data.transform import Transform
from flts_ray.errors import FltsError, InfrastructureError
from flts_ray.models.recurrent import Cell
from flts_ray.telemetry.heartbeat import Beat, Beats, Pulse
from flts_ray.telemetry.origin import Origin, joined
from flts_ray.training import stacks
from flts_ray.training.checkpoint import checkpoint_name, newest_checkpoint, write_checkpoint
from flts_ray.training.fit import fit_recurrent
from flts_ray.training.loop_state import EpochMetrics, LoopState
from flts_ray.training.relay import Relay, end, look_at
from flts_ray.training.sweep_ledger import Ledger, Trial
from flts_ray.training.sweep_space import applied
from flts_ray.training.watchdog import Watchdog

SWEEP = "sweep"
"""Candidate of the trials' heartbeats; their rank is the trial's number."""

METRIC = "best_val_composite"
"""What trials are compared by: the lowest validation composite so far, since the weights of that epoch are kept."""

EPOCH = "epoch"
METRICS = "metrics"
REFUSED = "refused"

Rows = tuple[Sequence[SeriesFrame], Mapping[str, Transform]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What all trials of a sweep share.

    Attributes:
        store: Where dataset and checkpoints lie.
        sweep: The sweep's id.
        dataset_id: The dataset.
        settings: What a trial's combination is laid over.
        mailbox: Receives heartbeats.
        origin: Who asks, for log lines and traces.
    """

    store: Store
    sweep: str
    dataset_id: str
    settings: Settings
    mailbox: Any
    origin: Origin


def run_trial(config: dict[str, Any], *, job: Job, rows: Rows) -> None:
    """Train one combination, from its last checkpoint if there is one, and report every epoch to Tune.

    What the training refuses on purpose is reported as data: trying again would change nothing.

    Args:
        config: A trial, as its document.
        job: What all trials share.
        rows: Train rows and transforms of every station.
    """
    torch.set_num_threads(1)
    stacks.listen()
    trial = Trial.model_validate(config)
    node_id = ray.get_runtime_context().get_node_id()
    names = {"candidate": SWEEP, "cell": trial.cell}
    with joined(job.origin, "sweep.trial", node_id=node_id, rank=trial.number, **names):
        _run(trial, job, rows, Beats(job.mailbox.post.remote, candidate=SWEEP, rank=trial.number, node_id=node_id))


def _run(trial: Trial, job: Job, rows: Rows, beats: Beats) -> None:
    settings = applied(job.settings, trial.params)
    reports = _Reports(beats)
    checkpoints = Ledger(job.store, job.sweep).checkpoints(trial)
    reports.beats("loading", force=True)
    found = newest_checkpoint(
        checkpoints,
        on_damaged=lambda name, reason: reports.beats("checkpoint_damaged", checkpoint=name, reason=reason, force=True),
    )
    if found is not None:
        reports.beats("resumed", epoch=len(found[1].history), checkpoint=found[0], force=True)
        for metrics in found[1].history:
            reports(asdict(metrics))
    try:
        if settings.training.workers == 1:
            _fit_here(trial.cell, settings, rows, checkpoints, found, reports)
        else:
            _fit_on_workers(trial, settings, job, reports)
    except InfrastructureError:
        raise
    except FltsError as error:
        tune.report({EPOCH: 0, METRIC: math.inf, REFUSED: str(error)})
    reports.beats("finished", force=True)


class _Reports:
    """Tells Tune of every epoch once; Tune may answer by ending the trial inside the call."""

    def __init__(self, beats: Beats) -> None:
        self.beats = beats
        self._best, self._epoch = math.inf, 0

    def __call__(self, metrics: Mapping[str, float]) -> None:
        if metrics["epoch"] <= self._epoch:
            return  # an epoch that was done twice, since its checkpoint was lost
        self._epoch = int(metrics["epoch"])
        self._best = min(self._best, metrics["val_composite"])
        self.beats("epoch", force=True, **metrics)
        tune.report({EPOCH: self._epoch, METRIC: self._best, METRICS: dict(metrics)})


def _fit_here(
    cell: Cell,
    settings: Settings,
    rows: Rows,
    checkpoints: Store,
    found: tuple[str, LoopState] | None,
    reports: _Reports,
) -> None:
    last = found[0] if found else ""

    def on_epoch(metrics: EpochMetrics, capture: Callable[[], LoopState]) -> None:
        nonlocal last
        name = checkpoint_name(metrics.epoch)
        write_checkpoint(capture(), checkpoints, name)
        if last:
            checkpoints.delete(last)
        last = name
        reports(asdict(metrics))

    frames, transforms = rows
    fit_recurrent(
        cell,
        frames,
        transforms,
        settings,
        resume=found[1] if found else None,
        on_epoch=on_epoch,
        on_step=lambda step: reports.beats("training", step=step),
        device="cuda" if settings.training.use_gpu else "cpu",
    )


def _fit_on_workers(trial: Trial, settings: Settings, job: Job, reports: _Reports) -> None:
    """Drive a Ray Train run from this process, which holds no CPU."""
    from flts_ray.training.trainer import fit_on_ray

    stopped = threading.Event()

    def hear(beat: Beat) -> None:
        if stopped.is_set():
            return
        if beat.get("rank") == 0 and beat["stage"] == "epoch":
            metrics = {name: beat[name] for name in EpochMetrics.__dataclass_fields__}
            try:
                reports(metrics)
            except SystemExit:  # Tune's way to end the trial; it ends this process next
                stopped.set()
        else:
            reports.beats(str(beat["stage"]), step=beat.get("step"))

    pulse = Pulse([hear])
    ledger = Ledger(job.store, job.sweep)
    with Relay(pulse.beat) as relay, Watchdog(pulse, look=look_at, kill=end) as watchdog:
        fit_on_ray(
            trial.cell,
            store=job.store,
            dataset_id=job.dataset_id,
            settings=settings,
            run_name=ledger.checkpoint_name(trial),
            relay=relay,
            watchdog=watchdog,
        )
