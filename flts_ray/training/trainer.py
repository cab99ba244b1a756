"""Runs the training loop under Ray Train: one or more workers, checkpoints, resume, bounded retries."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any

import ray
import ray.train
import ray.train.torch

from flts_ray.config import Settings
from flts_ray.data.arrow_storage import arrow_place
from flts_ray.data.storage import Store
from flts_ray.errors import (
    ClusterError,
    FltsError,
    InfrastructureError,
    StalledError,
    StorageError,
    TrainingError,
    error_named,
)
from flts_ray.models.recurrent import RECURRENT, Cell
from flts_ray.redaction import redacted
from flts_ray.telemetry.logging import event
from flts_ray.telemetry.origin import origin
from flts_ray.training.fit import FittedRecurrent
from flts_ray.training.loop_state import EpochMetrics, FitResult
from flts_ray.training.relay import Relay
from flts_ray.training.watchdog import Limit, Watch, Watchdog
from flts_ray.training.worker import Sealed, Telltale, failure_reason, train_worker

START_S = 180.0
"""Starting and ending processes may take this long, however soon a training counts as stalled."""

START_FAILURES = 2
"""Times Ray Train may fail to start the workers before it gives up."""

PREEMPTIONS = 8
"""Times nodes may be taken away while a candidate trains; these do not count as failures."""

PEER_TIMEOUT_S = 120
"""A worker waits this long for the numbers of another."""

SNAPSHOT = "checkpoint_manager_snapshot.json"
"""Ray Train's record of its checkpoints, beside them."""


def fit_on_ray(
    cell: Cell,
    *,
    store: Store,
    dataset_id: str,
    settings: Settings,
    run_name: str,
    relay: Relay,
    watchdog: Watchdog | None = None,
) -> FittedRecurrent:
    """Train one network on the cluster. Ray must be running and have room (see :meth:`Cluster.check_fits`).

    A run of the same name that was cut off continues from its last checkpoint. Dead workers are restarted by Ray
    Train, hung ones are ended by the watchdog first. If Ray Train itself gives up because the store or a node went
    away, it is called again, once the store answers and as long as the relay is open.

    Args:
        cell: ``gru`` or ``lstm``.
        store: Where the datasets are, and checkpoints go.
        dataset_id: What to train on; only its train files are read.
        settings: Windows, network, training and seed.
        run_name: Name of the checkpoints, the same for the same work.
        relay: Receives the heartbeats.
        watchdog: Ends workers that hang; without it, nobody does.

    Raises:
        TrainingError: If the code of the workers failed more often than ``training.max_failures`` allows.
        ClusterError: If workers or nodes were lost more often than that.
        StorageError: If the store stays away longer than ``storage.deadline_s``.
        StalledError: If the workers hung more often than that.
        FltsError: What the loop refused on purpose, as it was raised.
    """
    checkpoints = store.child(f"checkpoints/{run_name}")
    repaired = False
    attempt = 0
    while True:
        watching = nullcontext() if watchdog is None else watchdog.watch(cell, _limits(settings, store))
        with watching as watch:
            try:
                trainer = _trainer(cell, store, checkpoints, dataset_id, settings, run_name, relay)
                return _fitted(cell, trainer.fit().return_value)
            except (ray.train.TrainingFailedError, ray.exceptions.RayError, OSError) as error:
                if not repaired and "CheckpointManagerInitializationError" in str(error):
                    event("checkpoint_record_damaged", level=logging.WARNING, candidate=cell, reason=redacted(error))
                    repaired = True
                    checkpoints.delete(SNAPSHOT)  # workers look for the checkpoints themselves
                    continue
                failure, again = _explained(cell, error, watch, settings.training.max_failures)
                attempt += 1
                # Ray ends the whole process, exit code and all, if it is asked for anything while it is shut down.
                if relay.closed or not again or attempt > settings.training.max_failures:
                    raise failure from error
        event(
            "fit_interrupted",
            level=logging.WARNING,
            candidate=cell,
            attempt=attempt,
            error=type(failure).__name__,
            reason=str(failure),
        )
        store.wait_until_up(settings.storage.deadline_s)
        if relay.closed:
            raise failure


