"""Runs the training loop under Ray Train: one or more workers, checkpoints, resume, heartbeats."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
import ray.train
import ray.train.torch
import torch

from flts_ray.config import Settings
from flts_ray.data.arrow_storage import arrow_place
from flts_ray.data.dataset import load_dataset
from flts_ray.data.storage import Store
from flts_ray.errors import FltsError, IntegrityError, TrainingError
from flts_ray.models.recurrent import RECURRENT, Cell
from flts_ray.telemetry.heartbeat import Beat
from flts_ray.telemetry.memory import rss_mb
from flts_ray.training.checkpoint import read_checkpoint, write_checkpoint
from flts_ray.training.communicator import TorchCommunicator
from flts_ray.training.fit import FittedRecurrent, fit_recurrent
from flts_ray.training.loop_state import EpochMetrics, FitResult, LoopState

BEAT_EVERY_S = 1.0
POLL_EVERY_S = 0.25


class Relay:
    """Carries heartbeats from training workers to the driver, through one small actor of 0 CPUs.

    Use as a context manager around the fits.
    """

    def __init__(self, on_beat: Callable[[Beat], None]) -> None:
        """Take the function that is to receive every heartbeat, on a thread of the driver."""
        self._on_beat = on_beat
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        self.mailbox = ray.remote(num_cpus=0, max_restarts=-1)(_Mailbox).remote()
        self._thread = threading.Thread(target=self._pump, name="heartbeats", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=10)
        ray.kill(self.mailbox)

    def _pump(self) -> None:
        stopped = False
        while not stopped:
            stopped = self._stop.wait(POLL_EVERY_S)  # one last look after the end
            try:
                beats = ray.get(self.mailbox.drain.remote(), timeout=5)
            except ray.exceptions.RayError:
                continue  # the actor is restarting; workers go on without it
            for beat in beats:
                self._on_beat(beat)


class _Mailbox:
    def __init__(self) -> None:
        self._beats: list[Beat] = []

    def post(self, beat: Beat) -> None:
        self._beats.append(beat)

    def drain(self) -> list[Beat]:
        beats, self._beats = self._beats, []
        return beats


def fit_on_ray(
    cell: Cell, *, store: Store, dataset_id: str, settings: Settings, run_name: str, relay: Relay
) -> FittedRecurrent:
    """Train one network on the cluster. Ray must be running and have room (see :meth:`Cluster.check_fits`).

    A run of the same name that was cut off continues from its last checkpoint.

    Args:
        cell: ``gru`` or ``lstm``.
        store: Where the datasets are, and checkpoints go.
        dataset_id: What to train on; only its train files are read.
        settings: Windows, network, training and seed.
        run_name: Name of the checkpoints, the same for the same work.
        relay: Receives the heartbeats.

    Raises:
        TrainingError: If the workers failed more often than ``training.max_failures`` allows, with the reason.
        FltsError: What the loop refused on purpose, as it was raised.
    """
    training = settings.training
    place, filesystem = arrow_place(store.child("checkpoints"))
    trainer = ray.train.torch.TorchTrainer(
        _train_worker,
        train_loop_config={
            "cell": cell,
            "store": store,
            "dataset_id": dataset_id,
            "settings": settings.model_dump_json(),
            "mailbox": relay.mailbox,
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=training.workers,
            use_gpu=training.use_gpu,
            resources_per_worker={"CPU": training.cpus_per_worker, **({"GPU": 1} if training.use_gpu else {})},
        ),
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if training.use_gpu else "gloo", timeout_s=120),
        run_config=ray.train.RunConfig(
            name=run_name,
            storage_path=place,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=training.max_failures, controller_failure_limit=2),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        answer = trainer.fit().return_value
    except ray.train.TrainingFailedError as error:
        raise TrainingError(f"training {cell} failed on its workers: {_reason(error)}") from error
    if "error" in answer:
        raise _rebuilt(answer["error"], answer["message"])
    result = FitResult(**{**answer["result"], "history": tuple(EpochMetrics(**m) for m in answer["result"]["history"])})
    return FittedRecurrent(RECURRENT[cell].from_state(answer["meta"], answer["arrays"]), result)


def _train_worker(config: dict[str, Any]) -> dict[str, Any]:
    """The body of every worker. Deliberate refusals come back as data: retrying them would change nothing."""
    torch.set_num_threads(1)
    context = ray.train.get_context()
    beat = _Beats(config["cell"], context.get_world_rank(), config["mailbox"])
    before_mb = rss_mb()
    beat(stage="loading", rss_mb=before_mb, force=True)
    try:
        dataset = load_dataset(config["store"], config["dataset_id"], test=False)
        beat(stage="loaded", rss_mb=rss_mb(), rss_before_mb=before_mb, force=True)
        fitted = fit_recurrent(
            config["cell"],
            dataset.frames,
            dataset.transforms,
            settings=Settings.model_validate_json(config["settings"]),
            comm=TorchCommunicator() if context.get_world_size() > 1 else None,
            resume=_last_checkpoint(beat),
            on_epoch=beat.epoch,
            on_step=lambda step: beat(stage="training", step=step),
            device=ray.train.torch.get_device(),
        )
    except FltsError as error:
        return {"error": type(error).__name__, "message": str(error)}
    meta, arrays = fitted.forecaster.state()
    return {"meta": meta, "arrays": arrays, "result": asdict(fitted.result)}


class _Beats:
    """Posts this worker's heartbeats, at most one a second unless forced."""

    def __init__(self, candidate: str, rank: int, mailbox: Any) -> None:
        self._always = {"candidate": candidate, "rank": rank}
        self._mailbox = mailbox
        self._last_s = 0.0

    def __call__(self, *, force: bool = False, **fields: Any) -> None:
        now = time.monotonic()
        if force or now - self._last_s >= BEAT_EVERY_S:
            self._last_s = now
            self._mailbox.post.remote({**self._always, "time_ms": int(time.time() * 1000), **fields})

    def epoch(self, metrics: EpochMetrics, capture: Callable[[], LoopState]) -> None:
        """Report one epoch: to the driver at once, and to Ray Train with a checkpoint from rank 0."""
        if self._always["rank"] != 0:
            ray.train.report({"epoch": metrics.epoch})
            return
        self(stage="epoch", force=True, **asdict(metrics))
        with tempfile.TemporaryDirectory(prefix="flts-checkpoint-") as folder:
            write_checkpoint(capture(), Path(folder))
            ray.train.report(
                asdict(metrics),
                checkpoint=ray.train.Checkpoint.from_directory(folder),
                checkpoint_dir_name=f"epoch_{metrics.epoch:05d}",
            )


def _last_checkpoint(beat: _Beats) -> LoopState | None:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    try:
        with checkpoint.as_directory() as folder:
            state = read_checkpoint(Path(folder))
    except IntegrityError as error:
        beat(stage="checkpoint_damaged", reason=str(error), force=True)
        return None  # training anew costs time, refusing would cost the candidate
    beat(stage="resumed", epoch=len(state.history), force=True)
    return state


def _rebuilt(name: str, message: str) -> FltsError:
    import flts_ray.errors as tree

    kind = getattr(tree, name, TrainingError)
    return kind(message) if issubclass(kind, FltsError) else TrainingError(message)


def _reason(error: BaseException) -> str:
    """The first line that a person can act on, out of Ray's nested tracebacks."""
    failures = getattr(error, "worker_failures", None) or {0: getattr(error, "controller_failure", None) or error}
    rank, cause = next(iter(failures.items()))
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"rank {rank}: {lines[-1] if lines else type(cause).__name__}"
