"""The nodes of Ray clusters: how Ray is started in a pod, what it counts there, where it listens."""

from __future__ import annotations

import functools
import json
import math
import re
import shlex
from collections.abc import Iterator
from typing import Any

from kuberay.lint.clusters import Group, groups
from kuberay.lint.environment import secrets
from kuberay.lint.model import Rendering, look
from kuberay.lint.pods import Container, Pod, pods, ray_pods
from kuberay.lint.quantities import number
from kuberay.lint.rule import Fault, Faults, rule
from kuberay.lint.rules.names import LABEL_KEY, LABEL_VALUE

HEAD_PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001}
SERVE_PORT = {"serve": 8000}
OPTIONAL_PORTS = {"metrics": 8080, "as-metrics": 44217, "dash-metrics": 44227}
RAY_CONTAINERS = {"head": "ray-head", "worker": "ray-worker"}
WHOLE = ("num-cpus", "num-gpus", "memory", "object-store-memory")
COUNTED = ("num-cpus", "num-gpus", "memory", "resources")
EXPECTED = {"metrics-export-port": "8080"}
EXPECTED_OF_HEAD = EXPECTED | {
    "include-dashboard": "true",
    "dashboard-host": "0.0.0.0",
    "port": "6379",
    "dashboard-port": "8265",
    "ray-client-server-port": "10001",
}
"""The operator, submitters, workers and Prometheus look there."""

OBJECT_STORE_SHARE = 0.5
"""The object store lies in /dev/shm, which counts against the container: as much again is left for the heap."""

OBJECT_STORE_LEAST = 75 * 2**20
RELEASE = re.compile(r"@|:[^/]*\d[^/]*$")
"""What an image is told apart by."""


def said_of(group: Group, what: str) -> Any:
    """The number of CPUs or GPUs that a group's start parameters or resources say, as it is written; None: neither."""
    return group.start_params.get(f"num-{what.lower()}s", group.get("resources", {}).get(what))


def offered(pod: Pod, what: str) -> float:
    """How many CPUs or GPUs Ray counts in a pod."""
    written = None if pod.group is None else said_of(pod.group, what)
    if written is not None:
        return number(written) or 0.0
    sizes = pod.main.get("resources", {}) if pod.main else {}
    given = sizes.get("requests", {}) | sizes.get("limits", {})
    return max((math.ceil(number(size) or 0) for key, size in given.items() if key.endswith(what.lower())), default=0)


@rule("start-params", "KubeRay refuses the cluster, or the node does not start, or is looked for in vain")
def start_params(rendering: Rendering) -> Faults:
    """``rayStartParams`` or the labels of a group hold what is not taken, or what is given elsewhere too."""
    for group in groups(rendering):
        path, owner = f"{group.path}.rayStartParams", group.cluster.owner
        for key, value in group.start_params.items():
            for what, fix in _start_param(key, value, EXPECTED_OF_HEAD if group.role == "head" else EXPECTED):
                yield Fault(owner, f"{path}.{key}", what, fix)
            if key in COUNTED and group.get("resources"):
                yield Fault(owner, f"{path}.{key}", "is refused beside resources: of the group", "keep one of them")
        for key, value in group.get("labels", {}).items():
            if not LABEL_KEY.fullmatch(str(key)) or not isinstance(value, str) or not LABEL_VALUE.fullmatch(value):
                fix = "texts of letters, digits, dots, dashes and underscores, 63 characters at most"
                yield Fault(owner, f"{group.path}.labels", f"{key}: {value!r} is no label", fix)


def _start_param(key: str, value: Any, expected: dict[str, str]) -> Iterator[tuple[str, str]]:
    if key == "labels":
        yield "KubeRay refuses labels here", "use labels: of the group"
    elif key not in _options_of_ray_start():
        yield "`ray start` has no such option", "`ray start --help` lists them"
    if not isinstance(value, str):
        yield f"{value!r} is no text", f'quote it: "{value}"'
    elif key in WHOLE and not value.isdecimal():
        yield f"{value!r} is no whole number", "digits alone, without a unit"
    elif key == "resources" and not _is_json_object(value):
        fix = """quote it once more, for the shell: '"{\\"name\\": 1}"'"""
        yield f"{value} is no JSON object", fix
    elif value.lower() != expected.get(key, value.lower()):
        yield f"is {value!r}", f"{expected[key]}, or leave it out: others rely on it"


def _is_json_object(text: str) -> bool:
    """Whether ``ray start`` gets a JSON object: KubeRay puts the text into a shell's command line as it is."""
    try:
        words = shlex.split(text)
        return len(words) == 1 and isinstance(json.loads(words[0]), dict)
    except ValueError:
        return False


@functools.cache
def _options_of_ray_start() -> frozenset[str]:
    from ray.scripts.scripts import start  # takes a second: only a linter of clusters pays it

    return frozenset(option.removeprefix("--") for parameter in start.params for option in parameter.opts)


