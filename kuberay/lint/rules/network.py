"""Services, and who may reach whom."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kuberay.lint.clusters import clusters
from kuberay.lint.environment import variables
from kuberay.lint.links import Link, Target, links, targets
from kuberay.lint.model import Rendering, Resource, Tree, look
from kuberay.lint.pods import RAY, Pod, pods
from kuberay.lint.rule import Fault, Faults, rule
from kuberay.lint.selectors import policy_types, selected_by_labels, selects

ADDRESS = re.compile(r"\b(?!s3:|gs:|file:)[a-z][a-z0-9+]*://(?:[^@/\s]*@)?([a-z0-9][a-z0-9.-]*)(?::(\d+))?")
"""Scheme, host and port, in variables and command lines."""

HTTPS = re.compile(r"\bhttps://(?:[^@/\s]*@)?([a-z0-9][a-z0-9.-]*)(?::(\d+))?")
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:(?!\d)|\$\(")
PLAIN = ("http", "s3")
"""Names of ports without TLS."""

WITH_SCHEME = (
    "FLTS_STORAGE__ENDPOINT_URL", "FLTS_TRACKING__URI", "MLFLOW_S3_ENDPOINT_URL", "MLFLOW_TRACKING_URI",
    "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3",
)  # fmt: skip
PUBLIC = ("LoadBalancer", "NodePort")

OTHERS = ("flts.io/", "acme.cert-manager.io/")
"""Labels with these prefixes are asked of pods that others deploy: clients, and cert-manager's proof of a host."""

OPTIONAL_PEERS = ("redis",)
OPTIONAL_PORTS = (6379, 9101)
"""Redis and HAProxy's metrics, which components add: their openings stand among the others, and open nothing before."""


@rule("service-selects", "the Service has no endpoints, or the wrong port: connection refused")
def service_selects(rendering: Rendering) -> Faults:
    """A Service selects no pod, or leads to a port that none of them has."""
    for service in rendering.of("Service"):
        selector = service.get("spec.selector")
        if selector is None or service.get("spec.type") == "ExternalName":
            continue
        chosen = [pod for pod in pods(rendering) if selected_by_labels(selector, pod)]
        if not chosen:
            yield Fault(service, "spec.selector", "selects no pod", "the labels of a template")
        for pod in chosen:
            for index, port in enumerate(service.get("spec.ports", [])):
                wanted = port.get("targetPort", port.get("port"))
                if wanted not in ports_of(pod):
                    fix = f"a port of {pod.owner}, or a narrower selector"
                    yield Fault(service, f"spec.ports[{index}].targetPort", f"{wanted} is no port of {pod.owner}", fix)
    for resource in rendering.of("StatefulSet"):
        name = resource.get("spec.serviceName", "")
        if rendering.find("Service", name) is None:
            yield Fault(resource, "spec.serviceName", f"there is no Service '{name}'", "add it")


def ports_of(pod: Pod) -> set[str | int]:
    """Names and numbers of the ports that a pod's containers list, those that KubeRay adds included."""
    listed = [port for container in pod.containers for port in container.get("ports", [])]
    found: set[str | int] = {port["containerPort"] for port in listed if "containerPort" in port}
    found |= {str(port["name"]) for port in listed if "name" in port}
    return found | {"metrics", 8080} if pod.role in RAY else found


@rule("address-exists", "the name does not resolve, or nothing listens there")
def address_exists(rendering: Rendering) -> Faults:
    """An address in a variable or a command line has no scheme, or names a Service or port that does not exist."""
    for pod in pods(rendering):
        yield from _schemes(rendering, pod)
        for path, host, port in addresses(rendering, pod):
            yield from _address(rendering, pod.owner, path, host, port)
    for cluster in clusters(rendering):
        if address := cluster.get("gcsFaultToleranceOptions.redisAddress"):
            name, _, number = str(address).rpartition("://")[2].rpartition(":")
            path = f"{cluster.path}.gcsFaultToleranceOptions.redisAddress"
            yield from _address(rendering, cluster.owner, path, name, int(number) if number.isdigit() else None)


def _schemes(rendering: Rendering, pod: Pod) -> Faults:
    for container in pod.containers:
        texts = [(f"{container.path}.args", text) for text in container.command]
        for found in variables(rendering, container):
            text = found.value or ""
            texts.append((found.path, text))
            if found.name in WITH_SCHEME and text and not SCHEME.match(text):
                yield Fault(pod.owner, found.path, f"{found.name} is {text}, without a scheme", f"http://{text}")
        for path, text in texts:
            for host, port in HTTPS.findall(text):
                if _is_plain(rendering, pod, host, int(port or 443)):
                    yield Fault(pod.owner, path, f"{host}:{port or 443} speaks no TLS", "http://")


def _is_plain(rendering: Rendering, pod: Pod, host: str, port: int) -> bool:
    """Whether a port of a Service of ours is one of plain HTTP."""
    found = target(rendering, pod.owner, host)
    if found is None or port not in found.ports:
        return False
    service = rendering.find("Service", found.name)
    if service is None:
        return True  # KubeRay's
    return any(entry.get("port") == port and entry.get("name") in PLAIN for entry in service.get("spec.ports", []))


