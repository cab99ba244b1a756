"""The service in the foreground of this machine: start Ray and Serve, say where it answers, wait, drain."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import psutil

from flts_ray.cluster import Cluster
from flts_ray.config import Settings
from flts_ray.errors import ClusterError, ConfigError
from flts_ray.telemetry.logging import ERROR, WARNING, event
from serve.address import is_free

START_TIMEOUT_S = 180.0
APPLICATION = "flts"


def run_service(settings: Settings, identifier: str, *, announce: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM, then let the requests in progress end.

    Args:
        settings: The whole configuration.
        identifier: What to serve.
        announce: Gets the one line that says where the service answers.

    Raises:
        ConfigError: If the port is taken, or the settings name a Ray cluster elsewhere or ask for one.
        ClusterError: If the service does not come up.
    """
    wanted = settings.serve
    if elsewhere := settings.run.ray_address or os.environ.get("RAY_ADDRESS", ""):
        raise ConfigError(f"flts serve runs on this machine, not on {elsewhere}: there, `serve deploy` a Serve file")
    if wanted.profile == "cluster":
        raise ConfigError(
            "flts serve runs on this machine, and the cluster profile on several: `serve deploy` it there"
        )
    if not is_free(wanted.host, wanted.port):
        raise ConfigError(f"{wanted.host}:{wanted.port} is taken: choose another --port")
    scratch = Path(tempfile.mkdtemp(prefix="flts-serve-"))
    try:
        _set_environment(settings, scratch)
        # The machine is ours: a replica that replaces another must always find room beside it.
        cpus = max(os.cpu_count() or 1, int(2 * (wanted.max_replicas or wanted.replicas) * wanted.cpus_per_replica) + 1)
        with Cluster(settings.run.model_copy(update={"num_cpus": cpus})) as cluster, _stop_signal() as stopped:
            cluster.ensure()
            _serve(settings, identifier, announce, stopped, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _serve(
    settings: Settings, identifier: str, announce: Callable[[str], None], stopped: threading.Event, scratch: Path
) -> None:
    from ray import serve
    from ray.serve.config import HTTPOptions

    from serve.app import build

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    wanted = settings.serve
    behind_proxy = wanted.profile == "throughput"
    # In the local profile Serve's own proxy is not used: it gets a port out of the way.
    proxy_port = wanted.port if behind_proxy else _free_port()
    serve.start(http_options=HTTPOptions(host=wanted.host, port=proxy_port))
    try:
        serve.run(build(settings, identifier), name=APPLICATION, blocking=False)
        address = f"http://{wanted.host}:{wanted.port}"
        _wait_until_alive(address, stopped)
        if not stopped.is_set():
            announce(f"serving {identifier} at {address}")
            event("serving", address=address, identifier=identifier, profile=wanted.profile)
            _follow(stopped)
        event("draining")
        if behind_proxy:
            _close_proxy(scratch, limit_s=wanted.deadline_s)
    finally:
        serve.delete(APPLICATION)
        serve.shutdown()
        event("stopped")


def _close_proxy(scratch: Path, *, limit_s: float) -> None:
    """Let our HAProxy take no more connections and end when those that it has are answered.

    Ray Serve would first take the application out of it, and whoever asks then is told that the path does not exist.
    """
    ours = []
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] == "haproxy" and str(scratch) in " ".join(process.info["cmdline"] or ()):
            process.send_signal(signal.SIGUSR1)  # its own word for a soft stop
            ours.append(process)
    psutil.wait_procs(ours, timeout=limit_s)


def _follow(stopped: threading.Event) -> None:
    """Wait, and tell of every change of the application's state."""
    from ray import serve

    last = "RUNNING"
    while not stopped.wait(1.0):
        application = serve.status().applications.get(APPLICATION)
        state = "GONE" if application is None else str(application.status.value)
        if state != last:
            message = "" if application is None else application.message
            event("service_state", level=WARNING if state != "RUNNING" else 20, state=state, message=message)
            last = state


def _wait_until_alive(address: str, stopped: threading.Event) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not stopped.is_set():
        try:
            with urllib.request.urlopen(f"{address}/healthz", timeout=5):
                return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                event("service_did_not_start", level=ERROR, reason=str(error))
                raise ClusterError(
                    f"the service did not answer at {address} in {START_TIMEOUT_S:g} s: {error}"
                ) from error
        stopped.wait(0.1)


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """Inside, SIGINT and SIGTERM set the event; a second one interrupts at once."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        if stopped.is_set():
            raise SystemExit(128 + number)
        stopped.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _set_environment(settings: Settings, scratch: Path) -> None:
    from serve.environment import environment

    # Another service on this machine may have the usual ports of HAProxy's own pages.
    own = {f"RAY_SERVE_HAPROXY_{page}_PORT": str(_free_port()) for page in ("STATS", "METRICS")}
    for name, value in (own | environment(settings.serve, scratch=scratch)).items():
        os.environ.setdefault(name, value)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
