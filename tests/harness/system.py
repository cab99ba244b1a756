"""The dev overlay on a cluster: what is applied when, and what a person would ask it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kuberay.start import copy_of
from tests.harness.cluster import PLAIN, Cluster, Job, suffix
from tests.harness.container import Container
from tests.harness.environment import data_of
from tests.harness.image import REPOSITORY
from tests.harness.kuberay import RayCluster
from tests.harness.objects import Objects, matches
from tests.harness.policies import Peer, refusals
from tests.harness.rayjob import RayJob
from tests.harness.rayservice import RayService

OVERLAY = Path(__file__).with_name("overlay")
START_S = 300.0
"""A server of ours on a machine that does other things too."""


@dataclass
class System:
    """All of the overlay but what Ray runs; that follows one at a time, for two CPUs.

    Attributes:
        rendered: The overlay's objects.
        cluster: Where they are applied.
    """

    rendered: Objects = field(default_factory=lambda: Objects.rendered(OVERLAY))
    cluster: Cluster = field(init=False)

    def __post_init__(self) -> None:
        self.cluster = Cluster(self.rendered.namespace)

    def start(self) -> None:
        """Apply it in one go, in no clever order: whatever needs something waits for it."""
        self.cluster.start()
        for kind in (*PLAIN, "Service", "Deployment", "StatefulSet", "Job"):
            for manifest in self.rendered.all(kind):
                self.cluster.apply(manifest)

    def wait_ready(self) -> None:
        for kind in ("StatefulSet", "Deployment"):
            for manifest in self.rendered.all(kind):
                self.cluster.wait_ready(manifest["metadata"]["name"], START_S)
        for job in self.cluster.jobs.values():
            job.wait(START_S)

    def job(self, name: str) -> RayJob:
        """A RayJob of the overlay; one that is suspended runs as a copy, as ``python -m kuberay.start`` makes it."""
        manifest = self.rendered.get("RayJob", name)
        if manifest["spec"].get("suspend"):
            manifest = copy_of(manifest)
            manifest["metadata"]["name"] = manifest["metadata"]["generateName"] + suffix()
        return RayJob(manifest, self.cluster)

    def standing(self, name: str) -> RayCluster:
        """A RayCluster of the overlay."""
        return RayCluster(name, self.rendered.get("RayCluster", name)["spec"], self.cluster)

    def night(self, name: str, minute: str) -> Job:
        """What the controller makes of a CronJob when its time has come."""
        template = self.rendered.get("CronJob", name)["spec"]["jobTemplate"]
        job = f"{name}-{minute}"
        self.cluster.apply({**template, "kind": "Job", "metadata": {**template.get("metadata", {}), "name": job}})
        return self.cluster.jobs[job]

    def service(self, name: str) -> RayService:
        return RayService(self.rendered.get("RayService", name), self.cluster)

    def secret(self, name: str, key: str) -> str:
        return data_of(self.cluster.objects.get("Secret", name))[key].decode()

    def store_environment(self) -> dict[str, str]:
        """With which this machine reaches the cluster's store, as through a port that is forwarded."""
        address = self.cluster.objects.get("Service", "minio")["spec"]["clusterIP"]
        return {
            "FLTS_STORAGE__ENDPOINT_URL": f"http://{address}:9000",
            **{key: self.secret("flts-s3", key) for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")},
        }

    def refused_flows(self) -> list[str]:
        """Connections that were made here, and that the NetworkPolicies would have dropped."""
        policies = self.rendered.all("NetworkPolicy")
        services = {each["spec"].get("clusterIP"): each for each in self.cluster.objects.all("Service")}
        everyone = self.cluster.known_pods()
        refused: set[str] = set()
        for flow, source in self.cluster.flows.seen.items():
            port = flow.port
            service = services.get(flow.address)
            if service is not None:
                selector = service["spec"]["selector"]
                targets = [pod for pod in everyone if matches(selector, pod.labels)]
                ports = {each["port"]: each.get("targetPort", each["port"]) for each in service["spec"]["ports"]}
            else:
                targets = [pod for pod in everyone if pod.address == flow.address]
                ports = {port: port}
            here = Peer(source.name, source.labels, source.ports)
            for pod in targets:
                target = ports[port]
                number = pod.ports[target] if isinstance(target, str) else int(target)
                refused.update(refusals(policies, here, Peer(pod.name, pod.labels, pod.ports), number))
            if not targets:  # the API server, or what has no pod here
                refused.update(refusals(policies, here, Peer(flow.address, None, {}), port))
        return sorted(refused)

    def registered(self, client: Container, query: str, body: object) -> Any:
        """Ask MLflow, from inside the cluster."""
        from tests.harness.cluster import ask

        status, text = ask(client, f"http://mlflow:5000/api/2.0/mlflow/{query}", body=body)
        assert status == 200, text
        return json.loads(text)


def flts(
    *arguments: str, cwd: Path, env: dict[str, str] | None = None, timeout_s: float = 900
) -> subprocess.CompletedProcess[str]:
    """Our command line on this machine, as a person with a clean shell runs it."""
    clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [str(Path(sys.prefix) / "bin" / "flts"), *arguments],
        env={**clean, "RAY_USAGE_STATS_ENABLED": "0", **(env or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


CONFIG = REPOSITORY / "kuberay" / "config" / "flts.yaml"
