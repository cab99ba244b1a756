"""Names, labels and keys: what Kubernetes refuses, or silently takes for something else."""

from __future__ import annotations

import re
from collections import Counter

from kuberay.lint.clusters import clusters, groups
from kuberay.lint.model import Rendering, look
from kuberay.lint.pods import WORKLOADS, Pod, pods
from kuberay.lint.rule import Fault, Faults, rule

WORKLOAD_ROLES = {kind.lower() for kind in WORKLOADS}
LONGEST = {"RayCluster": 53, "RayJob": 47, "RayService": 47, "RayCronJob": 36}
"""KubeRay adds suffixes of its own."""

DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
DNS_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
PORT_NAME = re.compile(r"(?=.{1,15}$)(?=.*[a-z])[a-z0-9](-?[a-z0-9])*")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")

PART_OF = "app.kubernetes.io/part-of"
COMPONENT = "app.kubernetes.io/component"
NAME = "app.kubernetes.io/name"
"""Not asked of Ray's pods: KubeRay's own value there is what it selects heads by."""


@rule("duplicate-key", "kubectl takes the last of two equal keys and says nothing")
def duplicate_key(rendering: Rendering) -> Faults:
    """A mapping names a key twice."""
    for resource, key in rendering.duplicate_keys:
        yield Fault(resource, "", f"the key {key} is given twice", "remove one of them")


@rule("duplicate-object", "the second of two objects of one name overwrites the first")
def duplicate_object(rendering: Rendering) -> Faults:
    """Two objects have the same kind, namespace and name."""
    counts = Counter((found.kind, found.namespace, found.name) for found in rendering.resources)
    for resource in rendering.resources:
        if counts.pop((resource.kind, resource.namespace, resource.name), 1) > 1:
            yield Fault(resource, "metadata.name", "is the name of two objects", "rename or remove one of them")


@rule("ray-name", "KubeRay refuses the object: ValidationFailed in its status")
def ray_name(rendering: Rendering) -> Faults:
    """A name of a Ray object is too long, or is no DNS label."""
    for resource in rendering.of(*LONGEST):
        name, longest = resource.name, LONGEST[resource.kind]
        if len(name) > longest:
            fix = f"shorten it to {longest}, a namePrefix included"
            yield Fault(resource, "metadata.name", f"has {len(name)} characters", fix)
        if not DNS_1035.fullmatch(name):
            fix = "use lower-case letters, digits and dashes, beginning with a letter; no dots"
            yield Fault(resource, "metadata.name", f"'{name}' is no DNS label", fix)


@rule("label-syntax", "the pod cannot be made: a RayJob then hangs in Initializing")
def label_syntax(rendering: Rendering) -> Faults:
    """A label has a key or a value that Kubernetes refuses."""
    places = [(resource, "metadata.labels", resource.labels) for resource in rendering.resources]
    places += [(pod.owner, f"{pod.path}.metadata.labels", (pod.tree.get("metadata") or {}).get("labels") or {})
               for pod in pods(rendering)]  # fmt: skip
    for resource, path, labels in places:
        for key, value in labels.items():
            if not LABEL_KEY.fullmatch(str(key)):
                yield Fault(resource, path, f"'{key}' is no key of a label", "write [prefix/]name, 63 characters")
            if not isinstance(value, str) or not LABEL_VALUE.fullmatch(value):
                fix = "a quoted text of letters, digits, dots, dashes and underscores, 63 characters at most"
                yield Fault(resource, f"{path}.{key}", f"{value!r} is no value of a label", fix)


@rule("labels", "nobody can select, count or delete it with the rest")
def labels(rendering: Rendering) -> Faults:
    """An object or a pod lacks one of the labels that all of ours carry."""
    for resource in rendering.resources:
        if resource.labels.get(PART_OF) != "flts":
            yield Fault(resource, "metadata.labels", f"lacks {PART_OF}: flts", "add it")
    for pod in pods(rendering):
        own = (pod.tree.get("metadata") or {}).get("labels") or {}
        wanted = (PART_OF, COMPONENT, NAME) if pod.role in WORKLOAD_ROLES else (PART_OF, COMPONENT)
        for key in wanted:
            if key not in own and pod.tree:
                yield Fault(pod.owner, f"{pod.path}.metadata.labels", f"lacks {key}", "add it: policies select by it")


@rule("ray-pod-name-label", "KubeRay's Services of the head select by its own value and lead nowhere")
def ray_pod_name_label(rendering: Rendering) -> Faults:
    """A Ray pod overrides the name label that KubeRay gives it."""
    for group in groups(rendering):
        given = look(group.tree, "template.metadata.labels", {})
        if NAME in given:
            yield Fault(group.cluster.owner, f"{group.path}.template.metadata.labels.{NAME}", "is given", "remove it")


@rule("container-name", "the pod cannot be made: a RayJob then hangs in Initializing")
def container_name(rendering: Rendering) -> Faults:
    """A container has a name that is no DNS label, or that another has."""
    for pod in pods(rendering):
        seen: set[str] = set()
        for found in pod.containers:
            if found.role == "autoscaler":
                continue
            if not DNS_1123.fullmatch(found.name) or len(found.name) > 63:
                fix = "use lower-case letters, digits and dashes"
                yield Fault(pod.owner, f"{found.path}.name", f"'{found.name}' is no DNS label", fix)
            if found.name in seen:
                yield Fault(pod.owner, f"{found.path}.name", f"'{found.name}' is taken", "give each its own name")
            seen.add(found.name)


@rule("port-name", "the pod cannot be made, or a Service reaches the wrong port")
def port_name(rendering: Rendering) -> Faults:
    """A port has no name, a bad one, one that another port of the pod has, or a number that is none."""
    for pod in pods(rendering):
        yield from _port_names(pod)


def _port_names(pod: Pod) -> Faults:
    seen: set[str] = set()
    for container in pod.containers:
        for index, port in enumerate(container.get("ports", [])):
            path, name = f"{container.path}.ports[{index}].name", str(port.get("name", ""))
            if not PORT_NAME.fullmatch(name):
                fix = "lower-case letters, digits and dashes, 15 characters at most"
                yield Fault(pod.owner, path, f"'{name}' is no name of a port", fix)
            elif name in seen:
                yield Fault(pod.owner, path, f"'{name}' is taken", "give each port its own name")
            seen.add(name)
            number = port.get("containerPort", 0)
            if not 1 <= number <= 65535:
                path = f"{container.path}.ports[{index}].containerPort"
                yield Fault(pod.owner, path, f"{number} is no port", "1 to 65535")


@rule("group-name", "no pod of the group can be made: a RayJob then hangs in Initializing")
def group_name(rendering: Rendering) -> Faults:
    """A group of workers has a name that is no DNS label, or that another has."""
    for cluster in clusters(rendering):
        seen = {"headgroup"}
        for group in cluster.workers:
            path = f"{group.path}.groupName"
            if not DNS_1123.fullmatch(group.name) or len(group.name) > 63:
                fix = "use lower-case letters, digits and dashes, 63 characters at most"
                yield Fault(cluster.owner, path, f"'{group.name}' is no DNS label", fix)
            elif group.name in seen:
                yield Fault(cluster.owner, path, f"'{group.name}' is taken", "give each group its own name")
            seen.add(group.name)


RULES = (
    duplicate_key,
    duplicate_object,
    ray_name,
    label_syntax,
    labels,
    ray_pod_name_label,
    container_name,
    port_name,
    group_name,
)
