"""Every workload: resources, variables, Jobs, disruption budgets."""

from __future__ import annotations

import re

from kuberay.lint.commands import complaint
from kuberay.lint.model import Rendering, Tree, look
from kuberay.lint.pods import Container, containers, pods
from kuberay.lint.quantities import number
from kuberay.lint.rule import Fault, Faults, rule
from kuberay.lint.rules.probes import LONG_RUNNING, PROBES
from kuberay.lint.selectors import selects

FIELD_PATH = re.compile(
    r"metadata\.(?:name|namespace|uid|(?:labels|annotations)\['[^']+'\])"
    r"|spec\.(?:nodeName|serviceAccountName)|status\.(?:hostIPs?|podIPs?)"
)
"""What the kubelet can put into a variable."""

SOURCES = frozenset({"configMapKeyRef", "secretKeyRef", "fieldRef", "resourceFieldRef", "fileKeyRef"})


@rule("limits", "Ray takes the node's memory and CPUs for its own; what asks for less than it uses is evicted first")
def limits(rendering: Rendering) -> Faults:
    """A container has no memory limit, or requests another amount; a Ray container has no CPU limit."""
    for container in containers(rendering):
        if (container.role == "autoscaler" and not container.get("resources")) or not container.pod.tree:
            continue  # KubeRay's own for the autoscaler: requests are limits
        for resource in ("cpu", "memory") if container.is_ray else ("memory",):
            limit = container.get(f"resources.limits.{resource}")
            request = container.get(f"resources.requests.{resource}", limit)
            path = f"{container.path}.resources.limits.{resource}"
            if limit is None:
                yield Fault(container.pod.owner, path, "is not set", "set it, and requests to the same")
            elif resource == "memory" and number(request) != number(limit):
                fix = f"requests and limits alike: {limit}"
                yield Fault(container.pod.owner, path, f"{limit} is not what it requests, {request}", fix)


@rule("requests-within-limits", "the pod cannot be made: a RayJob then hangs in Initializing")
def requests_within_limits(rendering: Rendering) -> Faults:
    """A container requests more than its limit, has a quantity that is none, or a part of a device."""
    for container in containers(rendering):
        requests, most_of = container.get("resources.requests", {}), container.get("resources.limits", {})
        for side, quantities in (("requests", requests), ("limits", most_of)):
            for resource, quantity in quantities.items():
                path, amount = f"{container.path}.resources.{side}.{resource}", number(quantity)
                if amount is None:
                    yield Fault(container.pod.owner, path, f"{quantity!r} is no quantity", "such as 500m, 2 or 1Gi")
                elif "/" in resource and amount % 1:
                    yield Fault(container.pod.owner, path, f"{quantity} is not whole", "devices are not shared: 1")
        for resource, quantity in requests.items():
            path, least = f"{container.path}.resources.requests.{resource}", number(quantity)
            if resource not in most_of:
                if "/" in resource:
                    yield Fault(container.pod.owner, path, "has no limit", f"limits: {{{resource}: {quantity}}}")
                continue
            most = number(most_of[resource])
            if least is not None and most is not None and least > most:
                yield Fault(container.pod.owner, path, f"{quantity} > {most_of[resource]}", "lower it")
            elif "/" in resource and least != most:
                fix = f"requests and limits alike: {most_of[resource]}"
                yield Fault(container.pod.owner, path, f"{quantity} is not the limit", fix)


@rule("our-commands", "the container ends with exit code 2 as soon as it starts")
def our_commands(rendering: Rendering) -> Faults:
    """A container or a probe runs a command of ours that does not exist or does not take its arguments."""
    for container in containers(rendering):
        yield from _command(container, "args", container.command)
        for kind in PROBES:
            yield from _command(container, kind, container.get(f"{kind}.exec.command", []))


def _command(container: Container, key: str, argv: list[str]) -> Faults:
    if wrong := complaint([str(part) for part in argv]):
        yield Fault(container.pod.owner, f"{container.path}.{key}", wrong, "see `flts --help`")


@rule("job-again", "a Job cannot be changed: the next apply fails")
def job_again(rendering: Rendering) -> Faults:
    """A Job stays after its end, never gives up, or restarts for ever."""
    for resource in rendering.of("Job"):
        if resource.get("spec.ttlSecondsAfterFinished") is None:
            yield Fault(resource, "spec.ttlSecondsAfterFinished", "is not set", "300")
        if resource.get("spec.activeDeadlineSeconds") is None:
            yield Fault(resource, "spec.activeDeadlineSeconds", "is not set", "set it, in seconds")
    for pod in pods(rendering):
        if pod.role in ("job", "cronjob") and pod.spec.get("restartPolicy") not in ("OnFailure", "Never"):
            yield Fault(pod.owner, f"{pod.path}.spec.restartPolicy", "is refused for a Job", "OnFailure or Never")


