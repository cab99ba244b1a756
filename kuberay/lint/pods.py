"""Every pod that a rendering leads to, whoever makes it, with the labels that it will have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kuberay.lint.clusters import Cluster, Group, Job, clusters, jobs
from kuberay.lint.model import Rendering, Resource, Tree, look

WORKLOADS = {
    "Deployment": "spec.template",
    "StatefulSet": "spec.template",
    "DaemonSet": "spec.template",
    "Job": "spec.template",
    "CronJob": "spec.jobTemplate.spec.template",
}
RAY = ("head", "worker")
SUBMITTER_NAME = "ray-job-submitter"


@dataclass(frozen=True)
class Container:
    """One container.

    Attributes:
        pod: Its pod.
        path: Where in the object.
        tree: Its YAML.
        role: ``main`` (the first), ``sidecar``, ``init`` or ``autoscaler`` (the one that KubeRay adds to a head).
    """

    pod: Pod
    path: str
    tree: Tree
    role: str

    @property
    def name(self) -> str:
        """Name."""
        return str(self.get("name", self.role))

    @property
    def is_ray(self) -> bool:
        """Whether Ray runs in it."""
        return self.role == "main" and self.pod.role in RAY

    @property
    def command(self) -> list[str]:
        """What it executes, as far as it is given here."""
        return [str(part) for part in (*self.get("command", []), *self.get("args", []))]

    def get(self, path: str, default: Any = None) -> Any:
        """The value at a dotted path of mappings."""
        return look(self.tree, path, default)


@dataclass(frozen=True)
class Pod:
    """One pod template.

    Attributes:
        owner: The object that leads to it.
        path: Where its template is in the object.
        tree: The template.
        role: ``head``, ``worker``, ``submitter``, or the workload's kind in lower case.
        labels: Those of the template and those that its maker adds.
        group: The group of a Ray cluster whose pods these are.
        prefixes: Labels of which only the beginning is known, such as the name of a RayJob's cluster.
    """

    owner: Resource
    path: str
    tree: Tree
    role: str
    labels: Tree
    group: Group | None = None
    prefixes: Mapping[str, str] = field(default_factory=dict)

    @property
    def spec(self) -> Tree:
        """``spec`` of the template."""
        return dict(self.tree.get("spec") or {})

    @property
    def own_labels(self) -> Tree:
        """Labels of the template itself."""
        return dict(look(self.tree, "metadata.labels", {}))

    @property
    def cluster(self) -> Cluster | None:
        """The Ray cluster that it is part of."""
        return None if self.group is None else self.group.cluster

    @property
    def containers(self) -> list[Container]:
        """All containers, the autoscaler that KubeRay adds to a head included; those that run first come last."""
        spec, found = self.spec, []
        for index, tree in enumerate(spec.get("containers") or []):
            role = "sidecar" if index else "main"
            found.append(Container(self, f"{self.path}.spec.containers[{index}]", tree, role))
        if self.role == "head" and self.cluster is not None and self.cluster.autoscales:
            path, options = f"{self.cluster.path}.autoscalerOptions", self.cluster.get("autoscalerOptions", {})
            found.append(Container(self, path, options, "autoscaler"))
        for index, tree in enumerate(spec.get("initContainers") or []):
            found.append(Container(self, f"{self.path}.spec.initContainers[{index}]", tree, "init"))
        return found

    @property
    def main(self) -> Container | None:
        """The first container, which Ray runs in if it is Ray's."""
        return next((container for container in self.containers if container.role == "main"), None)


def pods(rendering: Rendering) -> tuple[Pod, ...]:
    """Every pod template."""
    found: tuple[Pod, ...] = rendering.once("pods", lambda: tuple(_pods(rendering)))
    return found


def _pods(rendering: Rendering) -> Iterator[Pod]:
    for resource in rendering.of(*WORKLOADS):
        path = WORKLOADS[resource.kind]
        tree = resource.get(path, {})
        yield Pod(resource, path, tree, resource.kind.lower(), dict(look(tree, "metadata.labels", {})))
    for cluster in clusters(rendering):
        yield from (_ray_pod(group) for group in cluster.groups)
    for job in jobs(rendering):
        if job.mode == "K8sJobMode":
            yield _submitter(job)


def ray_pods(rendering: Rendering) -> Iterator[Pod]:
    """Heads and workers."""
    return (pod for pod in pods(rendering) if pod.role in RAY)


def containers(rendering: Rendering) -> Iterator[Container]:
    """Every container of every pod."""
    for pod in pods(rendering):
        yield from pod.containers


def _ray_pod(group: Group) -> Pod:
    owner, tree = group.cluster.owner, group.get("template", {})
    added: Tree = {
        "app.kubernetes.io/name": "kuberay",
        "app.kubernetes.io/created-by": "kuberay-operator",
        "ray.io/is-ray-node": "yes",
    }
    fixed: Tree = {"ray.io/node-type": group.role, "ray.io/group": group.name}
    prefixes = {"ray.io/cluster": f"{owner.name}-", "ray.io/identifier": f"{owner.name}-"}
    if owner.kind == "RayCluster":
        fixed |= {"ray.io/cluster": owner.name, "ray.io/identifier": f"{owner.name}-{group.role}"}
        prefixes = {}
    if owner.kind == "RayService":
        fixed["ray.io/serve"] = "true"
    labels = added | look(tree, "metadata.labels", {}) | fixed
    return Pod(owner, f"{group.path}.template", tree, group.role, labels, group, prefixes)


def _submitter(job: Job) -> Pod:
    added: Tree = {
        "app.kubernetes.io/created-by": "kuberay-operator",
        "ray.io/originated-from-crd": "RayJob",
    }
    prefixes = {"job-name": job.owner.name, "batch.kubernetes.io/job-name": job.owner.name}
    prefixes["ray.io/originated-from-cr-name"] = job.owner.name
    tree = job.get("submitterPodTemplate", {})
    labels = look(tree, "metadata.labels", {}) | added
    return Pod(job.owner, f"{job.path}.submitterPodTemplate", tree, "submitter", labels, prefixes=prefixes)
