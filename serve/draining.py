"""Lets a replica know that it is about to end while it still answers, so that it can send new clients elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def on_draining(tell: Callable[[], None]) -> None:
    """Call ``tell`` once Ray Serve wants the replica of this process to end, before it drains.

    Ray Serve (2.60) keeps a replica open for ``serve.drain_s`` and tells nobody but its own ``/-/healthz``. A load
    balancer that asks ``/readyz`` must hear of it in that time, or its next requests find nobody.
    """
    from ray.serve._private.replica import Replica

    shut_down = Replica._perform_graceful_shutdown

    async def tell_and_shut_down(self: Any) -> None:
        tell()
        await shut_down(self)

    Replica._perform_graceful_shutdown = tell_and_shut_down