@rule("workload-selector", "the API server refuses it, or it adopts pods that are not its own")
def workload_selector(rendering: Rendering) -> Faults:
    """The selector of a workload does not select its own pods, or selects another's."""
    for resource in rendering.of("Deployment", "StatefulSet", "DaemonSet"):
        for pod in pods(rendering):
            hits = selects(resource.get("spec.selector", {}), pod)
            if pod.owner is resource and not hits:
                yield Fault(resource, "spec.selector", "does not select its own pods", "the labels of its template")
            if pod.owner is not resource and hits:
                yield Fault(resource, "spec.selector", f"selects the pods of {pod.owner} too", "add a label to it")


@rule("disruption-budget", "a drained node takes all of it at once, or can never be drained")
def disruption_budget(rendering: Rendering) -> Faults:
    """A budget selects nothing, or a long-running workload has none."""
    budgets = list(rendering.of("PodDisruptionBudget"))
    everything = list(pods(rendering))
    for budget in budgets:
        if not any(selects(budget.get("spec.selector"), pod) for pod in everything):
            yield Fault(budget, "spec.selector", "selects no pod", "the labels of a template")
        if (budget.get("spec.minAvailable") is None) == (budget.get("spec.maxUnavailable") is None):
            yield Fault(budget, "spec", "needs one bound", "minAvailable or maxUnavailable")
    for pod in everything:
        # A job goes on without a worker, and a service without its head; not the other way round.
        lasting = pod.role in (("worker",) if pod.owner.kind == "RayService" else ("head", "submitter"))
        covered = any(selects(budget.get("spec.selector"), pod) for budget in budgets)
        if (pod.role in LONG_RUNNING or lasting) and not covered:
            yield Fault(pod.owner, f"{pod.path}.metadata.labels", "no PodDisruptionBudget selects them", "add one")


@rule("environment-entry", "the pod cannot be made: a RayJob then hangs in Initializing")
def environment_entry(rendering: Rendering) -> Faults:
    """A variable has two values, a value that is no text, a source that is none, or is given twice."""
    for container in containers(rendering):
        seen: set[str] = set()
        for index, source in enumerate(container.get("envFrom", [])):
            if len({"configMapRef", "secretRef"} & source.keys()) != 1:
                path, fix = f"{container.path}.envFrom[{index}]", "exactly one of configMapRef and secretRef"
                yield Fault(container.pod.owner, path, f"has {_listed(source, 'prefix')}", fix)
        for index, entry in enumerate(container.get("env", [])):
            path, name = f"{container.path}.env[{index}]", str(entry.get("name"))
            if "value" in entry and "valueFrom" in entry:
                yield Fault(container.pod.owner, path, f"{name} has value and valueFrom", "keep one of them")
            if not isinstance(look(entry, "value", ""), str):
                yield Fault(container.pod.owner, path, f"{name} is {entry['value']!r}, which is no text", "quote it")
            if name in seen:
                yield Fault(container.pod.owner, path, f"{name} is given twice", "remove one of them")
            seen.add(name)
            if "valueFrom" in entry:
                yield from _source(container, path, name, entry["valueFrom"] or {})


def _source(container: Container, path: str, name: str, tree: Tree) -> Faults:
    if len(SOURCES & tree.keys()) != 1 or tree.keys() - SOURCES:
        fix = f"exactly one of {', '.join(sorted(SOURCES))}"
        yield Fault(container.pod.owner, path, f"{name} comes from {_listed(tree)}", fix)
    field = look(tree, "fieldRef.fieldPath")
    if "fieldRef" in tree and not FIELD_PATH.fullmatch(str(field)):
        fix = "such as metadata.name, metadata.labels['key'] or status.podIP"
        yield Fault(container.pod.owner, path, f"{name} comes from {field}, which the kubelet does not know", fix)


def _listed(tree: Tree, *without: str) -> str:
    return " and ".join(sorted(tree.keys() - set(without))) or "no source"


RULES = (
    limits,
    requests_within_limits,
    our_commands,
    job_again,
    workload_selector,
    disruption_budget,
    environment_entry,
)
