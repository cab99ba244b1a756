"""A replica counts as started when the load balancer knows that it is ready."""

from __future__ import annotations

import asyncio

import pytest

from serve import joining
from serve.joining import Joining

pytestmark = pytest.mark.unit


def test_it_waits_until_somebody_heard_that_it_is_ready() -> None:
    async def story() -> list[bool]:
        replica = Joining()
        waiting = asyncio.create_task(replica.wait(limit_s=30))
        await asyncio.sleep(3 * joining.POLL_S)
        before = waiting.done()
        replica.heard()
        await waiting
        return [before, waiting.done()]

    assert asyncio.run(story()) == [False, True]


class Models:
    """Those of a replica, told by hand."""

    settled = False
    alive = True


@pytest.mark.parametrize("what", ["settled", "alive"])
def test_a_replica_waits_for_the_registrys_word_or_until_nothing_will_change_it(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(joining, "event", lambda name, **_: said.append(name))

    async def story() -> bool:
        models = Models()
        waiting = asyncio.create_task(Joining().settle(models))
        await asyncio.sleep(3 * joining.POLL_S)
        before = waiting.done()
        setattr(models, what, what == "settled")
        await waiting
        return before

    assert asyncio.run(story()) is False
    assert said == ["replica_waits_for_model"]


def test_a_replica_that_has_joined_waits_for_nobody_again() -> None:
    async def story() -> None:
        replica = Joining()
        replica.heard()
        await asyncio.wait_for(replica.settle(Models()), 5)

    asyncio.run(story())


def test_where_nobody_asks_it_starts_all_the_same_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(joining, "event", lambda name, **_: said.append(name))

    async def story() -> None:
        replica = Joining()
        await replica.wait(limit_s=0.2)
        await replica.wait(limit_s=30)

    asyncio.run(story())
    assert said == ["readyz_not_asked"]
