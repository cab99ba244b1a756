"""Label selectors: which pods they select, as far as the labels are known before the pods are made."""

from __future__ import annotations

from typing import Any

from kuberay.lint.model import Resource, Tree
from kuberay.lint.pods import Pod


def selects(selector: Tree | None, pod: Pod) -> bool:
    """Whether a selector with matchLabels and matchExpressions selects a pod; an empty one selects all."""
    if selector is None:
        return False
    same = all(_has(pod, key, value) for key, value in (selector.get("matchLabels") or {}).items())
    return same and all(_expression(entry, pod) for entry in selector.get("matchExpressions") or [])


def policy_types(policy: Resource) -> list[str]:
    """What a NetworkPolicy is about; unless it says so: connections that come in, and those that go if it names any."""
    default = ["Ingress", *(["Egress"] if policy.get("spec.egress") else [])]
    return list(policy.get("spec.policyTypes") or default)


def selected_by_labels(labels: Tree, pod: Pod) -> bool:
    """Whether a plain mapping of labels, such as a Service's, selects a pod."""
    return all(_has(pod, key, value) for key, value in labels.items())


def _has(pod: Pod, key: str, value: Any) -> bool:
    return pod.labels.get(key) == value or (key in pod.prefixes and str(value).startswith(pod.prefixes[key]))


def _expression(entry: Tree, pod: Pod) -> bool:
    key, values = str(entry.get("key")), entry.get("values") or []
    there = key in pod.labels or key in pod.prefixes
    match entry.get("operator"):
        case "Exists":
            return there
        case "DoesNotExist":
            return not there
        case "In":
            return any(_has(pod, key, value) for value in values)
        case "NotIn":
            return not any(_has(pod, key, value) for value in values)
        case _:
            return False
