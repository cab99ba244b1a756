"""What KubeRay 1.7 makes of a Ray cluster's specification: pods, their commands and variables, the head's Service."""

from __future__ import annotations

import copy
import http.client
import json
import math
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any

from tests.harness.cluster import Cluster
from tests.harness.environment import data_of, quantity
from tests.harness.objects import Manifest
from tests.harness.pod import Pod
from tests.harness.services import wait_until

SERVE = "ray.io/serve"
PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "serve": 8000}
_HEALTH = {"httpGet": {"path": "/api/healthz", "port": 52365}}
LIVENESS = {**_HEALTH, "initialDelaySeconds": 30, "timeoutSeconds": 5, "periodSeconds": 5, "failureThreshold": 120}
READINESS = {**_HEALTH, "initialDelaySeconds": 10, "timeoutSeconds": 5, "periodSeconds": 5, "failureThreshold": 10}


def ray_start(params: dict[str, str], container: Manifest, *, head: bool, address: str) -> str:
    """The command of a Ray container: its parameters, and what follows from its limits."""
    limits = container.get("resources", {}).get("limits", {})
    said = {"block": "true", "dashboard-agent-listen-port": "52365", "metrics-export-port": "8080"}
    said |= {"dashboard-host": "0.0.0.0"} if head else {"address": address}
    if "cpu" in limits:
        said["num-cpus"] = str(math.ceil(quantity(limits["cpu"])))
    if "memory" in limits:
        said["memory"] = str(int(quantity(limits["memory"])))
    said |= params
    switches = [f"--{name}" if value == "true" else f"--{name}={value}" for name, value in sorted(said.items())]
    return " ".join(["ulimit -n 65536; ray start", *(["--head"] if head else []), *switches])


def auth(spec: Manifest, cluster: str) -> list[Manifest]:
    """The variables of token authentication; none if it is off."""
    options = spec.get("authOptions", {})
    if options.get("mode") != "token":
        return []
    secret = {"name": options.get("secretName", cluster), "key": "auth_token"}
    return [
        {"name": "RAY_AUTH_MODE", "value": "token"},
        {"name": "RAY_AUTH_TOKEN", "valueFrom": {"secretKeyRef": secret}},
    ]