@rule("object-store", "30 % of the memory become the object store by default, in the container's own memory")
def object_store(rendering: Rendering) -> Faults:
    """The object store has no size, less than Ray takes, or leaves too little for the heap."""
    for pod in ray_pods(rendering):
        if pod.group is None or pod.main is None:
            continue
        path = f"{pod.group.path}.rayStartParams.object-store-memory"
        size, limit = pod.group.start_params.get("object-store-memory"), pod.main.get("resources.limits.memory")
        bytes_, most = number(size), number(limit)
        if bytes_ is None:
            yield Fault(pod.owner, path, f"is {size!r}", "set it, in bytes")
        elif bytes_ < OBJECT_STORE_LEAST:
            yield Fault(pod.owner, path, f"{size} is refused by Ray", f"at least {OBJECT_STORE_LEAST}, 75 MiB")
        elif most and bytes_ > OBJECT_STORE_SHARE * most:
            fix = f"at most {OBJECT_STORE_SHARE:.0%}"
            yield Fault(pod.owner, path, f"{bytes_ / most:.0%} of the memory limit {limit}", fix)


@rule("whole-cpus", "more tasks than CPUs: Ray counts what num-cpus says, or the CPU limit rounded up")
def whole_cpus(rendering: Rendering) -> Faults:
    """A worker's Ray counts more CPUs than the limit of its container."""
    for pod in ray_pods(rendering):
        if pod.role != "worker" or pod.main is None or pod.group is None:
            continue
        written, limit = said_of(pod.group, "CPU"), number(pod.main.get("resources.limits.cpu"))
        if limit is None:
            continue
        if written is None and limit % 1:
            path = f"{pod.main.path}.resources.limits.cpu"
            yield Fault(pod.owner, path, f"{limit:g} is not whole", "make it whole, or say num-cpus")
        elif isinstance(written, str) and (number(written) or 0) > limit:
            fix = f"at most {math.floor(limit)}, or raise the limit"
            yield Fault(pod.owner, pod.group.path, f"offers {written} CPUs and is limited to {limit:g}", fix)


@rule("ray-container-first", "KubeRay starts Ray in the first container, whatever it is")
def ray_container_first(rendering: Rendering) -> Faults:
    """A sidecar stands before the Ray container."""
    for pod in ray_pods(rendering):
        wanted = RAY_CONTAINERS[pod.role]
        if pod.main is None or pod.main.name != wanted:
            fix = f"put the container {wanted} first"
            yield Fault(pod.owner, f"{pod.path}.spec.containers[0]", "is not Ray's by its name", fix)


@rule("head-ports", "where ports are listed KubeRay adds none: jobs and services cannot reach the dashboard")
def head_ports(rendering: Rendering) -> Faults:
    """The list of a head's ports is not complete, or one has another number than Ray uses."""
    for pod in ray_pods(rendering):
        if pod.main is None or not pod.main.get("ports"):
            continue
        listed = {port.get("name"): port.get("containerPort") for port in pod.main.get("ports")}
        path = f"{pod.main.path}.ports"
        wanted = HEAD_PORTS if pod.role == "head" else {}
        if pod.role == "head" and pod.owner.kind == "RayService":
            wanted = HEAD_PORTS | SERVE_PORT
        for name, port in wanted.items():
            if name not in listed:
                yield Fault(pod.owner, path, f"lacks {name}", f"add {name}: {port}, or list no ports")
        for name, port in (wanted | OPTIONAL_PORTS).items():
            if listed.get(name, port) != port:
                yield Fault(pod.owner, path, f"{name} is {listed[name]}", f"Ray listens on {port}")


@rule("same-nodes", "tasks move between nodes: another Ray or another environment fails at the first of them")
def same_nodes(rendering: Rendering) -> Faults:
    """A worker, the submitter or the autoscaler has another image than the head, or a worker another environment."""
    heads = {id(pod.owner): pod for pod in ray_pods(rendering) if pod.role == "head" and pod.main is not None}
    for pod in pods(rendering):
        head = heads.get(id(pod.owner))
        if head is None or head.main is None:
            continue
        for found in pod.containers:
            if found.role == "autoscaler" or (found.role == "main" and pod is not head):
                yield from _other_image(found, head.main)
            if found.is_ray and pod is not head:
                yield from _other_environment(rendering, found, head.main)


def _other_image(found: Container, head: Container) -> Faults:
    """Images that can change are another rule's."""
    ours, theirs = (str(container.get("image", "")) for container in (head, found))
    if ours != theirs and RELEASE.search(ours) and RELEASE.search(theirs):
        fix = "make it that, by `images:` of the overlay; a sidecar comes after Ray's own container"
        yield Fault(found.pod.owner, f"{found.path}.image", f"is {theirs}, the head's is {ours}", fix)


def _other_environment(rendering: Rendering, found: Container, head: Container) -> Faults:
    """Sources that do not exist are another rule's."""
    ours, theirs = _sources(head), _sources(found)
    known = {("configMapRef", name) for name in rendering.config_maps}
    known |= {("secretRef", name) for name in secrets(rendering)}
    if {(kind, name) for kind, name, _ in ours | theirs} <= known:
        for kind, name, prefix in sorted(ours ^ theirs):
            has, lacks = ("the head", "this group") if (kind, name, prefix) in ours else ("this group", "the head")
            what = (
                f"{lacks} lacks the {kind} {name}"
                + (f" with the prefix {prefix}" if prefix else "")
                + f", which {has} has"
            )
            yield Fault(found.pod.owner, f"{found.path}.envFrom", what, "give it to both")


def _sources(container: Container) -> set[tuple[str, str, str]]:
    """Kind, name and prefix of each; what is neither of the two kinds has another."""
    return {
        (kind, str(look(source, f"{kind}.name")), str(source.get("prefix", "")))
        for source in container.get("envFrom", [])
        for kind in {*source} - {"prefix"} or {""}
    }


RULES = (start_params, object_store, whole_cpus, ray_container_first, head_ports, same_nodes)
