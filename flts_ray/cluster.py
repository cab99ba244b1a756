"""The Ray session: started only when something needs it, quiet, and private to this process unless told otherwise."""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

from flts_ray.config import RunSettings
from flts_ray.errors import ClusterError, ResourceError
from flts_ray.telemetry.logging import bind, event

DRIVER_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # also bounds how often a worker can report
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "300",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a thread that outlives the session must not start another one
    "RAY_worker_niceness": "0",  # the default, 15, lets anything else on the machine starve a training
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""What Ray reads from the driver's environment. A value that the user set stays."""

LOCAL_ENVIRONMENT = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
"""No notice is given before this machine goes: a process less in every training."""

SHARED_ENVIRONMENT = {"RAY_TRAIN_ENABLE_STATE_TRACKING": "1"}
"""There is a dashboard to ask."""

START_TIMEOUT = "timed out during startup"
"""What Ray says of a node of its own that took too long."""

NODES_POLL_S = 1.0
"""Between two looks at whether the nodes that were asked for are there."""


class Cluster:
    """A Ray cluster, local or remote, entered lazily.

    Use as a context manager: whatever was started here is stopped at the end.
    """

    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings
        self._started = False
        self._remote = False
        self.start_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._started:
            import ray

            ray.shutdown()
            self._started = False

    def ensure(self) -> None:
        """Connect to the cluster, or start one on this machine, unless that has been done.

        Raises:
            ClusterError: If that fails.
        """
        started = time.perf_counter()
        address = self._settings.ray_address or os.environ.get("RAY_ADDRESS", "")
        self._remote = bool(address)
        _prepare_environment(local=not address)
        import ray

        if ray.is_initialized():
            return
        logging.getLogger("ray").setLevel(logging.WARNING)
        quiet = {"logging_level": logging.WARNING, "log_to_driver": False, "configure_logging": True}
        with _own_sigterm():
            try:
                if address:
                    ray.init(address=address, **quiet)
                else:
                    _start_here(num_cpus=self._settings.num_cpus, **quiet)
            except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
                if address:
                    raise ClusterError(
                        f"the Ray cluster at {address} cannot be reached ({reason}): check run.ray_address, and that "
                        "its Ray has this version and runs"
                    ) from error
                raise ClusterError(
                    f"Ray could not be started on this machine ({reason}): check memory, disk and /tmp"
                ) from error
            self._started = True
        _keep_off_stdout()
        bind(node_id=ray.get_runtime_context().get_node_id())
        self.start_s = time.perf_counter() - started
        event("ray_started", address=address or "local", cpus=self.cpus(), seconds=round(self.start_s, 2))
        if not self.cpus():  # a head without CPUs whose workers are still to come: nothing could run
            self.check_fits(name="the run", workers=1, cpus_per_worker=1.0)

    def cpus(self) -> float:
        """CPUs of the whole cluster."""
        import ray

        return float(ray.cluster_resources().get("CPU", 0.0))

    def check_fits(self, *, name: str, workers: int, cpus_per_worker: float, gpus_per_worker: float = 0.0) -> None:
        """Make sure that the cluster has room. One that is not ours may grow when asked: it is waited for.

        Raises:
            ResourceError: If it has no room, after ``run.wait_for_nodes_s`` where waiting may help; the message names
                what was asked for and what there is.
        """
        worker = {"CPU": cpus_per_worker, **({"GPU": gpus_per_worker} if gpus_per_worker else {})}
        waited_s = 0.0
        if _places(worker) < workers and self._remote and self._settings.wait_for_nodes_s:
            waited_s = self._grow([worker] * workers, lambda: _places(worker) >= workers)
        places = _places(worker)
        if places < workers:
            gpus = f" and {gpus_per_worker:g} GPU" if gpus_per_worker else ""
            waiting = f" after {waited_s:.0f} s of waiting for nodes" if waited_s else ""
            raise ResourceError(
                f"{name} asks for {workers} workers of {cpus_per_worker:g} CPU{gpus} each, but this cluster of "
                f"{len(_alive_nodes())} node(s) with {self.cpus():g} CPUs has room for {places}{waiting}: lower "
                "training.workers or training.cpus_per_worker, or add nodes"
            )

    def _grow(self, bundles: list[dict[str, float]], enough: Callable[[], bool]) -> float:
        """Ask the autoscaler for room, wait for it, and return the seconds waited."""
        from ray.autoscaler.sdk import request_resources

        event("waiting_for_nodes", bundles=bundles[0], count=len(bundles), limit_s=self._settings.wait_for_nodes_s)
        started = time.monotonic()
        request_resources(bundles=bundles)
        try:
            while not enough() and time.monotonic() - started < self._settings.wait_for_nodes_s:
                time.sleep(NODES_POLL_S)
        finally:
            request_resources(bundles=[])  # what is used stays, what idles may go
        waited_s = time.monotonic() - started
        event("waited_for_nodes", enough=enough(), cpus=self.cpus(), seconds=round(waited_s, 1))
        return waited_s


def _alive_nodes() -> list[dict[str, float]]:
    """Resources of each node."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _places(worker: Mapping[str, float]) -> int:
    """How many such workers all nodes have room for, were they free."""
    return sum(
        int(min(_ratio(node.get(resource, 0.0), needed) for resource, needed in worker.items()))
        for node in _alive_nodes()
    )


def _start_here(**options: Any) -> None:
    """Start a Ray of our own, and once more if it did not come up in time: Ray gives it 30 s, which nobody can set.

    Raises:
        TimeoutError: If it did not come up that time either.
    """
    import psutil
    import ray

    family = set(psutil.Process().children(recursive=True))
    for again in (True, False):
        try:
            ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1", **options)
        except Exception as error:  # Ray raises just that
            if START_TIMEOUT not in str(error):
                raise
            if not again:
                raise TimeoutError(str(error)) from error
            event("ray_start_timed_out", level=logging.WARNING, reason="not up after 30 s: started anew")
            left = set(psutil.Process().children(recursive=True)) - family
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=10)
        else:
            return


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the program's answer to SIGTERM: Ray puts its own in place, which prints a C++ trace."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _keep_off_stdout() -> None:
    """Make events of what Ray tells of lost processes and nodes: it prints that on stdout, ``log_to_driver`` or not."""
    import ray._private.worker as session

    def tell(data: dict[str, Any], print_file: Any, ignore_prefix: bool = False) -> None:
        for text in data.get("lines", ()):
            first = next(iter(str(text).strip().splitlines()), "")
            event("ray_message", level=logging.WARNING, source=str(data.get("pid")), text=first[:500])

    session.print_worker_logs = tell


def _prepare_environment(*, local: bool) -> None:
    more = LOCAL_ENVIRONMENT if local else SHARED_ENVIRONMENT
    for name, value in {**DRIVER_ENVIRONMENT, **more}.items():
        os.environ.setdefault(name, value)
    if local and "RAY_AUTH_MODE" not in os.environ:
        # Unset, Ray makes a token and writes it into the user's home. It reads the mode when it is imported.
        imported = "ray" in sys.modules
        os.environ["RAY_AUTH_MODE"] = "disabled" if imported else "token"
        if not imported:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _ratio(available: float, needed: float) -> float:
    return available / needed if needed else float("inf")


def submission_id() -> str | None:
    """The id under which ``ray job submit`` started this process, if it did."""
    meta = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("metadata", {})
    found = meta.get("job_submission_id")
    return str(found) if found else None