def _address(rendering: Rendering, owner: Resource, path: str, host: str, port: int | None) -> Faults:
    found = target(rendering, owner, host)
    if found is None:
        return
    if found.outside:
        return
    if not found.ports:
        yield Fault(owner, path, f"there is no Service {host}", "add it, or correct the name")
    elif (port or 80) not in found.ports:
        fix = f"one of {', '.join(map(str, sorted(found.ports)))}"
        yield Fault(owner, path, f"Service {found.name} has no port {port or 80}", fix)


@rule("ingress-backend", "the Ingress answers 503 to everything")
def ingress_backend(rendering: Rendering) -> Faults:
    """An Ingress leads to a Service or port that does not exist."""
    known = targets(rendering)
    stepwise = {
        f"{found.name}-serve-svc"
        for found in rendering.of("RayService")
        if found.get("spec.upgradeStrategy.type") == "NewClusterWithIncrementalUpgrade"
    }
    for ingress in rendering.of("Ingress"):
        for entry in ingress.get("spec.rules", []):
            for way in look(entry, "http.paths", []):
                name, port = look(way, "backend.service.name", ""), look(way, "backend.service.port.number")
                if name in stepwise:
                    fix = "lead clients through the Gateway, or upgradeStrategy.type: NewCluster"
                    yield Fault(ingress, "spec.rules", f"incremental upgrades make no Service {name}", fix)
                elif name not in known or (port is not None and port not in known[name].ports):
                    yield Fault(ingress, "spec.rules", f"there is no Service {name}:{port}", "correct its backend")


@rule("public-service", "the store, the tracker, the database or the dashboard answers to the whole network")
def public_service(rendering: Rendering) -> Faults:
    """A Service other than that of the forecasts is open to the outside."""
    fix = "ClusterIP; clients come through an Ingress, to the forecasts only"
    for service in rendering.of("Service"):
        selector = service.get("spec.selector")
        chosen = [pod for pod in pods(rendering) if selector and selected_by_labels(selector, pod)]
        serves = chosen and all(pod.owner.kind == "RayService" and pod.role == "worker" for pod in chosen)
        if service.get("spec.type") in PUBLIC and not serves:
            yield Fault(service, "spec.type", f"is {service.get('spec.type')}", fix)
        if service.get("spec.externalIPs"):
            yield Fault(service, "spec.externalIPs", "are set", "remove them")
    for cluster in clusters(rendering):
        for key in ("serviceType", "headService.spec.type"):
            if cluster.head.get(key) in PUBLIC:
                yield Fault(cluster.owner, f"{cluster.head.path}.{key}", f"is {cluster.head.get(key)}", fix)


@rule("default-deny", "every pod of the Kubernetes cluster reaches the store, the tracker and the dashboards")
def default_deny(rendering: Rendering) -> Faults:
    """Nothing denies by default, or names cannot be resolved."""
    everywhere = [found for found in rendering.of("NetworkPolicy") if found.get("spec.podSelector", {}) == {}]
    denied = {kind for found in everywhere for kind in policy_types(found)}
    namespaces = list(rendering.of("Namespace"))[:1] or list(rendering.resources)[:1]
    for kind in sorted({"Ingress", "Egress"} - denied):
        fix = "components/network-policy: one with an empty podSelector and no rules"
        yield Fault(namespaces[0], "", f"no NetworkPolicy denies {kind} by default", fix)
    for policy in everywhere:
        for entry in policy.get("spec.ingress", []):
            if not entry.get("from"):
                yield Fault(policy, "spec.ingress", "lets everybody in everywhere", "name who, and whom")
    if not any(port.get("port") == 53 for found in everywhere for port in _ports(found, "egress")):
        yield Fault(namespaces[0], "", "no NetworkPolicy lets every pod ask DNS", "egress to kube-system, port 53")


def _ports(policy: Resource, side: str) -> Iterator[Tree]:
    for entry in policy.get(f"spec.{side}", []):
        yield from entry.get("ports") or []


@rule("policy-selects", "the opening opens nothing, and what needs it times out")
def policy_selects(rendering: Rendering) -> Faults:
    """A NetworkPolicy, or a peer in it, selects no pod, or opens a port that no pod has."""
    everything = list(pods(rendering))
    for policy in rendering.of("NetworkPolicy"):
        chosen = [pod for pod in everything if selects(policy.get("spec.podSelector"), pod)]
        if not chosen and not _may_be_absent(policy.get("spec.podSelector", {})):
            yield Fault(policy, "spec.podSelector", "selects no pod", "the labels of a template")
        for side, key in (("ingress", "from"), ("egress", "to")):
            for index, entry in enumerate(policy.get(f"spec.{side}", [])):
                here = f"spec.{side}[{index}]"
                for peer in entry.get(key) or []:
                    selector = peer.get("podSelector")
                    if selector is None or "namespaceSelector" in peer or _may_be_absent(selector):
                        continue
                    if not any(selects(selector, pod) for pod in everything):
                        yield Fault(policy, here, f"{key} {selector} selects no pod", "the labels of a template")
                if side == "ingress" and chosen:
                    open_ = set().union(*(ports_of(pod) for pod in chosen))
                    for port in entry.get("ports") or []:
                        if port.get("port") not in open_ | {*OPTIONAL_PORTS}:
                            fix = "a port that their containers list"
                            yield Fault(policy, here, f"no pod has a port {port.get('port')}", fix)


