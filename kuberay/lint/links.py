"""Which pods a Service leads to, and which connections Ray needs whatever the manifests say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kuberay.lint.clusters import clusters
from kuberay.lint.model import Rendering
from kuberay.lint.pods import Pod, pods
from kuberay.lint.selectors import selected_by_labels

HEAD_PORTS = {6379: 6379, 8265: 8265, 10001: 10001, 8000: 8000, 8080: 8080}


@dataclass(frozen=True)
class Target:
    """What a Service leads to.

    Attributes:
        name: The Service.
        pods: Those behind it.
        ports: Its ports → theirs, by number or name.
        outside: Whether it leads out of the cluster, or to endpoints that somebody else writes.
    """

    name: str
    pods: tuple[Pod, ...]
    ports: dict[int, int | str]
    outside: bool = False


@dataclass(frozen=True)
class Link:
    """A connection that a pod makes.

    Attributes:
        source: The pod.
        path: Where in its object the connection is named.
        text: What it is to, for messages.
        pods: Those that it leads to.
        port: Their port, by number or name.
    """

    source: Pod
    path: str
    text: str
    pods: tuple[Pod, ...]
    port: int | str


def targets(rendering: Rendering) -> dict[str, Target]:
    """Every Service by name, those that KubeRay makes included."""
    known: dict[str, Target] = rendering.once("targets", lambda: _targets(rendering))
    return known


def _targets(rendering: Rendering) -> dict[str, Target]:
    everything, found = list(pods(rendering)), {}
    for service in rendering.of("Service"):
        selector = service.get("spec.selector", {})
        if service.get("spec.type") == "ExternalName" or not selector:
            found[service.name] = Target(service.name, (), {}, outside=True)
            continue
        chosen = tuple(pod for pod in everything if selected_by_labels(selector, pod))
        ports = {entry["port"]: entry.get("targetPort", entry["port"]) for entry in service.get("spec.ports", [])}
        found[service.name] = Target(service.name, chosen, {key: _number(chosen, port) for key, port in ports.items()})
    for cluster in clusters(rendering):
        owner = cluster.owner
        heads = tuple(pod for pod in everything if pod.owner is owner and pod.role == "head")
        workers = tuple(pod for pod in everything if pod.owner is owner and pod.role == "worker")
        if owner.kind in ("RayCluster", "RayService"):  # a job's cluster has a name that nobody knows before
            name = f"{owner.name}-head-svc"
            found[name] = Target(name, heads, dict(HEAD_PORTS))
        if owner.kind == "RayService":
            name = f"{owner.name}-serve-svc"
            behind = workers if owner.get("spec.excludeHeadPodFromServeSvc") else heads + workers
            found[name] = Target(name, behind, {8000: 8000})
    return found


def _number(chosen: tuple[Pod, ...], port: int | str) -> int | str:
    for pod in chosen:
        for container in pod.containers:
            for entry in container.get("ports", []):
                if entry.get("name") == port:
                    return int(entry["containerPort"])
    return port


def links(rendering: Rendering) -> Iterator[Link]:
    """What Ray needs: nodes reach their head and each other, submitters the dashboard of their head."""
    everything = list(pods(rendering))
    for pod in everything:
        heads = tuple(other for other in everything if other.owner is pod.owner and other.role == "head")
        if pod.role == "submitter" and heads:
            yield Link(pod, pod.path, "the dashboard of its head (8265)", heads, 8265)
        if pod.role == "worker":
            yield Link(pod, pod.path, "its head (6379)", heads, 6379)
        if pod.role in ("head", "worker"):
            workers = tuple(other for other in everything if other.owner is pod.owner and other.role == "worker")
            yield Link(pod, pod.path, "a worker of its cluster (any port)", workers, 10002)
