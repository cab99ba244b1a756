"""What runs inside the processes of a training: the workers' body, and the tell-tale of their controller."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import ray
import ray.train
import ray.train.collective
import ray.train.torch
import torch
from ray.train.v2._internal.execution.callback import ControllerCallback

from flts_ray.config import Settings
from flts_ray.data.dataset import load_dataset
from flts_ray.data.storage import Store
from flts_ray.errors import FltsError, InfrastructureError
from flts_ray.telemetry import tracing
from flts_ray.telemetry.heartbeat import CONTROLLER, Beats
from flts_ray.telemetry.memory import rss_mb
from flts_ray.telemetry.origin import joined
from flts_ray.training import stacks
from flts_ray.training.checkpoint import checkpoint_name, newest_checkpoint, read_checkpoint, write_checkpoint
from flts_ray.training.communicator import TorchCommunicator
from flts_ray.training.fit import fit_recurrent
from flts_ray.training.loop_state import EpochMetrics, LoopState


@dataclass(frozen=True, slots=True, repr=False)
class Sealed:
    """A text for the workers that Ray's dashboard, which shows what a training was called with, does not show."""

    text: str

    def __repr__(self) -> str:
        """Nothing of the text: the settings may hold an address with a password."""
        return "Sealed()"


class Telltale(ControllerCallback):  # type: ignore[misc]
    """Makes the controller of a training tell what it does: it starts workers, runs them, restarts them.

    Its process id is in its beats, so that a controller that hangs can be ended like a worker that does.
    """

    def __init__(self, candidate: str, mailbox: Any) -> None:
        """Take the name in the beats and where they go."""
        self._candidate, self._mailbox = candidate, mailbox

    def after_controller_start(self, train_run_context: Any) -> None:
        """Introduce the controller."""
        stacks.listen()
        self._beats = _beats(self._candidate, CONTROLLER, self._mailbox)
        self._beats("controller", force=True)

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Tell of each new state and, if a failure led to it, of the reason."""
        if type(previous_state) is type(current_state):
            return
        failure = getattr(current_state, "training_failed_error", None)
        reason = {} if failure is None else {"reason": failure_reason(failure)}
        self._beats(current_state._state_type.state_name.lower(), force=True, **reason)


def train_worker(config: dict[str, Any]) -> dict[str, Any]:
    """The body of every worker.

    What it refuses on purpose, or has waited for in vain, comes back as data: trying again at once would change
    nothing. Only one of several workers raises when the store stays away, so that no other rank waits for it for ever.
    """
    torch.set_num_threads(1)
    stacks.listen()
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    cell = config["cell"]
    with joined(config["origin"], "train.worker", node_id=_node_id(), rank=rank, candidate=cell, workers=workers):
        return _train(config)


def _train(config: dict[str, Any]) -> dict[str, Any]:
    context = ray.train.get_context()
    settings = Settings.model_validate_json(config["settings"].text)
    beats = _beats(config["cell"], context.get_world_rank(), config["mailbox"])
    before_mb = rss_mb()
    beats("loading", rss_mb=before_mb, force=True)
    try:
        with tracing.span("load", dataset_id=config["dataset_id"]):
            dataset = load_dataset(config["store"], config["dataset_id"], test=False)
        beats("loaded", rss_mb=rss_mb(), rss_before_mb=before_mb, force=True)
        checkpoints: Store = config["checkpoints"]
        resume = _resume(checkpoints, beats)
        device = ray.train.torch.get_device()
        progress = Progress(beats, checkpoints, settings.training.batch_size, len(resume.history) if resume else 0)
        fitted = fit_recurrent(
            config["cell"],
            dataset.frames,
            dataset.transforms,
            settings=settings,
            comm=TorchCommunicator() if context.get_world_size() > 1 else None,
            resume=resume,
            on_epoch=progress.epoch,
            on_step=progress.step,
            device=device,
        )
    except FltsError as error:
        if isinstance(error, InfrastructureError) and context.get_world_size() > 1:
            raise
        tracing.note("refused", error=error.name, reason=str(error))
        return {"error": error.name, "message": str(error)}
    beats("finished", force=True)
    meta, arrays = fitted.forecaster.state()
    return {"meta": meta, "arrays": arrays, "result": asdict(fitted.result), "resumed_from": fitted.resumed_from_epoch}


class Progress:
    """Makes heartbeats and checkpoints of what the training loop tells."""

    def __init__(self, beats: Beats, checkpoints: Store, batch_size: int, epochs_done: int) -> None:
        """Take where beats and checkpoints go, windows of a step over all workers, and epochs of earlier attempts."""
        self._beats, self._checkpoints, self._batch_size = beats, checkpoints, batch_size
        self._epoch = epochs_done + 1
        self._last: tuple[int, float] | None = None

    def step(self, step: int) -> None:
        """Tell of a step, at most once a second."""
        if self._last is None:
            self._last = step, time.monotonic()
        if not self._beats.due:
            return
        (before, then_s), now_s = self._last, time.monotonic()
        rate = (step - before) * self._batch_size / (now_s - then_s) if now_s > then_s else 0.0
        self._last = step, now_s
        rate = round(rate, 1)
        self._beats(
            "training", epoch=self._epoch, step=step, windows_per_s=rate, rss_mb=round(rss_mb(), 1), gpu_mb=_gpu_mb()
        )

    def epoch(self, metrics: EpochMetrics, capture: Callable[[], LoopState]) -> None:
        """Tell of an epoch: to the driver at once, and to Ray Train with a checkpoint of rank 0."""
        context = ray.train.get_context()
        self._epoch, self._last = metrics.epoch + 1, None
        tracing.note("epoch", **asdict(metrics))
        if context.get_world_rank() != 0:
            self._beats("checkpoint", epoch=metrics.epoch, rss_mb=metrics.rss_mb, gpu_mb=_gpu_mb(), force=True)
            ray.train.report({"epoch": metrics.epoch})
            return
        self._beats("epoch", force=True, **asdict(metrics), gpu_mb=_gpu_mb())
        name, place = checkpoint_name(metrics.epoch), context.get_storage()
        write_checkpoint(capture(), self._checkpoints, name)
        ray.train.report(
            asdict(metrics),
            checkpoint=ray.train.Checkpoint(
                place.build_checkpoint_path_from_name(name), filesystem=place.storage_filesystem
            ),
            checkpoint_dir_name=name,
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
        )


def failure_reason(error: BaseException) -> str:
    """The line that a person can act on, out of Ray's nested tracebacks."""
    failures = getattr(error, "worker_failures", None) or {}
    if not failures:
        return _last_line(getattr(error, "controller_failure", None) or error)
    rank, cause = next(iter(failures.items()))
    return f"rank {rank}: {_last_line(cause)}"


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # Of a dead process Ray tells in ten lines what may have killed it.
    return lines[-1].partition(" Worker exit type:")[0] if lines else type(error).__name__


