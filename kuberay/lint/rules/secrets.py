"""Secrets that are none, because they are written out."""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

from flts_ray.redaction import SECRET_NAMES, masked
from kuberay.lint.clusters import jobs
from kuberay.lint.environment import PLAN
from kuberay.lint.model import Rendering, look, walk
from kuberay.lint.pods import containers
from kuberay.lint.rule import Fault, Faults, rule
from kuberay.lint.rules.jobs import runtime_env_of
from kuberay.lint.rules.services import CONFIG, runtime_envs

FIX = "take it from a Secret: secretKeyRef, secretRef or a mounted file"
SECRET_WORDS = r"(?:password|passwd|secret|token|access[-_]?key|api[-_]?key)"
OPTION = re.compile(rf"(--?[\w-]*{SECRET_WORDS})(?:=|\s+)(?!\$|-)\S", re.IGNORECASE)
"""An option such as ``--password=x``, unless a variable stands for the value."""

ASSIGNED = re.compile(rf"^\s*[\"']?([\w.-]*{SECRET_WORDS})[\"']?\s*[:=]\s*([^\s#$|>].*)", re.IGNORECASE)
"""A line such as ``password: x``, unless a variable stands for the value."""

KINDS_OF_THE_PLAN = ("secret", "identity")
CODE = (".py", ".sh", ".json")
PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----|\bAKIA[0-9A-Z]{16}\b")
NO_SECRET = re.compile(r"_FILE$|_PATH$|_NAME$|_MODE$")
SWITCH = re.compile(r"true|false|yes|no|on|off|\d{1,6}", re.IGNORECASE)


def _is_secret(name: object, value: object) -> bool:
    """Whether a value of that name is one to hide; a switch or a number is none."""
    said = str(name)
    return bool(SECRET_NAMES.search(said)) and not NO_SECRET.search(said) and not SWITCH.fullmatch(str(value))


@rule("secret-object", "whoever may read the repository has it")
def secret_object(rendering: Rendering) -> Faults:
    """A Secret is in the manifests."""
    for resource in rendering.of("Secret"):
        if resource.get("data") or resource.get("stringData"):
            yield Fault(resource, "data", "is in the manifests", "let Job flts-make-secrets or an operator make it")


@rule("plain-secret", "whoever may read the manifests, the pods or the dashboard has it")
def plain_secret(rendering: Rendering) -> Faults:
    """A password, key or token is written out in an environment, a command line or a runtime environment."""
    for container in containers(rendering):
        owner = container.pod.owner
        for index, entry in enumerate(container.get("env", [])):
            name, value = entry.get("name"), str(entry.get("value") or "")
            if value and _is_secret(name, value) and "$(" not in value:
                yield Fault(owner, f"{container.path}.env[{index}]", f"{name} has its value here", FIX)
        if found := OPTION.search(" ".join(container.command)):
            yield Fault(owner, f"{container.path}.args", f"{found[1]} has its value here", FIX)
    for job in jobs(rendering):
        for name, value in look(runtime_env_of(job), "env_vars", {}).items():
            if value and _is_secret(name, value):
                yield Fault(job.owner, f"{job.path}.runtimeEnvYAML", f"{name} has its value here", FIX)
    for resource in rendering.of("RayService"):
        for content in runtime_envs(resource):
            for name, value in look(content, "env_vars", {}).items():
                if value and _is_secret(name, value):
                    yield Fault(resource, CONFIG, f"{name} has its value here", FIX)
    for resource in rendering.of("RayCluster", "RayJob", "RayService", "RayCronJob"):
        for path, value in walk(resource.tree):
            if path.endswith(("redisPassword.value", "redisUsername.value")) and value:
                yield Fault(resource, path, "has its value here", "valueFrom.secretKeyRef")


@rule("secret-in-text", "whoever may read the manifests or the ConfigMap has it")
def secret_in_text(rendering: Rendering) -> Faults:
    """A text holds an address with a password, a private key, or a line that sets a secret."""
    for resource in rendering.resources:
        for path, value in walk(resource.tree):
            for what in _in_text(str(value)):
                yield Fault(resource, path, what, FIX)
    for resource in rendering.of("ConfigMap"):
        for key, text in resource.get("data", {}).items():
            lines = str(text).splitlines()
            if len(lines) == 1 and _is_secret(key, lines[0]):
                yield Fault(resource, f"data.{key}", "is the name of a secret", FIX)
            if len(lines) < 2 or key.endswith(CODE):  # code names secrets that it reads
                continue
            for line in lines:
                found = ASSIGNED.match(line)
                if found and found[2].partition(" ")[0] not in KINDS_OF_THE_PLAN:
                    yield Fault(resource, f"data.{key}", f"`{found[1]}` has its value here", FIX)


def _in_text(text: str) -> Iterator[str]:
    if "://" in text and masked(text) != text and not re.search(r"://[^/@\s]*:\$[({]?\w", text):
        yield "holds an address with a password"
    if PRIVATE_KEY.search(text):
        yield "holds a private key"


@rule("make-secrets", "the Job gives up: every pod waits for Secrets that nobody makes")
def make_secrets(rendering: Rendering) -> Faults:
    """What makes the Secrets has no token, or may not make and read all of its plan."""
    plan = next((texts for name, texts in rendering.config_maps.items() if PLAN in name), {})
    names = set(yaml.safe_load(str(plan.get("plan.yaml", ""))) or {})
    for container in containers(rendering):
        pod = container.pod
        if not any(word.endswith("/make_secrets.py") for word in container.command):
            continue
        account = str(pod.spec.get("serviceAccountName", "default"))
        made = rendering.find("ServiceAccount", account)
        token = pod.spec.get("automountServiceAccountToken")
        if token is None and made is not None:
            token = made.get("automountServiceAccountToken")
        if token is False:
            path = f"{pod.path}.spec.automountServiceAccountToken"
            yield Fault(pod.owner, path, "is false: it cannot talk to the API server", "true")
        rights = list(_rights(rendering, pod.owner.namespace, account))
        if not any("create" in verbs and named is None for verbs, named in rights):
            fix = "a Role with create on secrets, and a RoleBinding of this namespace to it"
            yield Fault(pod.owner, f"{pod.path}.spec.serviceAccountName", f"{account} may not make Secrets", fix)
        read = set().union(*(names if named is None else named for verbs, named in rights if "get" in verbs))
        if names - read:
            what = f"{account} may not read {', '.join(sorted(names - read))}"
            fix = "add the names to resourceNames of its Role"
            yield Fault(pod.owner, f"{pod.path}.spec.serviceAccountName", what, fix)


def _rights(rendering: Rendering, namespace: str, account: str) -> Iterator[tuple[set[str], set[str] | None]]:
    """What an account may do with Secrets: verbs, and the names that they are bound to; None: all."""
    for binding in rendering.of("RoleBinding"):
        bound = any(
            (who.get("kind"), who.get("name")) == ("ServiceAccount", account)
            and who.get("namespace", binding.namespace) == namespace == binding.namespace
            for who in binding.get("subjects", [])
        )
        role = rendering.find(str(binding.get("roleRef.kind")), str(binding.get("roleRef.name")))
        for entry in role.get("rules", []) if bound and role is not None else ():
            resources, verbs = set(entry.get("resources") or []), set(entry.get("verbs") or [])
            if resources & {"secrets", "*"} and set(entry.get("apiGroups") or []) & {"", "*"}:
                named = entry.get("resourceNames")
                yield ({"create", "get"} if "*" in verbs else verbs), set(named) if named else None


RULES = (secret_object, plain_secret, secret_in_text, make_secrets)
