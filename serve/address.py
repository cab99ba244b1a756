"""The one address of the local profile: a replica takes it over from the one before it."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

from flts_ray.errors import ClusterError

POLL_S = 0.1
RELEASE_S = 1.0
"""From the moment that a port is free until Ray Serve's controller, which looks several times a second, knows."""


def reuse_address() -> None:
    """Let this replica listen on a port that connections of its predecessor still hold.

    Ray Serve (2.60) binds a replica's port without SO_REUSEADDR. After a crash or a stop under load the kernel then
    keeps the port for a minute, and every new replica fails to start.
    """
    from ray.serve._private import replica

    start = replica.start_asgi_http_server

    async def start_reusing(
        app: Any, options: Any, *, event_loop: asyncio.AbstractEventLoop, enable_so_reuseport: bool = False
    ) -> Any:
        return await start(app, options, event_loop=event_loop, enable_so_reuseport=True)

    replica.start_asgi_http_server = start_reusing


def wait_until_free(host: str, port: int, *, limit_s: float) -> None:
    """Wait until nobody listens on a port: the replica of a redeploy starts while the one before it drains.

    Raises:
        ClusterError: If somebody still does after ``limit_s`` seconds.
    """
    deadline = time.monotonic() + limit_s
    waited = False
    while not is_free(host, port):
        if time.monotonic() > deadline:
            raise ClusterError(f"{host}:{port} is still taken after {limit_s:g} s: choose another serve.port")
        waited = True
        time.sleep(POLL_S)
    if waited:
        time.sleep(RELEASE_S)


def is_free(host: str, port: int) -> bool:
    """Whether nobody listens on a port; connections that are ending do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
