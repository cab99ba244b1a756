"""The sweep: Ray Tune tries combinations of settings on the validation rows, and stops early what is worse than others.

Tune's own files are scratch. What counts is the ledger: a document a trial and a checkpoint an epoch, in the store. A
sweep that was killed begins a new Tune run that is told what is known: finished trials teach the search and the
scheduler, unfinished ones come first and go on from their checkpoints, and only what is missing is drawn anew.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import ray
from ray import tune
from ray.tune.execution.placement_groups import PlacementGroupFactory

from flts_ray.cluster import Cluster
from flts_ray.config import Settings, TrainingSettings
from flts_ray.data.dataset import load_dataset
from flts_ray.data.locks import hold
from flts_ray.data.storage import Store
from flts_ray.deadlines import deadline
from flts_ray.errors import DeadlineError, TrainingError
from flts_ray.redaction import redacted
from flts_ray.telemetry.heartbeat import Pulse
from flts_ray.telemetry.logging import event
from flts_ray.telemetry.origin import origin
from flts_ray.training.relay import Relay, end, look_at
from flts_ray.training.sweep_desk import Asha, Desk, Search, Teller
from flts_ray.training.sweep_ledger import Ledger, SweepResult, Trial, sweep_id
from flts_ray.training.sweep_space import check_space
from flts_ray.training.sweep_worker import SWEEP, Job, run_trial
from flts_ray.training.watchdog import Watchdog

DRIVER_ENVIRONMENT = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the sweep here and at once; the ledger has what is finished
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # nobody reads Tune's snapshots
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}
"""What Tune reads from the driver's environment. A value that the user set stays."""


def run_sweep(
    dataset_id: str,
    settings: Settings,
    *,
    store: Store,
    cluster: Cluster,
    pulse: Pulse,
    on_trial: Callable[[Trial], None] = lambda trial: None,
    owner: str = "",
) -> SweepResult:
    """Try ``tune.trials`` combinations, or what is missing of them. The test rows are never read.

    Args:
        dataset_id: Its train rows are learnt from; the last of them are what trials are compared on.
        settings: What combinations are laid over, and the ``tune`` section.
        store: Where the dataset lies, and ledger and checkpoints go.
        cluster: Started only if a trial is to be run.
        pulse: Receives heartbeats: of each trial, and of candidate ``sweep`` how far all are.
        on_trial: Told every trial that is known, begins, ends an epoch or ends, on this thread.
        owner: Who asks: the run's id. A second one that asks for the same sweep waits for the first.

    Raises:
        ConfigError: If something cannot be searched.
        ResourceError: If a trial can never fit on the cluster.
        TrainingError: If every trial failed.
        DeadlineError: If it takes longer than ``tune.deadline_s``.
        StorageError: If the store does not answer.
    """
    check_space(settings)
    name = sweep_id(dataset_id, settings)

    def waiting(holder: str) -> None:
        event("sweep_waiting", level=logging.WARNING, sweep_id=name, holder=holder)

    with hold(store, f"sweep-{name}", owner=owner, wait_s=settings.tune.deadline_s, on_wait=waiting):
        ledger = Ledger.open(store, name)
        if settings.run.force and _missing(ledger, settings) <= 0:
            ledger.forget()
        desk = Desk(ledger, settings, pulse, on_trial)
        event("sweep_started", sweep_id=name, trials=settings.tune.trials, known=desk.done)
        if _missing(ledger, settings) > 0:
            _tune(dataset_id, settings, desk, store=store, cluster=cluster, pulse=pulse)
        result = SweepResult(
            sweep_id=name,
            dataset_id=dataset_id,
            settings=settings,
            trials=tuple(trial for trial in ledger.in_order() if trial.ended),
        )
        best = result.best
        ledger.remove_checkpoints([trial for trial in result.trials if trial.key != best.key])
    event("sweep_done", sweep_id=name, best=best.number, val_composite=best.best, params=best.params)
    return result


def places(training: TrainingSettings) -> int:
    """Trials that fit on the cluster at once, whatever node they come to lie on."""
    free = 0
    for node in ray.nodes():
        have = node["Resources"] if node["Alive"] else {}
        room = have.get("CPU", 0.0) / training.cpus_per_worker
        free += int(min(room, have.get("GPU", 0.0)) if training.use_gpu else room)
    return max(1, free // training.workers)


def _missing(ledger: Ledger, settings: Settings) -> int:
    return settings.tune.trials - len(list(ledger.ended()))


def _tune(dataset_id: str, settings: Settings, desk: Desk, *, store: Store, cluster: Cluster, pulse: Pulse) -> None:
    """Run what is missing."""
    training = settings.training
    cluster.ensure()
    cluster.check_fits(
        name="a trial",
        workers=training.workers,
        cpus_per_worker=training.cpus_per_worker,
        gpus_per_worker=float(training.use_gpu),
    )
    for name, value in DRIVER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    dataset = load_dataset(store, dataset_id, test=False)
    stall_s = settings.watchdog.stall_timeout_s
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="flts-tune-") as scratch,
        Relay(pulse.beat) as relay,
        Watchdog(pulse, look=look_at, kill=end) as watchdog,
        watchdog.watch(SWEEP, lambda stages: stall_s, ranks=desk.running_numbers),
    ):
        job = Job(
            store=store,
            sweep=desk.ledger.sweep,
            dataset_id=dataset_id,
            settings=settings,
            mailbox=relay.mailbox,
            origin=origin(),
        )
        rows = (tuple(frame.train() for frame in dataset.frames), dataset.transforms)
        trainable = tune.with_resources(tune.with_parameters(run_trial, job=job, rows=rows), _resources(training))
        scheduler = Asha(settings)
        search = Search(desk, scheduler)
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=search,
                scheduler=scheduler,
                num_samples=_missing(desk.ledger, settings),
                max_concurrent_trials=settings.tune.concurrent or places(training),
                reuse_actors=training.workers == 1,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=scratch,
                failure_config=tune.FailureConfig(max_failures=training.max_failures),
                callbacks=[Teller(desk)],
                stop=desk.stopper(),
                verbose=0,
            ),
        )
        try:
            with deadline("tune", settings.tune.deadline_s):
                tuner.fit()
        except (tune.TuneError, DeadlineError) as error:  # Tune makes text of what is raised inside it
            if isinstance(error, DeadlineError) or time.monotonic() - started > settings.tune.deadline_s:
                raise DeadlineError(
                    f"the sweep did not end within tune.deadline_s = {settings.tune.deadline_s:g} s; {desk.done} of "
                    f"{settings.tune.trials} trials are finished and kept: the same command goes on from there"
                ) from error
            desk.check()
            raise TrainingError(f"Ray Tune gave up on the sweep: {redacted(error)}") from error
    desk.check()


def _resources(training: TrainingSettings) -> Any:
    """What a trial's own process holds: its CPUs, or none where it only drives workers that hold theirs."""
    if training.workers > 1:
        # Tune refuses a trial without any resource, and a share of a CPU would be one that the workers lack.
        return PlacementGroupFactory([{"memory": 1}])
    return {"cpu": training.cpus_per_worker, **({"gpu": 1} if training.use_gpu else {})}
