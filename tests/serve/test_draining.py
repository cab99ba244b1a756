"""A replica hears that it is about to end before Ray Serve closes it."""

from __future__ import annotations

import asyncio

import pytest
from ray.serve._private.replica import Replica

from serve.draining import on_draining

pytestmark = pytest.mark.unit


def test_it_is_told_before_the_shutdown_which_happens_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []

    async def shut_down(self: object) -> None:
        heard.append("shut down")

    monkeypatch.setattr(Replica, "_perform_graceful_shutdown", shut_down)
    on_draining(lambda: heard.append("told"))
    asyncio.run(Replica._perform_graceful_shutdown(object()))
    assert heard == ["told", "shut down"]
