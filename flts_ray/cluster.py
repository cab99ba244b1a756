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
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from flts_ray.config import RunSettings
from flts_ray.errors import ClusterError, ResourceError
from flts_ray.telemetry.logging import event

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


class Cluster:
    """A Ray cluster, local or remote, entered lazily.

    Use as a context manager: whatever was started here is stopped at the end.
    """

    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings
        self._started = False
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
                    ray.init(
                        address="local",
                        num_cpus=self._settings.num_cpus,
                        include_dashboard=False,
                        _node_ip_address="127.0.0.1",
                        **quiet,
                    )
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
        self.start_s = time.perf_counter() - started
        event("ray_started", address=address or "local", cpus=self.cpus(), seconds=round(self.start_s, 2))

    def cpus(self) -> float:
        """CPUs of the whole cluster."""
        import ray

        return float(ray.cluster_resources().get("CPU", 0.0))

    def check_fits(self, *, name: str, workers: int, cpus_per_worker: float, gpus_per_worker: float = 0.0) -> None:
        """Refuse a request that this cluster can never serve.

        Raises:
            ResourceError: Naming what was asked for and what there is.
        """
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        places = sum(
            int(min(_ratio(node.get("CPU", 0.0), cpus_per_worker), _ratio(node.get("GPU", 0.0), gpus_per_worker)))
            for node in nodes
        )
        if places < workers:
            gpus = f" and {gpus_per_worker:g} GPU" if gpus_per_worker else ""
            raise ResourceError(
                f"{name} asks for {workers} workers of {cpus_per_worker:g} CPU{gpus} each, but this cluster of "
                f"{len(nodes)} node(s) with {self.cpus():g} CPUs has room for {places}: lower training.workers or "
                "training.cpus_per_worker, or add nodes"
            )


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
    for name, value in DRIVER_ENVIRONMENT.items():
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
