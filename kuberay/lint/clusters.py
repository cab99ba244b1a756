"""The Ray clusters of a rendering: those that stand, and those that a RayJob, RayService or RayCronJob starts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kuberay.lint.model import Rendering, Resource, Tree, look

SPECS = {
    "RayCluster": "spec",
    "RayJob": "spec.rayClusterSpec",
    "RayService": "spec.rayClusterConfig",
    "RayCronJob": "spec.jobTemplate.rayClusterSpec",
}
JOBS = {"RayJob": "spec", "RayCronJob": "spec.jobTemplate"}


@dataclass(frozen=True)
class Group:
    """The head, or a group of workers.

    Attributes:
        cluster: Of which it is.
        path: Where in the object.
        tree: Its YAML.
        role: ``head`` or ``worker``.
    """

    cluster: Cluster
    path: str
    tree: Tree
    role: str

    @property
    def name(self) -> str:
        """Name of the group, as KubeRay labels its pods."""
        return "headgroup" if self.role == "head" else str(self.get("groupName", ""))

    @property
    def start_params(self) -> Tree:
        """``rayStartParams``."""
        return dict(self.get("rayStartParams", {}))

    def get(self, path: str, default: Any = None) -> Any:
        """The value at a dotted path of mappings."""
        return look(self.tree, path, default)


@dataclass(frozen=True)
class Specification:
    """A part of an object that Ray is made of.

    Attributes:
        owner: The object that holds it.
        path: Where in the object.
        tree: Its YAML.
    """

    owner: Resource
    path: str
    tree: Tree

    def get(self, path: str, default: Any = None) -> Any:
        """The value at a dotted path of mappings."""
        return look(self.tree, path, default)


@dataclass(frozen=True)
class Cluster(Specification):
    """The specification of one Ray cluster."""

    @property
    def autoscales(self) -> bool:
        """Whether Ray adds and removes workers."""
        return bool(self.get("enableInTreeAutoscaling", False))

    @property
    def head(self) -> Group:
        """The head."""
        return Group(self, f"{self.path}.headGroupSpec", self.get("headGroupSpec", {}), "head")

    @property
    def workers(self) -> list[Group]:
        """The groups of workers."""
        trees = self.get("workerGroupSpecs", [])
        return [Group(self, f"{self.path}.workerGroupSpecs[{n}]", tree, "worker") for n, tree in enumerate(trees)]

    @property
    def groups(self) -> list[Group]:
        """The head, then the workers."""
        return [self.head, *self.workers]


@dataclass(frozen=True)
class Job(Specification):
    """The specification of one job: a RayJob's, or what a RayCronJob makes RayJobs of."""

    @property
    def mode(self) -> str:
        """How it is submitted."""
        return str(self.get("submissionMode", "K8sJobMode"))

    @property
    def cluster(self) -> Cluster | None:
        """The cluster that is started for it; None: it runs on one that stands."""
        tree = self.get("rayClusterSpec")
        return None if tree is None else Cluster(self.owner, f"{self.path}.rayClusterSpec", tree)


def clusters(rendering: Rendering) -> Iterator[Cluster]:
    """Every specification of a cluster."""
    for resource in rendering.of(*SPECS):
        path = SPECS[resource.kind]
        tree = resource.get(path)
        if tree is not None:
            yield Cluster(resource, path, tree)


def groups(rendering: Rendering) -> Iterator[Group]:
    """Every head and group of workers."""
    for cluster in clusters(rendering):
        yield from cluster.groups


def jobs(rendering: Rendering) -> Iterator[Job]:
    """Every specification of a Ray job."""
    for resource in rendering.of(*JOBS):
        yield Job(resource, JOBS[resource.kind], resource.get(JOBS[resource.kind], {}))