@dataclass
class RayCluster:
    """A RayCluster: a head, workers, and a Service for the head.

    Attributes:
        name: Its name.
        spec: RayClusterSpec.
        cluster: Where it runs.
        serving: Whether a RayService made it.
    """

    name: str
    spec: Manifest
    cluster: Cluster
    serving: bool = False
    head: Pod | None = None
    workers: list[Pod] = field(default_factory=list)
    ended: bool = False

    @property
    def host(self) -> str:
        return f"{self.name}-head-svc.{self.cluster.namespace}.svc.cluster.local"

    @property
    def ready(self) -> bool:
        return self.head is not None and self.head.ready and all(worker.ready for worker in self.workers)

    def start(self) -> None:
        ports = [{"name": name, "port": port} for name, port in {**PORTS, "metrics": 8080}.items()]
        self.cluster.apply(
            {
                "kind": "Service",
                "metadata": {"name": f"{self.name}-head-svc"},
                "spec": {
                    "clusterIP": "None",
                    "publishNotReadyAddresses": True,
                    "selector": {"ray.io/cluster": self.name, "ray.io/node-type": "head"},
                    "ports": ports,
                },
            }
        )
        self.head = self.cluster.pod(f"{self.name}-head", self._template(self.spec["headGroupSpec"], "headgroup"))
        for group in self.spec.get("workerGroupSpecs", []):
            for number in range(int(group.get("replicas", 0))):
                name = f"{self.name}-{group['groupName']}-worker-{number}"
                self.workers.append(self.cluster.pod(name, self._template(group, group["groupName"])))

    def stop(self, grace_s: float | None = 5.0) -> None:
        """Delete it, with its pods and its Service."""
        if self.ended:
            return
        self.ended = True
        enders = [
            threading.Thread(target=self.cluster.delete, args=(pod, grace_s))
            for pod in (*self.workers, *([self.head] if self.head else []))
        ]
        for ender in enders:
            ender.start()
        for ender in enders:
            ender.join()
        self.cluster.services.close(f"{self.name}-head-svc")
        self.cluster.objects.remove("Service", f"{self.name}-head-svc")

    def wait_ready(self, timeout_s: float) -> None:
        wait_until(lambda: self.ready, timeout_s, self.story)

    def story(self) -> str:
        pods = [pod for pod in (self.head, *self.workers) if pod is not None]
        return f"RayCluster {self.name}\n" + "\n".join(
            f"{pod.name}: {pod.phase} {pod.why}\n{pod.story()}" for pod in pods
        )

    def dashboard(self, path: str, body: Any = None, method: str = "") -> Any:
        """Ask the head's dashboard, with the token, as the operator does.

        Raises:
            OSError: If it does not answer, or not well.
        """
        assert self.head is not None
        headers = {"Content-Type": "application/json"}
        for variable in auth(self.spec, self.name):
            if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                secret = data_of(self.cluster.objects.get("Secret", reference["name"]))
                headers["Authorization"] = f"Bearer {secret[reference['key']].decode()}"
        request = urllib.request.Request(
            f"http://{self.head.address}:8265{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers=headers,
            method=method or None,
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read()
            return json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            with error:
                raise OSError(f"{path} was answered with {error.code}: {error.read()[:500]!r}") from None
        except (http.client.HTTPException, ValueError) as error:  # the head ended in the middle of its answer
            raise OSError(f"{path} was answered with half of something: {error!r}") from error

    def _template(self, group: Manifest, name: str) -> Manifest:
        head = name == "headgroup"
        template: Manifest = copy.deepcopy(group["template"])
        metadata = template.setdefault("metadata", {})
        metadata["labels"] = {
            "app.kubernetes.io/name": "kuberay",
            "app.kubernetes.io/created-by": "kuberay-operator",
            **metadata.get("labels", {}),
            "ray.io/is-ray-node": "yes",
            "ray.io/cluster": self.name,
            "ray.io/node-type": "head" if head else "worker",
            "ray.io/group": name,
            **({SERVE: "true"} if self.serving and not head else {}),
        }
        pod = template["spec"]
        ray = pod["containers"][0]
        address = f"{self.host}:{PORTS['gcs-server']}"
        env = ray.setdefault("env", [])
        env += [
            {"name": "RAY_CLUSTER_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['ray.io/cluster']"}}},
            {"name": "RAY_CLOUD_INSTANCE_ID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "RAY_NODE_TYPE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['ray.io/group']"}}},
            {"name": "RAY_PORT", "value": str(PORTS["gcs-server"])},
            {"name": "RAY_ADDRESS", "value": f"127.0.0.1:{PORTS['gcs-server']}" if head else address},
            {"name": "RAY_USAGE_STATS_KUBERAY_IN_USE", "value": "1"},
            {"name": "RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE", "value": "1"},
            *(
                []
                if head
                else [{"name": "FQ_RAY_IP", "value": self.host}, {"name": "RAY_IP", "value": f"{self.name}-head-svc"}]
            ),
            *auth(self.spec, self.name),
        ]
        if not head:
            # As the operator does: variables, mounts and rights of the Ray container, but not its envFrom.
            wait = f"until ray health-check --address {address} > /dev/null 2>&1; do sleep 1; done"
            pod.setdefault("initContainers", []).insert(0, {
                "name": "wait-gcs-ready", "image": ray["image"], "command": ["/bin/bash", "-c", "--"], "args": [wait],
                "env": copy.deepcopy(env), "volumeMounts": ray.get("volumeMounts", []),
                "securityContext": ray.get("securityContext", {}),
                "resources": {"limits": {"cpu": "200m", "memory": "256Mi"}},
            })  # fmt: skip
        start = ray_start(group.get("rayStartParams", {}), ray, head=head, address=address)
        env.append({"name": "KUBERAY_GEN_RAY_START_CMD", "value": start})
        ray["command"], ray["args"] = ["/bin/bash", "-c", "--"], [start]
        ray.setdefault("livenessProbe", LIVENESS)
        ray.setdefault("readinessProbe", READINESS)
        return template