def _trainer(
    cell: Cell, store: Store, checkpoints: Store, dataset_id: str, settings: Settings, run_name: str, relay: Relay
) -> ray.train.torch.TorchTrainer:
    training = settings.training
    place, filesystem = arrow_place(store.child("checkpoints"))
    return ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config={
            "cell": cell,
            "store": store,
            "checkpoints": checkpoints,
            "dataset_id": dataset_id,
            "settings": Sealed(settings.model_dump_json()),
            "mailbox": relay.mailbox,
            "origin": origin(),
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=training.workers,
            use_gpu=training.use_gpu,
            resources_per_worker={"CPU": training.cpus_per_worker, **({"GPU": 1} if training.use_gpu else {})},
        ),
        torch_config=ray.train.torch.TorchConfig(
            backend="nccl" if training.use_gpu else "gloo", timeout_s=PEER_TIMEOUT_S
        ),
        run_config=ray.train.RunConfig(
            name=run_name,
            storage_path=place,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(
                max_failures=training.max_failures,
                controller_failure_limit=START_FAILURES,
                max_preemption_failures=PREEMPTIONS,
            ),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            callbacks=[Telltale(cell, relay.mailbox)],
        ),
    )


def _fitted(cell: Cell, answer: dict[str, Any]) -> FittedRecurrent:
    if "error" in answer:
        raise error_named(answer["error"])(answer["message"])
    result = FitResult(**{**answer["result"], "history": tuple(EpochMetrics(**m) for m in answer["result"]["history"])})
    forecaster = RECURRENT[cell].from_state(answer["meta"], answer["arrays"])
    return FittedRecurrent(forecaster, result, resumed_from_epoch=answer["resumed_from"])


def _limits(settings: Settings, store: Store) -> Limit:
    """Silence that is fine: longer where workers start or end, or wait for a store that may be away for a while."""
    stall_s = settings.watchdog.stall_timeout_s
    start_s = max(stall_s, START_S)
    away_s = settings.storage.deadline_s + settings.storage.timeout_s if store.uri.startswith("s3://") else 0.0

    def limit(stages: frozenset[str]) -> float:
        if not stages or "finished" in stages:
            return start_s
        return max(stall_s, away_s) if stages & {"loading", "loaded", "epoch", "checkpoint"} else stall_s

    return limit


def _explained(cell: Cell, error: Exception, watch: Watch | None, allowed: int) -> tuple[FltsError, bool]:
    """What a failed fit comes down to, and whether calling it again may help."""
    reason = redacted(failure_reason(error))
    if watch is not None and watch.unanswered:
        times = len(watch.stalls)
        return StalledError(
            f"training {cell} hung {times} time{'s' if times > 1 else ''}, the last time {watch.unanswered}; "
            f"training.max_failures allows {allowed} restarts: see the stacks in the events 'stalled', or raise "
            "watchdog.stall_timeout_s if the work is only slow"
        ), isinstance(error, ray.exceptions.RayError)
    if isinstance(error, ray.train.WorkerGroupError):
        causes = list(error.worker_failures.values())
        for cause in causes:
            if isinstance(cause, InfrastructureError):  # it has waited its time already
                return cause, False
        lost = any(_is_lost(cause) for cause in causes)
        return (ClusterError if lost else TrainingError)(f"training {cell} failed on its workers: {reason}"), False
    cause = getattr(error, "controller_failure", None) or error
    if isinstance(cause, OSError) and not isinstance(cause, ConnectionError):
        return StorageError(f"training {cell} could not write its checkpoints ({reason}): check the store"), True
    exhausted = isinstance(error, ray.train.PreemptionError) or type(cause).__name__.startswith("WorkerGroupStartup")
    return ClusterError(
        f"Ray could not go on with training {cell} ({reason}): check the cluster's nodes"
    ), not exhausted


def _is_lost(cause: Exception) -> bool:
    """Whether a worker's process or node went away, rather than its code failed."""
    return isinstance(getattr(cause, "health_check_failure", cause), ray.exceptions.RayError)
