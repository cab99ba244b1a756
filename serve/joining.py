"""Lets a replica count as started only when the load balancer before it sends it clients."""

from __future__ import annotations

import asyncio

from flts_ray.telemetry.logging import WARNING, event

POLL_S = 0.1
LIMIT_S = 20.0
"""Four readiness probes of five seconds."""


class Joining:
    """Waits until somebody has heard from ``/readyz`` that the replica is ready.

    What rolls replicas, or moves all clients to another cluster, goes by Ray Serve's word that the new ones run. Those
    whose probe has not passed by then get nobody's requests, and a moment without any that do is an outage.
    """

    def __init__(self) -> None:
        self._heard = False

    def heard(self) -> None:
        """``/readyz`` has answered that the replica is ready."""
        self._heard = True

    async def wait(self, *, limit_s: float = LIMIT_S) -> None:
        """Wait until then, once and not for ever: without a balancer that asks, the replica is started all the same."""
        waited_s = 0.0
        while not self._heard and waited_s < limit_s:
            await asyncio.sleep(POLL_S)
            waited_s += POLL_S
        if not self._heard:
            event("readyz_not_asked", level=WARNING, waited_s=limit_s)
            self._heard = True
