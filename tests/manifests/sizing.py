"""What rendered manifests ask a cluster for: CPUs, memory and disks of every part, at rest and at most.

``python -m tests.manifests.sizing`` prints the tables of ``docs/deploy.md``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.manifests.renderings import rendering_of

Object = Mapping[str, Any]

OVERLAYS = ("dev", "prod")
GIB = 2**30
UNITS = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": GIB, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9}
AUTOSCALER = {"cpu": "500m", "memory": "512Mi"}
"""What the operator gives the autoscaler's container if nobody says."""

PASSING = ("RayJob", "CronJob")
"""Kinds whose pods come and go."""

PIPELINE = "RayJob flts-pipeline"
STANDING, AT_WORK = "all that stands", "with the pipeline"


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked for.

    Attributes:
        cpus: CPU requests.
        memory: Bytes of memory requests.
    """

    cpus: float = 0.0
    memory: float = 0.0

    def __add__(self, other: Demand) -> Demand:
        """Both together."""
        return Demand(self.cpus + other.cpus, self.memory + other.memory)

    def __mul__(self, count: int) -> Demand:
        """So many of it."""
        return Demand(self.cpus * count, self.memory * count)


@dataclass(frozen=True, slots=True)
class Part:
    """One object that makes pods.

    Attributes:
        name: Kind and name.
        least: With as few pods as it may have while it is at work.
        most: With as many.
        stands: Whether its pods are there all the time, rather than for a job or not at all.
    """

    name: str
    least: Demand
    most: Demand
    stands: bool = True


def quantity(text: str | float) -> float:
    """A Kubernetes quantity as a number: ``500m``, ``2Gi``."""
    said = str(text)
    digits = said.rstrip("KMGTkim")
    unit = said[len(digits) :]
    return float(digits) * (0.001 if unit == "m" else UNITS[unit])


def objects_of(combination: str) -> list[Object]:
    """All objects of a rendering."""
    return [resource.tree for resource in rendering_of(combination).resources]


def parts(objects: Iterable[Object]) -> Iterator[Part]:
    """Everything that makes pods, in the order of the rendering; Jobs that only set up are left out.

    Raises:
        ValueError: If an object makes pods in a way that is not known here.
    """
    for one in objects:
        kind, spec = str(one["kind"]), one.get("spec") or {}
        if (needs := _needs(kind, spec)) is not None:
            stands = kind not in PASSING and not spec.get("suspend")
            yield Part(f"{kind} {one['metadata']['name']}", *needs, stands)
        elif "template" in spec and kind != "Job":  # a Job only sets up, and is gone after minutes
            raise ValueError(
                f"{kind} {one['metadata']['name']} makes pods in a way that is not known: teach it to _needs"
            )


def _needs(kind: str, spec: Object) -> tuple[Demand, Demand] | None:
    if kind == "RayCluster":
        return _cluster(spec)
    if kind == "RayService":
        return _cluster(spec["rayClusterConfig"])
    if kind == "RayJob":
        submitter = _pod(spec["submitterPodTemplate"])
        least, most = _cluster(spec["rayClusterSpec"])
        return least + submitter, most + submitter
    if kind == "CronJob":
        pod = _pod(spec["jobTemplate"]["spec"]["template"])
        return pod, pod
    if kind in ("Deployment", "StatefulSet"):
        pods = _pod(spec["template"]) * int(spec.get("replicas", 1))
        return pods, pods
    return None


def disks(objects: Iterable[Object]) -> dict[str, float]:
    """Bytes of every persistent volume, by the name of its claim."""
    found: dict[str, float] = {}
    for one in objects:
        claims = (
            [one] if one["kind"] == "PersistentVolumeClaim" else (one.get("spec") or {}).get("volumeClaimTemplates")
        )
        for claim in claims or ():
            name = (
                claim["metadata"]["name"] if claim is one else f"{one['metadata']['name']} {claim['metadata']['name']}"
            )
            found[name] = quantity(claim["spec"]["resources"]["requests"]["storage"])
    return found


def _cluster(spec: Object) -> tuple[Demand, Demand]:
    head = _pod(spec["headGroupSpec"]["template"])
    if spec.get("enableInTreeAutoscaling"):
        options = spec.get("autoscalerOptions") or {}
        head += _demand((options.get("resources") or {}).get("requests") or AUTOSCALER)
    least = most = head
    for group in spec.get("workerGroupSpecs") or ():
        worker = _pod(group["template"])
        least += worker * int(group.get("minReplicas", 0))
        most += worker * int(group.get("maxReplicas", 0))
    return least, most


def _pod(template: Object) -> Demand:
    spec = template["spec"]
    inits = [_requests(container) for container in spec.get("initContainers") or ()]
    together = sum((_requests(container) for container in spec["containers"]), Demand())
    return Demand(
        max([together.cpus, *(init.cpus for init in inits)]), max([together.memory, *(init.memory for init in inits)])
    )


def _requests(container: Object) -> Demand:
    return _demand(container["resources"]["requests"])


def _demand(requests: Object) -> Demand:
    return Demand(quantity(requests["cpu"]), quantity(requests["memory"]))


def shown(least: float, most: float) -> str:
    """A number, or a range of them, rounded up to hundredths."""
    low, high = (f"{math.ceil(value * 100 - 1e-9) / 100:g}" for value in (least, most))
    return low if low == high else f"{low} to {high}"


def page() -> str:
    """Both tables of ``docs/deploy.md``."""
    rendered = {name: objects_of(name) for name in OVERLAYS}
    return f"{_table_of_parts(rendered)}\n\n{_table_of_disks(rendered)}"


def _table_of_parts(rendered: Mapping[str, list[Object]]) -> str:
    columns = {name: {part.name: part for part in parts(objects)} for name, objects in rendered.items()}
    for column in columns.values():
        standing = [part for part in column.values() if part.stands]
        column |= {row.name: row for row in (_sum(STANDING, standing), _sum(AT_WORK, [*standing, column[PIPELINE]]))}
    names = dict.fromkeys(name for column in columns.values() for name in column if name not in (STANDING, AT_WORK))
    head = ["part", *(f"{overlay}: {unit}" for overlay in columns for unit in ("CPUs", "GiB"))]
    rows = [[_code(name), *_cells(name, columns.values())] for name in (*names, STANDING, AT_WORK)]
    return _markdown(head, rows)


def _table_of_disks(rendered: Mapping[str, list[Object]]) -> str:
    columns = {name: disks(objects) for name, objects in rendered.items()}
    names = dict.fromkeys(name for column in columns.values() for name in column)
    rows = [
        [f"`{name}`", *(f"{column[name] / GIB:g}" if name in column else "" for column in columns.values())]
        for name in names
    ]
    totals = ["together", *(f"{sum(column.values()) / GIB:g}" for column in columns.values())]
    return _markdown(["disk", *(f"{overlay}: GiB" for overlay in columns)], [*rows, totals])


def _sum(name: str, some: Iterable[Part]) -> Part:
    taken = list(some)
    return Part(name, sum((part.least for part in taken), Demand()), sum((part.most for part in taken), Demand()))


def _code(name: str) -> str:
    kind, space, own = name.partition(" ")
    return f"{kind} `{own}`" if space and kind[0].isupper() else name


def _cells(name: str, columns: Iterable[Mapping[str, Part]]) -> Iterator[str]:
    for column in columns:
        part = column.get(name)
        yield shown(part.least.cpus, part.most.cpus) if part else ""
        yield shown(part.least.memory / GIB, part.most.memory / GIB) if part else ""


def _markdown(head: list[str], rows: Iterable[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


if __name__ == "__main__":
    sys.stdout.write(page() + "\n")
