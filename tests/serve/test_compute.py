"""Batches: each query fails alone, what is late is dropped, long forecasts wait in a lane of their own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from flts_ray.errors import BusyError, DataError, DeadlineError, FltsError
from flts_ray.inference.engine import Engine
from flts_ray.inference.queries import Query
from serve.admission import Admission
from serve.compute import Lanes, Outcome
from serve.instruments import NullInstruments

pytestmark = pytest.mark.unit


def batch(*, max_batch_size: int, batch_wait_timeout_s: float) -> Callable[..., Any]:
    """As ``serve.batch``, which needs a replica around it: what waits is computed together."""
    assert batch_wait_timeout_s == 0.0

    def decorate(compute: Callable[[list[Any]], Awaitable[list[Any]]]) -> Callable[[Any], Awaitable[Any]]:
        waiting: list[tuple[Any, asyncio.Future[Any]]] = []
        running: list[asyncio.Task[None]] = []

        async def work_off() -> None:
            while waiting:
                together = waiting[:max_batch_size]
                del waiting[:max_batch_size]
                for (_, future), outcome in zip(together, await compute([task for task, _ in together]), strict=True):
                    if not future.done():
                        future.set_result(outcome)
            running.clear()

        async def call(task: Any) -> Any:
            future = asyncio.get_running_loop().create_future()
            waiting.append((task, future))
            if not running:
                running.append(asyncio.create_task(work_off()))
            return await future

        return call

    return decorate


@pytest.fixture(autouse=True)
def batches_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.compute.serve.batch", batch)


class Batches(NullInstruments):
    """Remembers how many queries were computed together."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def batch(self, *, size: int, waited_s: float, compute_s: float) -> None:
        assert waited_s >= 0
        self.sizes.append(size)


class OddEngine:
    """Answers a query with its own horizon; ``bad`` ones are refused, ``cursed`` ones break everything."""

    bundle = SimpleNamespace(manifest=SimpleNamespace(horizon=10))

    def __init__(self, *, seconds: float = 0.0, bad: frozenset[int] = frozenset(), cursed: int = -1) -> None:
        self.seconds, self.bad, self.cursed = seconds, bad, cursed
        self.computed: list[int] = []

    def forecast(self, queries: Sequence[Any], *, deadline: float | None = None) -> list[Outcome]:
        time.sleep(self.seconds)
        if any(q.horizon == self.cursed for q in queries):
            raise ZeroDivisionError("a flaw")
        self.computed += [q.horizon for q in queries]
        return [DataError("bad") if q.horizon in self.bad else cast("Outcome", q.horizon) for q in queries]


def query(number: int) -> Query:
    return cast("Query", SimpleNamespace(horizon=number))


def run(
    engine: OddEngine, *requests: Sequence[int], deadline_s: float = 5.0, max_batch_size: int = 8, max_long: int = 2
) -> tuple[list[Any], list[int]]:
    """What each request is answered, asked at the same time; an exception in place of an answer that failed."""
    instruments = Batches()

    async def all_of_them() -> list[Any]:
        lanes = Lanes(instruments, Admission(100), max_batch_size=max_batch_size, max_long=max_long)
        try:
            asked = (
                lanes.run(cast("Engine", engine), [query(n) for n in numbers], deadline_s=deadline_s)
                for numbers in requests
            )
            return await asyncio.gather(*asked, return_exceptions=True)
        finally:
            lanes.close()

    return asyncio.run(all_of_them()), instruments.sizes


def test_requests_that_come_together_are_computed_together_and_answered_in_order() -> None:
    answers, sizes = run(OddEngine(seconds=0.02), [1], [2], [3, 4], [5])
    assert answers == [[1], [2], [3, 4], [5]]
    assert sum(sizes) == 5
    assert max(sizes) > 1


def test_batches_are_no_larger_than_allowed() -> None:
    _, sizes = run(OddEngine(seconds=0.01), *[[n] for n in range(1, 9)], max_batch_size=3)
    assert max(sizes) <= 3
    assert sum(sizes) == 8


def test_a_bad_query_fails_alone() -> None:
    answers, _ = run(OddEngine(bad=frozenset({2})), [1], [2], [3])
    assert (answers[0], answers[2]) == ([1], [3])
    assert isinstance(answers[1][0], DataError)


def test_a_query_that_brings_a_flaw_to_light_fails_alone_too() -> None:
    answers, _ = run(OddEngine(seconds=0.02, cursed=2), [1], [3, 2], [4])
    assert (answers[0], answers[2]) == ([1], [4])
    assert answers[1][0] == 3
    assert type(answers[1][1]) is FltsError


def test_what_takes_too_long_is_told_so_and_what_waited_too_long_is_not_computed() -> None:
    engine = OddEngine(seconds=0.3)
    answers, _ = run(engine, [1], [2], deadline_s=0.1, max_batch_size=1)
    assert all(isinstance(answer, DeadlineError) for answer in answers)
    assert engine.computed in ([1], [])


def test_long_forecasts_do_not_hold_up_the_others_and_are_bounded() -> None:
    engine = OddEngine(seconds=0.05)
    answers, sizes = run(engine, [11], [12], [13], [1], max_long=2)
    assert (answers[0], answers[1], answers[3]) == ([11], [12], [1])
    assert isinstance(answers[2][0], BusyError)
    assert sizes == [1]
