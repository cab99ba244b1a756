"""Signs of life: what each fit is doing, kept by the driver, shown while it runs, and held against the clock."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Beat = dict[str, Any]

BEAT_EVERY_S = 1.0
CONTROLLER = -1
"""Rank of what starts and restarts the workers of a candidate; theirs count from 0."""

PLACE = ("pid", "stage", "epoch", "step", "done")
"""The fields of a beat that tell how far its sender is: while none changes there is no progress."""


@dataclass(frozen=True, slots=True)
class Sign:
    """The last that was heard from one process.

    Attributes:
        beat: Its last heartbeat.
        progress_s: Clock of the last one that told of anything new.
    """

    beat: Beat
    progress_s: float


@dataclass
class Pulse:
    """Collects heartbeats from every fit, hands each to the listeners, one at a time, and remembers the last."""

    listeners: list[Callable[[Beat], None]] = field(default_factory=list)
    clock: Callable[[], float] = time.monotonic
    _signs: dict[tuple[str, int], Sign] = field(default_factory=dict)
    _memory: threading.Lock = field(default_factory=threading.Lock)  # never held while somebody else's code runs
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def beat(self, beat: Beat) -> None:
        """Record one heartbeat: a mapping with at least ``candidate`` and ``stage``, and ``rank`` if a process sent it.

        A beat that repeats where its sender was is heard and passed on, but is no progress.
        """
        if "rank" in beat:
            key, now = (str(beat["candidate"]), int(beat["rank"])), self.clock()
            with self._memory:
                before = self._signs.get(key)
                stuck = before is not None and _place(before.beat) == _place(beat)
                self._signs[key] = Sign(beat, before.progress_s if before is not None and stuck else now)
        with self._turn:
            for listener in self.listeners:
                listener(beat)

    def signs(self, candidate: str) -> dict[int, Sign]:
        """What was last heard from each process of a candidate, by rank."""
        with self._memory:
            return {rank: sign for (name, rank), sign in self._signs.items() if name == candidate}

    def forget(self, candidate: str, *ranks: int) -> None:
        """Expect nothing more of these ranks."""
        with self._memory:
            for rank in ranks:
                self._signs.pop((candidate, rank), None)


def _place(beat: Beat) -> tuple[Any, ...]:
    return tuple(beat.get(name) for name in PLACE)


class Beats:
    """Sends the heartbeats of one process, at most one a second unless forced."""

    def __init__(self, post: Callable[[Beat], object], *, candidate: str, rank: int, node_id: str) -> None:
        """Take what carries a beat to the driver, and who sends."""
        self._post = post
        self._always = {"candidate": candidate, "rank": rank, "pid": os.getpid(), "node_id": node_id}
        self._last_s = float("-inf")

    @property
    def due(self) -> bool:
        """Whether a beat that is not forced would be sent now."""
        return time.monotonic() - self._last_s >= BEAT_EVERY_S

    def __call__(self, stage: str, *, force: bool = False, **fields: Any) -> None:
        """Tell of a stage, and of anything else that is known."""
        if force or self.due:
            self._last_s = time.monotonic()
            self._post({**self._always, "stage": stage, "time_ms": int(time.time() * 1000), **fields})
