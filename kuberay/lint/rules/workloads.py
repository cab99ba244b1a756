"""Every workload: resources, probes, Jobs, disruption budgets."""

from __future__ import annotations

from kuberay.lint.commands import complaint
from kuberay.lint.model import Rendering, look
from kuberay.lint.pods import Container, containers, pods
from kuberay.lint.quantities import number
from kuberay.lint.rule import Fault, Faults, rule
from kuberay.lint.selectors import selects

LONG_RUNNING = ("deployment", "statefulset", "daemonset")
PROBES = ("livenessProbe", "readinessProbe")


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
    """A container requests more than its limit, or has a quantity that is none."""
    for container in containers(rendering):
        requests, most_of = container.get("resources.requests", {}), container.get("resources.limits", {})
        for side, quantities in (("requests", requests), ("limits", most_of)):
            for resource, quantity in quantities.items():
                if number(quantity) is None:
                    path = f"{container.path}.resources.{side}.{resource}"
                    yield Fault(container.pod.owner, path, f"{quantity!r} is no quantity", "such as 500m, 2 or 1Gi")
        for resource in requests.keys() & most_of.keys():
            least, most = number(requests[resource]), number(most_of[resource])
            if least is not None and most is not None and least > most:
                path = f"{container.path}.resources.requests.{resource}"
                yield Fault(container.pod.owner, path, f"{requests[resource]} > {most_of[resource]}", "lower it")


@rule("probes", "what hangs is not restarted, what is not ready is sent requests")
def probes(rendering: Rendering) -> Faults:
    """A service has no probe, or a probe names a port that the container has not."""
    for container in containers(rendering):
        for kind in PROBES:
            path = f"{container.path}.{kind}"
            if container.pod.role in LONG_RUNNING and container.role == "main" and not container.get(kind):
                yield Fault(container.pod.owner, path, "is missing", "add one that asks what the service is for")
            port = container.get(f"{kind}.httpGet.port", container.get(f"{kind}.tcpSocket.port"))
            listed = {entry.get("name") for entry in container.get("ports", [])}
            if isinstance(port, str) and port not in listed:
                yield Fault(container.pod.owner, path, f"there is no port {port}", "one of the container's ports")


@rule("training-heartbeat", "training that hangs occupies the cluster until its deadline")
def training_heartbeat(rendering: Rendering) -> Faults:
    """The liveness of a job's head does not ask the run."""
    for pod in pods(rendering):
        if pod.role == "head" and pod.owner.kind in ("RayJob", "RayCronJob") and pod.main is not None:
            command = pod.main.get("livenessProbe.exec.command", [])
            if command[:2] != ["flts", "health"] or "--stalled" not in command:
                path = f"{pod.main.path}.livenessProbe"
                yield Fault(pod.owner, path, "does not ask the run", "exec: flts health --stalled")


@rule("our-commands", "the container ends with exit code 2 as soon as it starts")
def our_commands(rendering: Rendering) -> Faults:
    """A container or a probe runs a command of ours that does not exist or does not take its arguments."""
    for container in containers(rendering):
        yield from _command(container, "args", container.command)
        for kind in (*PROBES, "startupProbe"):
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
    """A variable has two values, a value that is no text, or is given twice."""
    for container in containers(rendering):
        seen: set[str] = set()
        for index, entry in enumerate(container.get("env", [])):
            path, name = f"{container.path}.env[{index}]", str(entry.get("name"))
            if "value" in entry and "valueFrom" in entry:
                yield Fault(container.pod.owner, path, f"{name} has value and valueFrom", "keep one of them")
            if not isinstance(look(entry, "value", ""), str):
                yield Fault(container.pod.owner, path, f"{name} is {entry['value']!r}, which is no text", "quote it")
            if name in seen:
                yield Fault(container.pod.owner, path, f"{name} is given twice", "remove one of them")
            seen.add(name)


RULES = (
    limits,
    requests_within_limits,
    probes,
    training_heartbeat,
    our_commands,
    job_again,
    workload_selector,
    disruption_budget,
    environment_entry,
)
