"""What KubeRay 1.7 makes of a RayService: a cluster, its applications, and the Service that leads to its replicas."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from typing import Any

import yaml

from tests.harness.cluster import Cluster, suffix
from tests.harness.kuberay import PORTS, SERVE, RayCluster
from tests.harness.objects import Applied, Manifest
from tests.harness.services import wait_until


@dataclass
class RayService(Applied):
    """A RayService.

    Attributes:
        cluster: Where it runs.
        ray: The cluster that answers.
        pending: One that does not answer yet, since its applications do not run.
    """

    cluster: Cluster
    ray: RayCluster | None = None
    pending: RayCluster | None = None
    _service: Manifest = field(default_factory=dict)

    def start(self, timeout_s: float) -> None:
        """Start the cluster, deploy the applications, and let the Service lead there when they run.

        Raises:
            TimeoutError: If they do not.
        """
        self.ray = self._new(timeout_s)
        self._service = {
            "kind": "Service",
            "metadata": {"name": f"{self.name}-serve-svc"},
            "spec": {
                "selector": {"ray.io/cluster": self.ray.name, SERVE: "true"},
                "ports": [{"name": "serve", "port": PORTS["serve"]}],
            },
        }
        self.cluster.apply(self._service)

    def upgrade(self, change: Manifest, timeout_s: float) -> None:
        """Change rayClusterConfig: a second cluster, then the selector switches, then the first goes."""
        before = self.ray
        self.spec["rayClusterConfig"] = change
        self.ray = self._new(timeout_s)
        self._service["spec"]["selector"]["ray.io/cluster"] = self.ray.name
        if before is not None:
            time.sleep(1)  # instead of rayClusterDeletionDelaySeconds
            before.stop(None)

    def configure(self, config: str, timeout_s: float) -> None:
        """Change serveConfigV2: the cluster that runs is told, and rolls its replicas."""
        assert self.ray is not None
        self.spec["serveConfigV2"] = config
        self._deploy(self.ray, timeout_s)

    def replicas(self) -> set[str]:
        """Ids of the replicas that run."""
        return {
            str(replica["replica_id"])
            for application in self.applications().values()
            for deployment in application["deployments"].values()
            for replica in deployment["replicas"]
        }

    def wait_answering(self, timeout_s: float) -> None:
        """Wait until every worker's readiness probe passes, which is what the Service asks."""
        wait_until(lambda: bool(self._endpoints()), timeout_s, self.story)

    def applications(self) -> dict[str, Any]:
        """Each application's state, as Ray tells it."""
        assert self.ray is not None
        return dict(self.ray.dashboard("/api/serve/applications/")["applications"])

    def story(self) -> str:
        return self.ray.story() if self.ray else f"RayService {self.name} has no cluster"

    def _endpoints(self) -> bool:
        assert self.ray is not None
        return len(self.cluster.services.endpoints(self._service)) == len(self.ray.workers)

    def _new(self, timeout_s: float) -> RayCluster:
        until = time.monotonic() + timeout_s
        ray = RayCluster(
            f"{self.name}-{suffix()}", copy.deepcopy(self.spec["rayClusterConfig"]), self.cluster, serving=True
        )
        self.pending = ray
        ray.start()
        # Workers become ready with their replicas, so the operator waits for the head alone.
        wait_until(lambda: ray.head is not None and ray.head.ready, timeout_s, ray.story)
        self._deploy(ray, max(1.0, until - time.monotonic()))
        self.pending = None
        return ray

    def _deploy(self, ray: RayCluster, timeout_s: float) -> None:
        """Hand over the configuration, and wait until all of its applications run by it."""
        given = time.time()
        ray.dashboard("/api/serve/applications/", yaml.safe_load(self.spec["serveConfigV2"]), "PUT")
        told: dict[str, Any] = {}

        def run() -> bool:
            told.update(ray.dashboard("/api/serve/applications/")["applications"])
            return bool(told) and all(
                each["status"] == "RUNNING" and each["last_deployed_time_s"] >= given - 1 for each in told.values()
            )

        wait_until(run, timeout_s, lambda: f"{told}\n{ray.story()}")
