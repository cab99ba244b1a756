"""Work on many series as Ray tasks of one CPU: in chunks, tried again, watched, each with an outcome of its own."""

from __future__ import annotations

import logging
import sys
import time as clock
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic

from flts_ray.errors import ClusterError, StalledError
from flts_ray.telemetry import tracing
from flts_ray.telemetry.heartbeat import Beats
from flts_ray.telemetry.logging import event
from flts_ray.telemetry.origin import Origin, joined, origin
from flts_ray.training import stacks
from flts_ray.training.outcomes import Failure, J, R, attempt, in_this_process, may_work

if TYPE_CHECKING:
    from flts_ray.training.relay import Relay
    from flts_ray.training.watchdog import Watchdog

CHUNK_ROWS = 2_500
"""A task takes short series together until they hold this many rows: sending it then costs little beside its work."""

PAYS_FROM_ROWS = 1_000_000
"""Fewer rows of linear algebra are done here before they have been sent: 2 s of ridge regression at 170 inputs."""

HEARTBEAT_S = 5.0

NODE_LOSSES = 3
"""Times Ray sends a task again whose process or node was lost."""

CANCEL_S = 3.0
"""Longest wait for cancelled tasks to end."""

HUNG = Failure("stalled: it made no progress, in a fresh process neither", StalledError, again=True)

Around = Callable[[], AbstractContextManager[object]]


def where_it_pays(work: Callable[[J], R], jobs: Sequence[J]) -> list[R | Failure]:
    """Do work on every series: as Ray tasks where Ray runs already and there is much to do, else in this process.

    Returns:
        One outcome a job, in order; the same wherever it was done.
    """
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized() or sum(job.rows for job in jobs) < PAYS_FROM_ROWS:
        return in_this_process(work, jobs)
    return as_tasks(work, jobs, candidate="ridge")


def as_tasks(
    work: Callable[[J], R],
    jobs: Sequence[J],
    *,
    candidate: str,
    around: Around = nullcontext,
    on_progress: Callable[[int, int], None] = lambda done, failed: None,
    parallel: Callable[[], int] | None = None,
    timeout_s: float | None = None,
    stall_timeout_s: float = float("inf"),
    relay: Relay | None = None,
    watchdog: Watchdog | None = None,
) -> list[R | Failure]:
    """Do work on every series as Ray tasks. Ray must be running.

    Work that raises is tried once more, by itself; a task that hangs is ended by the watchdog and sent once more, to
    a fresh process; one whose node is lost is sent again by Ray. What was done stays done. Tasks take any idle
    process of Ray's, so that what one has imported is there for the next; Ray pins them to one thread.

    Args:
        work: A function of one job; it travels, so it and its arguments must be picklable.
        jobs: One a series, or several.
        candidate: Whose work it is, in heartbeats, events and traces.
        around: Makes a context that each task works in; it travels too.
        on_progress: Told whenever a task ends, and every :data:`HEARTBEAT_S` seconds in between, how many jobs are
            done, and how many of these have failed.
        parallel: How many tasks may run just now, asked again and again; without it, as many as Ray has CPUs for.
        timeout_s: After so long the rest is cancelled and counts as failed.
        stall_timeout_s: Seconds without progress after which a task hangs.
        relay: Receives the heartbeats of the tasks. Once it is closed nothing is sent any more, and what is not done
            counts as failed: Ray, which is about to end, takes the rest away.
        watchdog: Ends tasks that hang, by those heartbeats; without it, nobody does.

    Returns:
        One outcome a job, in order.
    """
    import ray

    started = clock.perf_counter()
    task = ray.remote(num_cpus=1, max_retries=NODE_LOSSES)(_do_chunk)
    mailbox, sender = None if relay is None else relay.mailbox, origin()

    def send(chunk: Chunk) -> object:
        part = [jobs[i] for i in chunk.jobs]
        return task.remote(work, part, around, candidate, mailbox, chunk.rank, sender)

    def left() -> bool:
        return relay is not None and relay.closed

    unsent = Failure(f"not done within {timeout_s} s", again=True)
    tasks: Tasks[J, R] = Tasks(candidate, jobs, send, [unsent] * len(jobs))
    try:
        with ExitStack() as stack:
            if watchdog is not None:
                stack.enter_context(
                    watchdog.watch(
                        candidate, lambda stages: stall_timeout_s, ranks=tasks.running, on_stall=tasks.give_up
                    )
                )
            while tasks.unfinished and not left():
                tasks.send(None if parallel is None else parallel())
                tasks.collect(HEARTBEAT_S)
                on_progress(tasks.done, tasks.failed)
                if timeout_s is not None and clock.perf_counter() - started > timeout_s:
                    break
    finally:
        if not left():
            tasks.cancel()
    return tasks.outcomes


@dataclass(frozen=True, slots=True)
class Chunk:
    """Jobs of one task; its rank names it in heartbeats."""

    rank: int
    jobs: tuple[int, ...]
    last_try: bool = False