def _resume(checkpoints: Store, beats: Beats) -> LoopState | None:
    """The newest checkpoint that is whole, the same on every rank.

    Ray Train's own record may lag one epoch behind or be lost; the files say what there is.
    """
    context = ray.train.get_context()
    name, state = "", None
    if context.get_world_rank() == 0:
        found = newest_checkpoint(
            checkpoints,
            on_damaged=lambda name, reason: beats("checkpoint_damaged", checkpoint=name, reason=reason, force=True),
        )
        name, state = found or ("", None)
    if context.get_world_size() > 1:
        name = ray.train.collective.broadcast_from_rank_zero(name)
        if name and state is None:
            state = read_checkpoint(checkpoints, name)
    if state is not None and context.get_world_rank() == 0:
        beats("resumed", epoch=len(state.history), checkpoint=name, force=True)
    return state


def _gpu_mb() -> float:
    """Memory that this process's tensors hold on its accelerator, in MB (1e6 bytes); 0 without one."""
    return round(torch.cuda.memory_allocated() / 1e6, 1) if torch.cuda.is_available() else 0.0


def _beats(candidate: str, rank: int, mailbox: Any) -> Beats:
    return Beats(mailbox.post.remote, candidate=candidate, rank=rank, node_id=_node_id())


def _node_id() -> str:
    return str(ray.get_runtime_context().get_node_id())
