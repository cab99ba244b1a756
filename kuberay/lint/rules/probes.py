"""Probes and lifecycle hooks: what they ask, and how often it may fail."""

from __future__ import annotations

from typing import Any

from kuberay.lint.model import Rendering, look
from kuberay.lint.pods import Container, containers, pods
from kuberay.lint.rule import Fault, Faults, rule

LONG_RUNNING = ("deployment", "statefulset", "daemonset")
PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
WANTED = PROBES[:2]
HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")
HOOKS = ("lifecycle.postStart", "lifecycle.preStop")
HOOK_HANDLERS = ("exec", "httpGet", "tcpSocket", "sleep")
PORTS_OF_RAY = frozenset({8000, 8080, 8265, 52365})
"""Ray listens there whether its container lists them or not: serve, metrics, dashboard, the agent of the node."""

HEARTBEAT = {"initialDelaySeconds": (60, 0), "timeoutSeconds": (10, 1), "failureThreshold": (2, 3)}
"""Key → the least that a busy head needs, and what Kubernetes takes if it is not said."""


@rule("probes", "the pod cannot be made, what hangs is not restarted, or what is not ready is sent requests")
def probes(rendering: Rendering) -> Faults:
    """A service has no probe, or a probe or hook asks nothing, two things, another host or port, or never."""
    for container in containers(rendering):
        owner = container.pod.owner
        for kind in PROBES:
            path, probe = f"{container.path}.{kind}", container.get(kind)
            if probe is None:
                if kind in WANTED and container.pod.role in LONG_RUNNING and container.role == "main":
                    yield Fault(owner, path, "is missing", "add one that asks what the service is for")
                continue
            yield from _handler(container, path, probe, HANDLERS)
            for key in ("timeoutSeconds", "periodSeconds", "failureThreshold", "successThreshold"):
                if look(probe, key, 1) < 1:
                    yield Fault(owner, f"{path}.{key}", f"is {probe[key]}", "1 or more")
            if kind != "readinessProbe" and look(probe, "successThreshold", 1) != 1:
                fix = "1: only readiness may ask for more"
                yield Fault(owner, f"{path}.successThreshold", f"is {probe['successThreshold']}", fix)
        for hook in HOOKS:
            if container.get(hook) is not None:
                yield from _handler(container, f"{container.path}.{hook}", container.get(hook), HOOK_HANDLERS)


def _handler(container: Container, path: str, tree: Any, known: tuple[str, ...]) -> Faults:
    owner, given = container.pod.owner, [kind for kind in known if tree.get(kind) is not None]
    if len(given) != 1:
        what = f"has {' and '.join(given)}" if given else "asks nothing"
        yield Fault(owner, path, what, f"exactly one of {', '.join(known)}")
    if "exec" in given and not look(tree, "exec.command"):
        yield Fault(owner, f"{path}.exec", "names no command", "command: [program, argument]")
    listed = container.get("ports", [])
    names, numbers = {entry.get("name") for entry in listed}, {entry.get("containerPort") for entry in listed}
    for kind in given:
        port, host = look(tree, f"{kind}.port"), look(tree, f"{kind}.host")
        if host is not None:
            yield Fault(owner, f"{path}.{kind}.host", f"asks {host} instead of the pod", "remove it")
        missing = port not in names if isinstance(port, str) else port not in numbers
        if port is not None and missing and not (container.is_ray and port in PORTS_OF_RAY):
            yield Fault(owner, path, f"there is no port {port}", "one of the container's ports")


@rule("training-heartbeat", "training that hangs occupies the cluster until its deadline, or one that works is killed")
def training_heartbeat(rendering: Rendering) -> Faults:
    """The liveness of a job's head does not ask the run, or leaves it no time to answer."""
    for pod in pods(rendering):
        if pod.role == "head" and pod.owner.kind in ("RayJob", "RayCronJob") and pod.main is not None:
            path, command = f"{pod.main.path}.livenessProbe", pod.main.get("livenessProbe.exec.command", [])
            if command[:2] != ["flts", "health"] or "--stalled" not in command:
                yield Fault(pod.owner, path, "does not ask the run", "exec: flts health --stalled")
                continue
            for key, (least, default) in HEARTBEAT.items():
                value = pod.main.get(f"livenessProbe.{key}", default)
                if value < least:
                    fix = f"{least} or more: Python takes seconds to start on a busy head"
                    yield Fault(pod.owner, f"{path}.{key}", f"is {value}", fix)


RULES = (probes, training_heartbeat)
