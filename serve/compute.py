"""The computing side of a replica: batches off the event loop, long forecasts in a lane of their own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ray import serve

from flts_ray.errors import BusyError, DeadlineError, FltsError
from flts_ray.inference.engine import Engine
from flts_ray.inference.queries import Forecast, Query
from flts_ray.telemetry import tracing
from flts_ray.telemetry.logging import LOGGER
from serve.admission import Admission
from serve.service import Instruments

Outcome = Forecast | FltsError


@dataclass(frozen=True, slots=True)
class Task:
    """One query waiting for its turn; times are those of ``time.monotonic``, the span is that of its request."""

    engine: Engine
    query: Query
    arrived: float
    deadline: float
    span: tracing.Open | None = None


class Lanes:
    """Computes queries in two threads: one for batches of direct forecasts, one for long (recursive) ones.

    Args:
        instruments: What is told of batches and queues.
        admission: What is told of the cost of batches.
        max_batch_size: Queries computed together.
        max_long: Long queries that may wait or run; more are refused.
    """

    def __init__(self, instruments: Instruments, admission: Admission, *, max_batch_size: int, max_long: int) -> None:
        self._instruments, self._admission = instruments, admission
        self._fast = ThreadPoolExecutor(1, thread_name_prefix="forecast")
        self._long = ThreadPoolExecutor(1, thread_name_prefix="long-forecast")
        self._max_long, self._in_long, self._waiting = max_long, 0, 0
        # Made for this object: a decorated method has one queue for all objects of its class.
        batched = serve.batch(max_batch_size=max_batch_size, batch_wait_timeout_s=0.0)
        self._batch: Callable[[Task], Awaitable[Outcome]] = batched(self._compute_together)

    async def run(self, engine: Engine, queries: Sequence[Query], *, deadline_s: float) -> list[Outcome]:
        """Answer the queries, in order; each fails alone.

        Raises:
            DeadlineError: If ``deadline_s`` seconds pass first.
        """
        now, span = time.monotonic(), tracing.here()
        tasks = [Task(engine, query, now, now + deadline_s, span) for query in queries]
        self._waiting += len(tasks)
        self._instruments.queue(self._waiting)
        try:
            async with asyncio.timeout(deadline_s):
                if len(tasks) == 1:
                    return [await self._one(tasks[0])]
                return list(await asyncio.gather(*map(self._one, tasks)))
        except TimeoutError as error:
            raise DeadlineError(f"no forecast within {deadline_s:g} s: ask for less, or again later") from error
        finally:
            self._waiting -= len(tasks)

    def close(self) -> None:
        """Take no more work; what runs ends."""
        self._fast.shutdown(wait=False, cancel_futures=True)
        self._long.shutdown(wait=False, cancel_futures=True)

    async def _one(self, task: Task) -> Outcome:
        if task.query.horizon <= task.engine.bundle.manifest.horizon:
            return await self._batch(task)
        if self._in_long >= self._max_long:
            return BusyError(f"{self._in_long} long forecasts wait already: ask again later or for fewer steps")
        self._in_long += 1
        try:
            with tracing.span("compute.long"):
                return (await asyncio.get_running_loop().run_in_executor(self._long, _compute, [task]))[0]
        finally:
            self._in_long -= 1

    async def _compute_together(self, tasks: list[Task]) -> list[Outcome]:
        started = time.monotonic()
        outcomes = await asyncio.get_running_loop().run_in_executor(self._fast, self._compute_batch, tasks)
        ended = time.monotonic()
        self._instruments.batch(
            size=len(tasks), waited_s=started - min(task.arrived for task in tasks), compute_s=ended - started
        )
        _trace(tasks, started, ended)
        return outcomes

    def _compute_batch(self, tasks: Sequence[Task]) -> list[Outcome]:
        started = time.thread_time()
        outcomes = _compute(tasks)
        self._admission.computed(queries=len(tasks), cpu_s=time.thread_time() - started)
        return outcomes


def _trace(tasks: Sequence[Task], started: float, ended: float) -> None:
    """Tell the span of each request in a batch how long it waited, and with how many others it was computed."""
    asked = {id(span): (span, task.arrived) for task in tasks if (span := task.span) is not None}
    for span, arrived in asked.values():
        tracing.past(span, "wait", arrived, started)
        tracing.past(span, "compute", started, ended, **{"flts.batch.size": len(tasks)})


def _compute(tasks: Sequence[Task]) -> list[Outcome]:
    """In a thread: what is past its deadline is dropped, the rest goes to its engine together."""
    now = time.monotonic()
    outcomes: list[Outcome | None] = [
        DeadlineError("the request waited past its deadline") if task.deadline <= now else None for task in tasks
    ]
    # During a swap a batch can hold queries of the old model and of the new one.
    for engine in {id(task.engine): task.engine for task in tasks}.values():
        places = [i for i, task in enumerate(tasks) if task.engine is engine and outcomes[i] is None]
        if places:
            found = _answers(engine, [tasks[i].query for i in places], max(tasks[i].deadline for i in places))
            for i, outcome in zip(places, found, strict=True):
                outcomes[i] = outcome
    return [outcome for outcome in outcomes if outcome is not None]


def _answers(engine: Engine, queries: Sequence[Query], deadline: float) -> list[Outcome]:
    try:
        return engine.forecast(queries, deadline=deadline)
    except Exception as error:  # noqa: BLE001 (a flaw that one query brought to light must not fail the others)
        if len(queries) == 1:
            LOGGER.error("forecast_failed", exc_info=error)
            return [FltsError("the forecast failed, by a flaw of the service: its log says which")]
        return [outcome for query in queries for outcome in _answers(engine, [query], deadline)]
