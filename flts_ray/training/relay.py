"""What crosses machines: heartbeats to the driver, and the driver's looks at processes on other nodes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from flts_ray.telemetry.heartbeat import Beat
from flts_ray.telemetry.logging import LOGGER, event
from flts_ray.training import stacks
from flts_ray.training.stacks import Look

POLL_EVERY_S = 0.25
NODE_ANSWER_S = 30.0
"""Longest wait for a node to look at, or end, one of its processes."""

T = TypeVar("T")


class Relay:
    """Carries heartbeats from workers to the driver, through one small actor of 0 CPUs on the driver's node.

    Use as a context manager around the fits.

    Attributes:
        mailbox: Handle of the actor: workers call ``mailbox.post.remote(beat)`` and never wait for it.
    """

    mailbox: Any

    def __init__(self, on_beat: Callable[[Beat], None]) -> None:
        """Take the function that is to receive every heartbeat, on a thread of the driver."""
        self._on_beat = on_beat
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.mailbox = ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=here)(_Mailbox).remote()
        self._thread = threading.Thread(target=self._pump, name="heartbeats", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=10)
        with suppress(ray.exceptions.RayError):  # a cluster that is gone has no actor left to end
            ray.kill(self.mailbox)

    @property
    def closed(self) -> bool:
        """Whether whoever asked for the fits has left. Ray goes next: a thread that still fits must not turn to it."""
        return self._stop.is_set()

    def _pump(self) -> None:
        stopped = False
        while not stopped:
            stopped = self._stop.wait(POLL_EVERY_S)  # one last look after the end
            try:
                beats = ray.get(self.mailbox.drain.remote(), timeout=5)
            except ray.exceptions.RayError:
                continue  # the actor is restarting; workers go on without it
            for beat in beats:
                try:
                    self._on_beat(beat)
                except Exception:  # noqa: BLE001  a listener that fails must not look like workers that hang
                    LOGGER.exception("heartbeat_lost", extra={"fields": beat})


class _Mailbox:
    def __init__(self) -> None:
        self._beats: list[Beat] = []

    def post(self, beat: Beat) -> None:
        self._beats.append(beat)

    def drain(self) -> list[Beat]:
        beats, self._beats = self._beats, []
        return beats


def look_at(beat: Beat) -> Look:
    """The stacks of the process that sent a heartbeat."""
    try:
        return _there(stacks.look, beat)
    except ray.exceptions.RayError as error:
        return Look(True, f"no stacks: node {beat['node_id'][:12]} does not answer ({type(error).__name__})")


def end(beat: Beat) -> None:
    """SIGKILL the process that sent a heartbeat, if it is still there."""
    try:
        killed = _there(stacks.kill, beat)
    except ray.exceptions.RayError as error:
        fields = {"candidate": beat["candidate"], "pid": beat["pid"], "node_id": beat["node_id"]}
        event("kill_failed", level=logging.WARNING, **fields, reason=type(error).__name__)
    else:
        event("killed", candidate=beat["candidate"], rank=beat["rank"], pid=beat["pid"], found=killed)


def _there(function: Callable[[int], T], beat: Beat) -> T:
    """Call a function with the sender's process id on the sender's node."""
    place = NodeAffinitySchedulingStrategy(beat["node_id"], soft=False)
    task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=place)(function)
    answer: T = ray.get(task.remote(beat["pid"]), timeout=NODE_ANSWER_S)
    return answer
