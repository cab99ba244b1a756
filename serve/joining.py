"""Lets a replica count as started only when the load balancer before it sends it clients."""

from __future__ import annotations

import asyncio
from typing import Protocol

from flts_ray.telemetry.logging import WARNING, event

POLL_S = 0.1
LIMIT_S = 20.0
"""Four readiness probes of five seconds."""


class Settling(Protocol):
    """What a replica waits for before it may take the place of another."""

    @property
    def settled(self) -> bool:
        """Whether a model answers, or the registry has said that there is none."""

    @property
    def alive(self) -> bool:
        """Whether anything will still change that."""


class Joining:
    """Lets a replica wait for its model, and then until somebody has heard from ``/readyz`` that it is ready.

    What rolls replicas, or moves all clients to another cluster, goes by Ray Serve's word that the new ones run. Those
    whose probe has not passed by then get nobody's requests, and a moment without any that do is an outage.
    """

    def __init__(self) -> None:
        self._heard = False

    def heard(self) -> None:
        """``/readyz`` has answered that the replica is ready."""
        self._heard = True

    async def settle(self, models: Settling) -> None:
        """Wait for as long as it takes: while the registry is away, the replicas that have a model go on answering."""
        told = False
        while not (self._heard or models.settled) and models.alive:
            if not told:
                event("replica_waits_for_model", level=WARNING)
                told = True
            await asyncio.sleep(POLL_S)

    async def wait(self, *, limit_s: float = LIMIT_S) -> None:
        """Wait until then, once and not for ever: without a balancer that asks, the replica is started all the same."""
        waited_s = 0.0
        while not self._heard and waited_s < limit_s:
            await asyncio.sleep(POLL_S)
            waited_s += POLL_S
        if not self._heard:
            event("readyz_not_asked", level=WARNING, waited_s=limit_s)
            self._heard = True
