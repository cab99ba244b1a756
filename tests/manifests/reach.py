"""What NetworkPolicies let through, as a network plugin that enforces them would decide."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kuberay.lint.model import Rendering, Resource

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Place:
    """One end of a connection: a pod, or an address outside of all pods.

    Attributes:
        labels: Of the pod.
        namespace: Of the pod; empty: this is no pod.
        address: Of what is no pod.
    """

    labels: Labels = field(default_factory=dict)
    namespace: str = ""
    address: str = ""


def selects(selector: Mapping[str, Any], labels: Labels) -> bool:
    """Whether a label selector takes these labels; an empty one takes all."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for expression in selector.get("matchExpressions", []):
        value, operator = labels.get(expression["key"]), expression["operator"]
        match operator:
            case "In":
                fits = value in expression["values"]
            case "NotIn":
                fits = value not in expression["values"]
            case "Exists" | "DoesNotExist":
                fits = (value is not None) == (operator == "Exists")
            case _:
                raise ValueError(f"a selector with operator {operator!r}")
        if not fits:
            return False
    return True


def reaches(rendering: Rendering, source: Place, target: Place, port: int, protocol: str = "TCP") -> bool:
    """Whether the source may open a connection: what leaves it and what enters the target have to be allowed."""
    policies = tuple(rendering.of("NetworkPolicy"))
    return _passes(policies, "Egress", source, target, port, protocol) and _passes(
        policies, "Ingress", target, source, port, protocol
    )


def _passes(
    policies: tuple[Resource, ...], direction: str, here: Place, there: Place, port: int, protocol: str
) -> bool:
    if not here.namespace:
        return True  # no policy is about it
    rules, peers = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    isolated = False
    for policy in policies:
        spec = policy.get("spec")
        if policy.namespace != here.namespace or direction not in spec["policyTypes"]:
            continue
        if not selects(spec["podSelector"], here.labels):
            continue
        isolated = True
        for rule in spec.get(rules, []):
            if _port_fits(rule, port, protocol) and _peer_fits(rule.get(peers), there, policy.namespace):
                return True
    return not isolated


def _port_fits(rule: Mapping[str, Any], port: int, protocol: str) -> bool:
    ports = rule.get("ports")
    return not ports or any(one.get("protocol", "TCP") == protocol and one.get("port") in (None, port) for one in ports)


def _peer_fits(peers: list[Mapping[str, Any]] | None, there: Place, own: str) -> bool:
    if not peers:
        return True
    for peer in peers:
        if block := peer.get("ipBlock"):
            if there.address and ipaddress.ip_address(there.address) in ipaddress.ip_network(block["cidr"]):
                return True
            continue
        if not there.namespace or not selects(peer.get("podSelector", {}), there.labels):
            continue
        namespaces = peer.get("namespaceSelector")
        if there.namespace == own if namespaces is None else selects(namespaces, _namespace_labels(there.namespace)):
            return True
    return False


def _namespace_labels(name: str) -> Labels:
    return {"kubernetes.io/metadata.name": name}
