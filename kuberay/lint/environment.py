"""What stands in a container's environment, and where it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from kuberay.lint.model import Rendering, Tree, look
from kuberay.lint.pods import Container

PLAN = "secret-plan"
"""ConfigMap whose ``plan.yaml`` lists the Secrets that a Job makes in the cluster: secret → key → kind."""


@dataclass(frozen=True)
class Variable:
    """One environment variable.

    Attributes:
        name: Name.
        path: Where it is set in the container's object.
        value: Its text; None if it comes from a Secret or from the pod itself.
        direct: Whether the container itself names it, rather than a ConfigMap that it takes whole.
    """

    name: str
    path: str
    value: str | None
    direct: bool


def variables(rendering: Rendering, container: Container) -> Iterator[Variable]:
    """What a container's manifest puts into its environment; a later one of the same name wins."""
    for index, source in enumerate(container.get("envFrom", [])):
        path, prefix = f"{container.path}.envFrom[{index}]", source.get("prefix", "")
        if "configMapRef" in source:
            for key, text in rendering.config_maps.get(source["configMapRef"].get("name"), {}).items():
                if key == "*":
                    continue
                yield Variable(prefix + key, path, str(text), direct=False)
        elif "secretRef" in source:
            for key in secrets(rendering).get(source["secretRef"].get("name"), {}).keys() - {"*"}:
                yield Variable(prefix + key, path, None, direct=False)
    for index, entry in enumerate(container.get("env", [])):
        name, key = (look(entry, f"valueFrom.configMapKeyRef.{part}", "") for part in ("name", "key"))
        value = rendering.config_maps.get(name, {}).get(key, entry.get("value"))
        text = None if value is None else str(value)
        yield Variable(str(entry.get("name")), f"{container.path}.env[{index}]", text, direct=True)


def environ(rendering: Rendering, container: Container) -> dict[str, str]:
    """The environment of a container, without what only the cluster knows."""
    return {found.name: str(found.value) for found in variables(rendering, container) if found.value is not None}


def secrets(rendering: Rendering) -> dict[str, Tree]:
    """Secrets that will exist and their keys: those that the plan makes, KubeRay makes, or that are here.

    A Secret that exists already, or that cert-manager or an operator of secrets will make, has the key ``*``: nobody
    knows which.
    """
    known: dict[str, Tree] = rendering.once("secrets", lambda: _secrets(rendering))
    return known


def _secrets(rendering: Rendering) -> dict[str, Tree]:
    found: dict[str, Tree] = {name: {"*": ""} for name in rendering.existing_of("Secret")}
    plan = next((texts for name, texts in rendering.config_maps.items() if PLAN in name), {})
    try:
        planned = yaml.safe_load(str(plan.get("plan.yaml", ""))) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"plan.yaml of ConfigMap {PLAN} is no YAML") from error
    for name, keys in planned.items():
        found[str(name)] = dict(keys or {})
    for resource in rendering.of("Secret"):
        found[resource.name] = {**resource.get("data", {}), **resource.get("stringData", {})}
    for resource in rendering.of("SealedSecret", "ExternalSecret"):
        found[resource.get("spec.target.name", resource.name)] = {"*": ""}
    for resource in rendering.of("Certificate"):
        found[resource.get("spec.secretName", "")] = {"*": ""}
    for resource in rendering.of("RayCluster"):
        if resource.get("spec.authOptions.mode") == "token" and not resource.get("spec.authOptions.secretName"):
            found[resource.name] = {"auth_token": ""}
    for resource in rendering.of("Ingress"):
        if any(key.startswith("cert-manager.io/") for key in resource.get("metadata.annotations", {})):
            found |= {entry.get("secretName", ""): {"*": ""} for entry in resource.get("spec.tls", [])}
    return found
