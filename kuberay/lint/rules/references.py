"""What objects refer to by name exists: Secrets, ConfigMaps, accounts, files, variables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from kuberay.lint.clusters import clusters
from kuberay.lint.commands import option
from kuberay.lint.environment import secrets, variables
from kuberay.lint.model import Rendering, Resource, Tree, look
from kuberay.lint.mounts import mounted
from kuberay.lint.pods import containers, pods
from kuberay.lint.rule import Fault, Faults, rule

WAITS = "the pod waits for it for ever: CreateContainerConfigError, or FailedMount"
IN_EVERY_NAMESPACE = "kube-root-ca.crt"
USED = re.compile(r"\$\((\w+)\)")
GIVEN_BY_KUBERAY = re.compile(r"^(RAY_\w+|FQ_RAY_IP)$")


@rule("secret-exists", WAITS)
def secret_exists(rendering: Rendering) -> Faults:
    """A Secret that is referred to, or its key, will not exist."""
    known = secrets(rendering)
    for resource, path, name, key in _secret_uses(rendering):
        if name not in known:
            fix = "add it to the plan of flts-make-secrets, or correct the name"
            yield Fault(resource, path, f"there is no Secret {name}", fix)
        elif key and key not in known[name] and "*" not in known[name]:
            yield Fault(resource, path, f"Secret {name} has no key {key}", f"keys: {', '.join(known[name])}")


def _secret_uses(rendering: Rendering) -> Iterator[tuple[Resource, str, str, str]]:
    """Each use of a Secret that is not optional: object, path, name, key."""
    for container in containers(rendering):
        for path, reference in _references(container.tree, container.path, "secretRef", "secretKeyRef"):
            yield container.pod.owner, path, str(reference.get("name")), str(reference.get("key", ""))
    for pod in pods(rendering):
        for index, entry in enumerate(pod.spec.get("volumes") or []):
            for tree in (entry, *look(entry, "projected.sources", [])):
                secret = tree.get("secret")
                if secret is None or secret.get("optional"):
                    continue
                name = str(secret.get("secretName") or secret.get("name"))
                for key in [item["key"] for item in secret.get("items") or []] or [""]:
                    yield pod.owner, f"{pod.path}.spec.volumes[{index}]", name, key
        for reference in pod.spec.get("imagePullSecrets") or []:
            yield pod.owner, f"{pod.path}.spec.imagePullSecrets", str(reference.get("name")), ""
    for cluster in clusters(rendering):
        if name := cluster.get("authOptions.secretName"):
            yield cluster.owner, f"{cluster.path}.authOptions.secretName", str(name), "auth_token"
        path = "gcsFaultToleranceOptions.redisPassword.valueFrom.secretKeyRef"
        if reference := cluster.get(path):
            yield cluster.owner, f"{cluster.path}.{path}", str(reference.get("name")), str(reference.get("key"))
    for resource in rendering.of("Ingress"):
        for entry in resource.get("spec.tls", []):
            yield resource, "spec.tls", str(entry.get("secretName")), ""


@rule("config-map-exists", WAITS)
def config_map_exists(rendering: Rendering) -> Faults:
    """A ConfigMap that is referred to, or its key, does not exist: often the hash that kustomize adds is missing."""
    for resource, path, name, key in _config_map_uses(rendering):
        if name == IN_EVERY_NAMESPACE:
            continue
        if name not in rendering.config_maps:
            fix = "correct the name; inside Ray objects nameref.yaml tells kustomize of hashed names"
            yield Fault(resource, path, f"there is no ConfigMap {name}", fix)
        elif key and not {key, "*"} & rendering.config_maps[name].keys():
            fix = f"keys: {', '.join(rendering.config_maps[name])}"
            yield Fault(resource, path, f"ConfigMap {name} has no key {key}", fix)


def _config_map_uses(rendering: Rendering) -> Iterator[tuple[Resource, str, str, str]]:
    for container in containers(rendering):
        for path, reference in _references(container.tree, container.path, "configMapRef", "configMapKeyRef"):
            yield container.pod.owner, path, str(reference.get("name")), str(reference.get("key", ""))
    for pod in pods(rendering):
        for index, entry in enumerate(pod.spec.get("volumes") or []):
            for tree in (entry, *look(entry, "projected.sources", [])):
                found = tree.get("configMap")
                if found is None or found.get("optional"):
                    continue
                for key in [item["key"] for item in found.get("items") or []] or [""]:
                    yield pod.owner, f"{pod.path}.spec.volumes[{index}]", str(found.get("name")), key


def _references(tree: Tree, path: str, whole: str, one: str) -> Iterator[tuple[str, Tree]]:
    """References of a container's environment that are not optional."""
    for index, source in enumerate(tree.get("envFrom") or []):
        if whole in source and not source[whole].get("optional"):
            yield f"{path}.envFrom[{index}]", source[whole]
    for index, entry in enumerate(tree.get("env") or []):
        reference = look(entry, f"valueFrom.{one}")
        if reference is not None and not reference.get("optional"):
            yield f"{path}.env[{index}]", reference


