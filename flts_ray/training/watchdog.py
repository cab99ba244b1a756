"""Notices fits that make no progress: tells of it, with stacks, and ends what hangs so that it can be restarted.

Ray finds a dead worker within seconds and a hung one never: polls are answered by another thread of the process. What
happens after a kill is not decided here: Ray Train restarts its group, Prophet's tasks are sent again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from flts_ray.telemetry.heartbeat import CONTROLLER, Beat, Pulse, Sign
from flts_ray.telemetry.logging import LOGGER, event
from flts_ray.training.stacks import Look

AWAY = 5.0
"""Checks come this many times later than they should when this process itself was held up."""

RESTART_STAGES = ("scheduling", "restarting", "rescheduling")
"""What a controller is doing while the workers known so far are no longer there."""

Limit = Callable[[frozenset[str]], float]
"""Seconds without progress that are fine for processes in these stages; no stage: none has begun."""


@dataclass
class Watch:
    """One fit under watch.

    Attributes:
        candidate: Its name in the heartbeats.
        limit_s: How long it may be silent.
        ranks: The processes that run just now, each for itself; None: they work in step, one that moves stands for all.
        on_stall: Told the ranks, before they are killed.
        since_s: Clock of when it was begun, or ended by force.
        stalls: What was said of each stall.
        unanswered: The last stall, as long as no other process has been heard of since.
        ended: The processes that were killed, by node and id: what still arrives from them is old.
    """

    candidate: str
    limit_s: Limit
    ranks: Callable[[], Iterable[int]] | None
    on_stall: Callable[[Sequence[int]], None]
    since_s: float
    stalls: list[str] = field(default_factory=list)
    unanswered: str = ""
    ended: set[tuple[str, int]] = field(default_factory=set)


class Watchdog:
    """Checks the fits under watch once a second, on a thread of its own. Use as a context manager."""

    def __init__(
        self,
        pulse: Pulse,
        *,
        look: Callable[[Beat], Look],
        kill: Callable[[Beat], None],
        every_s: float = 1.0,
    ) -> None:
        """Take the heartbeats, and what can see and end the process that sent one."""
        self._pulse, self._look, self._kill, self._every_s = pulse, look, kill, every_s
        self._watches: list[Watch] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._checked_s = pulse.clock()

    def __enter__(self) -> Self:
        self._pulse.listeners.append(self.hear)
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        self._pulse.listeners.remove(self.hear)

    @contextmanager
    def watch(
        self,
        candidate: str,
        limit_s: Limit,
        *,
        ranks: Callable[[], Iterable[int]] | None = None,
        on_stall: Callable[[Sequence[int]], None] = lambda ranks: None,
    ) -> Iterator[Watch]:
        """Watch a fit as long as the context lasts; see :class:`Watch`."""
        self._pulse.forget(candidate, *self._pulse.signs(candidate))
        watch = Watch(candidate, limit_s, ranks, on_stall, self._pulse.clock())
        self._watches.append(watch)
        try:
            yield watch
        finally:
            self._watches.remove(watch)

    def hear(self, beat: Beat) -> None:
        """Take a heartbeat that tells of a new group of workers."""
        if "rank" not in beat:
            return
        name, rank, sender = str(beat["candidate"]), int(beat["rank"]), (beat["node_id"], beat["pid"])
        if rank == CONTROLLER:
            if beat["stage"] in RESTART_STAGES:
                self._pulse.forget(name, *(known for known in self._pulse.signs(name) if known != CONTROLLER))
            return
        for watch in [watch for watch in list(self._watches) if watch.candidate == name]:
            if sender in watch.ended:
                self._pulse.forget(name, rank)
            else:
                watch.unanswered = ""

    def check(self) -> None:
        """Look at every fit once."""
        now = self._pulse.clock()
        late, self._checked_s = now - self._checked_s > AWAY * self._every_s, now
        for watch in list(self._watches):
            if late:  # this process was held up, and so were the beats that wait for it
                watch.since_s = now
            signs = self._pulse.signs(watch.candidate)
            if watch.ranks is not None:
                for rank in watch.ranks():
                    if rank in signs:
                        self._judge(watch, {rank: signs[rank]}, [signs[rank]], now)
            else:
                workers = {rank: sign for rank, sign in signs.items() if rank != CONTROLLER}
                self._judge(watch, workers or signs, list(signs.values()), now)

    def _judge(self, watch: Watch, group: dict[int, Sign], heard: list[Sign], now: float) -> None:
        silent_s = now - max([watch.since_s, *(sign.progress_s for sign in heard)])
        stages = frozenset(str(sign.beat["stage"]) for rank, sign in group.items() if rank != CONTROLLER)
        if silent_s > watch.limit_s(stages):
            self._end(watch, group, silent_s)

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self.check()
            except Exception:  # noqa: BLE001  a look that fails must not end the watch
                LOGGER.exception("watchdog_failed")

    def _end(self, watch: Watch, group: dict[int, Sign], silent_s: float) -> None:
        """Tell of a stall, then end the processes that hang."""
        looks = {rank: self._look(sign.beat) for rank, sign in group.items()}
        if watch.ranks is not None and not any(look.alive for look in looks.values()):
            self._pulse.forget(watch.candidate, *group)  # no longer there: Ray has seen that and sends it again
            return
        for rank, sign in group.items():
            event("stalled", level=logging.ERROR, **_where(sign.beat), seconds=round(silent_s, 1),
                  stacks=looks[rank].stacks)  # fmt: skip
        if not group:
            event("stalled", level=logging.ERROR, candidate=watch.candidate, seconds=round(silent_s, 1),
                  stacks="no stacks: no process of this fit has been heard of")  # fmt: skip
        watch.stalls.append(_sentence(group, silent_s))
        watch.unanswered = watch.stalls[-1]
        watch.on_stall(sorted(group))
        for sign in group.values():
            watch.ended.add((sign.beat["node_id"], sign.beat["pid"]))
            self._kill(sign.beat)
        self._pulse.forget(watch.candidate, *group)
        if watch.ranks is None:
            watch.since_s = self._pulse.clock()


def _where(beat: Beat) -> Beat:
    names = ("candidate", "rank", "pid", "node_id", "stage", "epoch", "step", "done")
    return {name: beat[name] for name in names if name in beat}


def _sentence(group: dict[int, Sign], silent_s: float) -> str:
    if not group:
        return f"nothing was heard for {silent_s:.0f} s"
    rank, sign = min(group.items(), key=lambda item: item[1].progress_s)
    who = "its controller" if rank == CONTROLLER else f"rank {rank}"
    beat = sign.beat
    place = ", ".join(f"{name} {beat[name]}" for name in ("stage", "epoch", "step", "done") if name in beat)
    return f"{who} (process {beat['pid']}) made no progress for {silent_s:.0f} s ({place})"