@dataclass
class Tasks(Generic[J, R]):
    """Tasks that wait, run and are done.

    Attributes:
        candidate: Whose work it is.
        jobs: All of them.
        submit: Sends a chunk and returns Ray's reference of its task.
        outcomes: One a job; before it is done, what holds if it never will be.
        done: Jobs that have their outcome.
        failed: Those of them that have failed.
        pending: Chunks that Ray has, by reference.
        waiting: Chunks that it does not have yet.
        hung: Ranks of chunks that the watchdog gave up.
    """

    candidate: str
    jobs: Sequence[J]
    submit: Callable[[Chunk], object]
    outcomes: list[R | Failure]
    done: int = 0
    failed: int = 0
    pending: dict[Any, Chunk] = field(default_factory=dict)
    waiting: deque[Chunk] = field(init=False)
    hung: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        parts = chunks([job.rows for job in self.jobs])
        self.waiting = deque(Chunk(rank, tuple(part)) for rank, part in enumerate(parts))
        self._ranks = len(self.waiting)

    @property
    def unfinished(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self.waiting or self.pending)

    def send(self, parallel: int | None) -> None:
        """Send what waits, until so many tasks run."""
        while self.waiting and (parallel is None or len(self.pending) < max(1, parallel)):
            chunk = self.waiting.popleft()
            self.pending[self.submit(chunk)] = chunk

    def collect(self, wait_s: float) -> None:
        """Take what is ready; what failed and may work the next time waits again, each job by itself."""
        import ray

        ready, _ = ray.wait(list(self.pending), timeout=wait_s)
        for ref in ready:
            chunk = self.pending.pop(ref)
            hung = chunk.rank in self.hung
            outcomes = [HUNG] * len(chunk.jobs) if hung else _result(ref, len(chunk.jobs))
            retry = [i for i, outcome in zip(chunk.jobs, outcomes, strict=True) if may_work(outcome)]
            if chunk.last_try:
                retry = []
            for i, outcome in zip(chunk.jobs, outcomes, strict=True):
                if i not in retry:
                    self.outcomes[i] = outcome
                    self.done += 1
                    self.failed += isinstance(outcome, Failure)
                elif isinstance(outcome, Failure):
                    event(f"{self.candidate}_retry", level=logging.WARNING, **self.jobs[i].names, reason=outcome.reason)
            for part in [tuple(retry)] if hung and retry else [(i,) for i in retry]:
                self.waiting.append(Chunk(self._ranks, part, last_try=True))
                self._ranks += 1

    def running(self) -> list[int]:
        """Ranks of the tasks that Ray has."""
        return [chunk.rank for chunk in list(self.pending.values())]

    def give_up(self, ranks: Sequence[int]) -> None:
        """Cancel tasks that hang. Called by the watchdog, before it ends their processes: Ray must not resend them."""
        import ray

        self.hung.update(ranks)
        for ref, chunk in list(self.pending.items()):
            if chunk.rank in ranks:
                ray.cancel(ref, force=True)

    def cancel(self) -> None:
        """Let nothing run on; wait a moment for its end, so that what it leaves behind can be removed."""
        import ray

        for ref in self.pending:
            ray.cancel(ref, force=True)
        if self.pending:
            ray.wait(list(self.pending), num_returns=len(self.pending), timeout=CANCEL_S)


def chunks(sizes: Sequence[int], limit: int = CHUNK_ROWS) -> Iterator[range]:
    """Cut ``range(len(sizes))`` into runs that hold at most ``limit`` rows, or one job."""
    start = held = 0
    for i, size in enumerate(sizes):
        if i > start and held + size > limit:
            yield range(start, i)
            start, held = i, 0
        held += size
    if start < len(sizes):
        yield range(start, len(sizes))


def _do_chunk(
    work: Callable[[J], R], jobs: Sequence[J], around: Around, candidate: str, mailbox: Any, rank: int, sender: Origin
) -> list[R | Failure]:
    import ray

    stacks.listen()
    post = (lambda beat: None) if mailbox is None else mailbox.post.remote
    node_id = ray.get_runtime_context().get_node_id()
    beats = Beats(post, candidate=candidate, rank=rank, node_id=node_id)
    outcomes: list[R | Failure] = []
    with (
        joined(sender, f"{candidate}.worker", node_id=node_id, rank=rank, candidate=candidate, fits=len(jobs)),
        around(),
    ):
        for job in jobs:
            beats("fitting", **job.names, done=len(outcomes), force=not outcomes)
            with tracing.span(f"{candidate}.fit", **job.names, rows=job.rows):
                outcomes.append(attempt(work, job))
    return outcomes


def _result(ref: Any, size: int) -> list[Any]:
    import ray

    try:
        results: list[Any] = ray.get(ref)
    except ray.exceptions.RayError as error:
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        return [Failure(reason, ClusterError, again=True)] * size
    return results
