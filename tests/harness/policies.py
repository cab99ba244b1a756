"""Whether NetworkPolicies let one pod connect to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.harness.objects import Manifest


@dataclass(frozen=True)
class Peer:
    """One end of a connection.

    Attributes:
        name: For people.
        labels: Of the pod; None for what is no pod, such as the API server.
        ports: Its named ports.
    """

    name: str
    labels: Mapping[str, str] | None
    ports: Mapping[str, int]


def refusals(policies: Sequence[Manifest], source: Peer, target: Peer, port: int) -> list[str]:
    """Which directions of a TCP connection no policy opens; empty if it is allowed."""
    refused = []
    if not _allowed(policies, "Egress", source, target, port, target.ports):
        refused.append(f"no egress from {source.name} to {target.name}:{port}")
    if not _allowed(policies, "Ingress", target, source, port, target.ports):
        refused.append(f"no ingress to {target.name}:{port} from {source.name}")
    return refused


def _allowed(
    policies: Sequence[Manifest], direction: str, pod: Peer, other: Peer, port: int, ports: Mapping[str, int]
) -> bool:
    if pod.labels is None:
        return True  # no policy selects what is no pod
    chosen = [policy["spec"] for policy in policies if selects(policy["spec"]["podSelector"], pod.labels)]
    chosen = [spec for spec in chosen if direction in spec.get("policyTypes", ["Ingress"])]
    if not chosen:
        return True
    rules = [rule for spec in chosen for rule in spec.get(direction.lower()) or []]
    side = "to" if direction == "Egress" else "from"
    return any(_port_fits(rule.get("ports"), port, ports) and _peer_fits(rule.get(side), other) for rule in rules)


def _port_fits(listed: Sequence[Manifest] | None, port: int, names: Mapping[str, int]) -> bool:
    if not listed:
        return True
    for each in listed:
        told = each.get("port", port)
        first = names.get(told, -1) if isinstance(told, str) else int(told)
        if each.get("protocol", "TCP") == "TCP" and first <= port <= int(each.get("endPort", first)):
            return True
    return False


def _peer_fits(listed: Sequence[Manifest] | None, other: Peer) -> bool:
    if not listed:
        return True
    for each in listed:
        if "ipBlock" in each:
            if other.labels is None:
                return True
        # All pods here are of one namespace; one that is selected by its labels is another.
        elif (
            other.labels is not None
            and not each.get("namespaceSelector")
            and selects(each.get("podSelector", {}), other.labels)
        ):
            return True
    return False


def selects(selector: Manifest, labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches; an empty one matches everything."""
    if any(labels.get(name) != value for name, value in selector.get("matchLabels", {}).items()):
        return False
    for each in selector.get("matchExpressions", []):
        value = labels.get(each["key"])
        fits = {
            "In": value in each.get("values", []),
            "NotIn": value not in each.get("values", []),
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }[each["operator"]]
        if not fits:
            return False
    return True