def _may_be_absent(selector: Tree) -> bool:
    labels = selector.get("matchLabels") or {}
    return any(key.startswith(OTHERS) or value in OPTIONAL_PEERS for key, value in labels.items())


@rule("policy-allows", "the connection times out")
def policy_allows(rendering: Rendering) -> Faults:
    """A pod may not reach an address that its own variables or command name, or Ray needs."""
    for link in _all_links(rendering):
        for target_ in link.pods:
            for side, policies in _closed(rendering, link, target_):
                closed = link.source if side == "egress" else target_
                fix = f"open {side} of {closed.owner} beside {', '.join(policies)}"
                yield Fault(link.source.owner, link.path, f"{link.text} is closed by {side} of {closed.owner}", fix)


def _all_links(rendering: Rendering) -> Iterator[Link]:
    yield from links(rendering)
    for pod in pods(rendering):
        for path, host, port in addresses(rendering, pod):
            if path.rpartition(".")[2].startswith("envFrom") and pod.role not in RAY:
                continue  # the common variables name more than a small Job asks for
            found = target(rendering, pod.owner, host)
            number = found.ports.get(port or 80) if found else None
            if found is not None and number is not None:
                yield Link(pod, path, f"{host}:{port}", found.pods, number)


def _closed(rendering: Rendering, link: Link, end: Pod) -> Iterator[tuple[str, list[str]]]:
    """Sides on which policies select a pod and none opens the connection, with the names of those policies."""
    for side, key, here, there in (("egress", "to", link.source, end), ("ingress", "from", end, link.source)):
        policies = [
            policy
            for policy in rendering.of("NetworkPolicy")
            if side.capitalize() in policy_types(policy) and selects(policy.get("spec.podSelector"), here)
        ]
        if policies and not any(_opens(policy, side, key, there, end, link.port) for policy in policies):
            yield side, [policy.name for policy in policies]


def _opens(policy: Resource, side: str, key: str, peer: Pod, end: Pod, port: int | str) -> bool:
    for entry in policy.get(f"spec.{side}", []):
        peers, ports = entry.get(key), entry.get("ports")
        seen = not peers or any(selects(found.get("podSelector"), peer) for found in peers if "ipBlock" not in found)
        names = {port, *(names_of(end, port))}
        if seen and (not ports or any(found.get("port") in names or "port" not in found for found in ports)):
            return True
    return False


def names_of(pod: Pod, port: int | str) -> Iterator[str]:
    """The names that a pod's containers give to a port."""
    for container in pod.containers:
        for entry in container.get("ports", []):
            if entry.get("containerPort") == port:
                yield str(entry.get("name"))


def addresses(rendering: Rendering, pod: Pod) -> Iterator[tuple[str, str, int | None]]:
    """Path, host and port of every address in a pod's variables and command lines."""
    for container in pod.containers:
        texts = [(found.path, found.value or "") for found in variables(rendering, container)]
        texts += [(f"{container.path}.args", text) for text in container.command]
        for path, text in texts:
            for host, port in ADDRESS.findall(text):
                yield path, host, int(port) if port else None


def target(rendering: Rendering, owner: Resource, host: str) -> Target | None:
    """What a host name leads to; without ports if there should be a Service of ours; None: it is none of ours."""
    name, _, rest = host.partition(".")
    if name in ("localhost", "127") or (rest and rest.partition(".")[0] not in (owner.namespace, "svc")):
        return None
    return targets(rendering).get(name, Target(name, (), {}))


@rule("pod-monitor", "Prometheus scrapes nothing: panels stay empty and alerts silent")
def pod_monitor(rendering: Rendering) -> Faults:
    """A PodMonitor selects no pod, another namespace, or a port that they have not."""
    namespaces = {found.name for found in rendering.of("Namespace")}
    for monitor in rendering.of("PodMonitor"):
        chosen = [pod for pod in pods(rendering) if selects(monitor.get("spec.selector"), pod)]
        if not chosen:
            yield Fault(monitor, "spec.selector", "selects no pod", "the labels of a template")
        named = monitor.get("spec.namespaceSelector.matchNames")
        if named is not None and namespaces and not namespaces & set(named):
            yield Fault(monitor, "spec.namespaceSelector", f"does not list {', '.join(namespaces)}", "add it")
        for index, endpoint in enumerate(monitor.get("spec.podMetricsEndpoints", [])):
            port = endpoint.get("port", endpoint.get("portNumber"))
            if chosen and not any(port in ports_of(pod) for pod in chosen):
                yield Fault(monitor, f"spec.podMetricsEndpoints[{index}]", f"no pod has a port {port}", "correct it")


RULES = (
    service_selects,
    address_exists,
    ingress_backend,
    public_service,
    default_deny,
    policy_selects,
    policy_allows,
    pod_monitor,
)