@rule("account-exists", "the pod cannot be made, or the binding binds nothing")
def account_exists(rendering: Rendering) -> Faults:
    """A ServiceAccount or Role that is referred to does not exist."""
    for pod in pods(rendering):
        name = pod.spec.get("serviceAccountName")
        if name and name != "default" and rendering.find("ServiceAccount", name) is None:
            path = f"{pod.path}.spec.serviceAccountName"
            yield Fault(pod.owner, path, f"there is no ServiceAccount {name}", "add it")
    for resource in rendering.of("RoleBinding"):
        role, kind = resource.get("roleRef.name", ""), resource.get("roleRef.kind", "")
        if kind == "Role" and rendering.find(kind, role) is None:
            yield Fault(resource, "roleRef", f"there is no Role {role}", "add it")
        for who in resource.get("subjects", []):
            if who.get("kind") == "ServiceAccount" and rendering.find("ServiceAccount", who["name"]) is None:
                yield Fault(resource, "subjects", f"there is no ServiceAccount {who['name']}", "add it")


@rule("file-exists", "the program ends at once, for want of its configuration or token")
def file_exists(rendering: Rendering) -> Faults:
    """A file that a command line or a variable names is not mounted."""
    for container in containers(rendering):
        names: dict[str, Any] = {"--config": option(container.command, "--config")}
        names |= {
            found.name: found.value
            for found in variables(rendering, container)
            if found.name == "FLTS_CONFIG" or found.name.endswith("_FILE")
        }
        for name, path in names.items():
            ours = str(path or "").startswith("/etc/") and not str(path).startswith("/etc/ssl/")  # that is the image's
            if ours and mounted(rendering, container, str(path)) is None:
                yield Fault(container.pod.owner, container.path, f"{name} is {path}, which is not mounted", "mount it")


@rule("variable-exists", "the text $(NAME) is passed on as it stands")
def variable_exists(rendering: Rendering) -> Faults:
    """A command line or a variable uses ``$(NAME)``, and the container has no such variable before it."""
    for container in containers(rendering):
        owner, seen = container.pod.owner, set()
        for found in variables(rendering, container):
            for name in USED.findall(found.value or "") if found.direct else ():
                if name not in seen:
                    yield Fault(owner, found.path, f"$({name}) is not set before it", "set it above, or write it out")
            seen.add(found.name)
        for name in USED.findall(" ".join(container.command)):
            shell = container.command[:2] in (["sh", "-c"], ["bash", "-c"], ["/bin/sh", "-c"])
            if name not in seen and not GIVEN_BY_KUBERAY.match(name) and not shell:
                yield Fault(owner, f"{container.path}.args", f"$({name}) is not set", "add it to env")


RULES = (
    secret_exists,
    config_map_exists,
    account_exists,
    file_exists,
    variable_exists,
)
