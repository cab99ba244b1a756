"""A Ray cluster of several nodes on this machine, each of which can be killed like a machine that loses its power."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from flts_ray.cluster import START_TIMEOUT
from tests.services.ports import free_ports

FAST_DETECTION = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
"""A dead node is found after some 5 s; by default after 13."""

HEAD_ID = "f" * 51 + "00000"
AUTOSCALING = {
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
}
"""Ray's own autoscaler, the one that KubeRay runs, with a provider that starts nodes on this machine."""


@dataclass
class RayNode:
    """One ``ray start --block`` and everything below it."""

    process: subprocess.Popen[bytes]

    def family(self) -> list[psutil.Process]:
        try:
            top = psutil.Process(self.process.pid)
            return [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def holds(self, pid: int) -> bool:
        """Whether a process runs on this node."""
        return pid in {process.pid for process in self.family()}

    def kill(self) -> None:
        """SIGKILL of every process of the node."""
        family = self.family()
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait()
        psutil.wait_procs(family, timeout=10)


@dataclass
class RayCluster:
    """A head without CPUs and nodes of one CPU each.

    Attributes:
        nodes: Those that were started, the head not included.
    """

    nodes: list[RayNode] = field(default_factory=list)
    _folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="ray-")))  # short: sockets lie in it
    _port: int = 0
    _head: RayNode | None = None
    _token: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)

    @property
    def environment(self) -> dict[str, str]:
        """What a driver needs to reach it."""
        return {
            "RAY_ADDRESS": f"127.0.0.1:{self._port}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._token,
        }

    def start(self, nodes: int, *, scales_to: int = 0) -> None:
        """Start the head and so many nodes.

        Args:
            nodes: Nodes that are there from the start.
            scales_to: Nodes that Ray's autoscaler may add when something waits for them.
        """
        self._port, client = free_ports(2)
        more = []
        if scales_to:
            config = self._folder / "autoscaler.yaml"
            config.write_text(json.dumps(_autoscaler(f"127.0.0.1:{self._port}", scales_to)), encoding="utf-8")
            more = [f"--autoscaling-config={config}"]
        self._head = self._start(
            ["--head", f"--port={self._port}", f"--ray-client-server-port={client}", f"--temp-dir={self._folder}",
             "--num-cpus=0", "--include-dashboard=false", *more],
            AUTOSCALING if scales_to else {},
        )  # fmt: skip
        for _ in range(nodes):
            self.add_node()

    def add_node(self) -> RayNode:
        node = self._start([f"--address=127.0.0.1:{self._port}", "--num-cpus=1"])
        self.nodes.append(node)
        return node

    def node_of(self, pid: int) -> RayNode:
        """The node that a process runs on."""
        return next(node for node in self.nodes if node.holds(pid))

    def told_by_workers(self, event: str) -> list[dict[str, Any]]:
        """Log lines of this event that processes on any node have written so far."""
        files = self._folder.glob("session_*/logs/worker-*.err")
        lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
        told = [json.loads(line) for line in lines if line.startswith('{"ts"')]
        return [found for found in told if found["event"] == event]

    def kill(self, node: RayNode) -> None:
        self.nodes.remove(node)
        node.kill()

    def stop(self) -> None:
        for node in [*self.nodes, *([self._head] if self._head else [])]:
            node.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, arguments: list[str], more: Mapping[str, str] | None = None) -> RayNode:
        ray = Path(sys.executable).parent / "ray"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        before = self._alive() if self._head else set()
        environment = {
            **kept,
            **self.environment,
            **FAST_DETECTION,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "OMP_NUM_THREADS": "1",
            **(more or {}),
        }
        environment.pop("RAY_ADDRESS")
        until = time.monotonic() + 120
        while True:
            with (self._folder / "start.log").open("wb") as log:
                process = subprocess.Popen(
                    [ray, "start", "--block", "--node-ip-address=127.0.0.1", "--disable-usage-stats", *arguments],
                    env=environment,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            while process.poll() is None and time.monotonic() < until:
                if self._alive() - before:
                    return RayNode(process)
                time.sleep(0.3)
            RayNode(process).kill()
            told = (self._folder / "start.log").read_text()
            # Ray gives a node 30 s, which a busy machine may miss; whoever operates one starts it again.
            if START_TIMEOUT not in told or time.monotonic() > until:
                raise RuntimeError(f"ray did not start:\n{told[-2000:]}")

    def _alive(self) -> set[str]:
        """Ids of the nodes that the head takes for alive; none if it does not answer."""
        code = (
            "from ray._raylet import GcsClient; import sys; "
            "print(*(i.hex() for i, n in GcsClient(address=sys.argv[1]).get_all_node_info().items() if n.state == 0))"
        )
        try:
            done = subprocess.run(
                [sys.executable, "-c", code, f"127.0.0.1:{self._port}"],
                env={**os.environ, **self.environment},
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return set()
        return set(done.stdout.split()) if done.returncode == 0 else set()


def _autoscaler(address: str, nodes: int) -> dict[str, Any]:
    """What ``ray start --autoscaling-config`` reads: from no node of one CPU up to so many."""
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "scaling",
        "max_workers": nodes,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 5,
        "provider": {
            "type": "external",  # "fake_multinode" reads a file of defaults that the wheel lacks
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "disable_node_updaters": True,
            "gcs_address": address,
            "head_node_id": HEAD_ID,
            "launch_multiple": True,
        },
        "auth": {},
        "docker": {},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": nodes},
        },
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        **{f"{name}_commands": [] for name in commands},
    }
