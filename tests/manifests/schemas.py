"""Each object against the schema that an API server would hold it to, with unknown fields refused.

Kinds of ``ray.io``: the CRDs of KubeRay, their few CEL rules included. Kinds of Kubernetes: its published schemas, for
the oldest and the newest version that the tree is meant for. Kinds of other operators, whose CRDs are not at hand: the
part of their schema that we use, in ``other_kinds.yaml``.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend
from referencing import Registry, Resource

Object = dict[str, Any]

KUBERNETES = ("1.32.0", "1.37.0")
HERE = Path(__file__).parent
CRD_FOLDER = Path(os.environ.get("FLTS_CRD_DIR", HERE.parents[2] / "shared" / "kuberay" / "crds"))

CEL: dict[str, Callable[[Any], bool]] = {
    "self == oldSelf": lambda value: True,  # about updates
    "self in ['ray.io/kuberay-operator', 'kueue.x-k8s.io/multikueue']": lambda value: (
        value in ("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue")
    ),
    "!((has(self.onSuccess) || has(self.onFailure)) && has(self.deletionRules))": lambda value: (
        not (value.keys() & {"onSuccess", "onFailure"} and "deletionRules" in value)
    ),
    "((has(self.onSuccess) && has(self.onFailure)) || has(self.deletionRules))": lambda value: (
        {"onSuccess", "onFailure"} <= value.keys() or "deletionRules" in value
    ),
    "!(has(self.jobStatus) && has(self.jobDeploymentStatus))": lambda value: (
        not {"jobStatus", "jobDeploymentStatus"} <= value.keys()
    ),
    "has(self.jobStatus) || has(self.jobDeploymentStatus)": lambda value: bool(
        value.keys() & {"jobStatus", "jobDeploymentStatus"}
    ),
}
"""What the rules of the CRDs mean; a rule that is not here ends the test that meets it, as a KeyError."""


def why_no_crds() -> str:
    """Why kinds of ``ray.io`` cannot be validated; empty if they can."""
    if any(CRD_FOLDER.glob("ray.io_*.yaml")):
        return ""
    return f"the CRDs of KubeRay are not in {CRD_FOLDER}: set FLTS_CRD_DIR to its helm-chart/kuberay-operator/crds"


def faults(document: Object) -> list[str]:
    """What is wrong with one object, each with its place; nothing if an API server would take it."""
    api_version, kind = str(document.get("apiVersion")), str(document.get("kind"))
    if api_version.startswith("ray.io/"):
        found = [
            *_faults(_crd_validators().get((api_version, kind)), document),
            *_core_faults({"apiVersion": "v1", "kind": "ConfigMap", "metadata": document.get("metadata", {})}),
            *(
                f"{place}: {fault}"
                for place, template in pod_templates(document)
                for fault in _core_faults({"apiVersion": "v1", "kind": "Pod", **template})
            ),
        ]
    elif (api_version, kind) in _other_validators():
        found = [
            *_faults(_other_validators()[api_version, kind], document),
            *_core_faults({"apiVersion": "v1", "kind": "ConfigMap", "metadata": document.get("metadata", {})}),
        ]
    else:
        found = _core_faults(document)
    name = (document.get("metadata") or {}).get("name", "?")
    return [f"{kind} {name}: {fault}" for fault in dict.fromkeys(found)]


def pod_templates(tree: Any, place: str = "") -> Iterator[tuple[str, Object]]:
    """Every pod template inside an object, with its place."""
    if isinstance(tree, dict):
        if place and isinstance(tree.get("spec"), dict) and "containers" in tree["spec"]:
            yield place, tree
            return
        for key, value in tree.items():
            yield from pod_templates(value, f"{place}.{key}" if place else key)
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from pod_templates(value, f"{place}[{index}]")


def _core_faults(document: Object) -> list[str]:
    return [fault for version in KUBERNETES for fault in _faults(_core_validator(version, document), document)]


def _faults(validator: Validator | None, document: Object) -> list[str]:
    if validator is None:
        return [f"{document.get('apiVersion')} {document.get('kind')} is no kind that a schema is at hand for"]
    return [_sentence(error) for error in validator.iter_errors(document)]


def _sentence(error: ValidationError) -> str:
    while error.context:  # of alternatives, the one that went furthest says most
        error = max(error.context, key=lambda inner: len(inner.absolute_path))
    return f"{error.json_path.removeprefix('$.')}: {error.message}"


@functools.cache
def _crd_validators() -> dict[tuple[str, str], Validator]:
    found = {}
    for path in CRD_FOLDER.glob("ray.io_*.yaml"):
        crd = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]
        for version in crd["versions"]:
            schema = _strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = True  # its schema is the core one
            schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
            found[f"{crd['group']}/{version['name']}", crd["names"]["kind"]] = _Strict(schema)
    return found


def _strict(schema: Any) -> Any:
    """An OpenAPI schema of a CRD as a JSON schema that refuses what the API server would prune."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: _strict(value) for key, value in schema.items() if key not in ("description", "default")}
    if not isinstance(schema.get("type"), str):
        return out
    fields = schema.get("properties", {})
    if schema["type"] == "object" and not schema.get("x-kubernetes-preserve-unknown-fields"):
        out.setdefault("additionalProperties", False)
        out["required"] = [name for name in schema.get("required", ()) if "default" not in fields.get(name, {})]
    if schema.get("nullable"):
        out["type"] = [schema["type"], "null"]
    return out


def _core_validator(version: str, document: Object) -> Validator | None:
    group, _, number = str(document.get("apiVersion")).rpartition("/")
    prefix = f"{group.partition('.')[0]}-" if group else ""
    return _core_validator_of(version, f"{str(document.get('kind')).lower()}-{prefix}{number}")


@functools.cache
def _core_validator_of(version: str, name: str) -> Validator | None:
    path = _core_folder(version) / f"{name}.json"
    if not path.is_file():
        return None
    return _Strict(json.loads(path.read_text(encoding="utf-8")), registry=_core_definitions(version))


@functools.cache
def _core_definitions(version: str) -> Registry[Any]:
    definitions = json.loads((_core_folder(version) / "_definitions.json").read_text(encoding="utf-8"))
    return Resource.from_contents(definitions) @ Registry()


def _core_folder(version: str) -> Any:
    return resources.files("kubernetes_validate") / "kubernetes-json-schema" / f"v{version}-local-strict"


@functools.cache
def _other_validators() -> dict[tuple[str, str], Validator]:
    schemas = yaml.safe_load((HERE / "other_kinds.yaml").read_text(encoding="utf-8"))
    shared = schemas.pop("shared")
    found = {}
    for name, spec in schemas.items():
        api_version, _, kind = name.rpartition(" ")
        top = {
            "type": "object",
            "required": ["apiVersion", "kind", "metadata", "spec"],
            "properties": {"apiVersion": True, "kind": True, "metadata": True, "spec": _strict(spec)},
            "additionalProperties": False,
            "$defs": _strict(shared),
        }
        found[api_version, kind] = _Strict(top)
    return found


def _one_of_each_key(validator: Any, keys: list[str], items: Any, schema: Any) -> Iterator[ValidationError]:
    """Keyword ``x-kubernetes-list-map-keys``: a list that is really a mapping holds each key once."""
    seen = set()
    for item in items if isinstance(items, list) else ():
        identity = tuple(str(item.get(key, "TCP" if key == "protocol" else "")) for key in keys)
        if identity in seen:
            yield ValidationError(f"{dict(zip(keys, identity, strict=True))} stands twice")
        seen.add(identity)


def _cel(validator: Any, rules: list[Object], value: Any, schema: Any) -> Iterator[ValidationError]:
    """Keyword ``x-kubernetes-validations``."""
    for rule in rules:
        if not CEL[rule["rule"]](value):
            yield ValidationError(rule["message"])


_Strict: Any = extend(
    Draft202012Validator,
    {"x-kubernetes-list-map-keys": _one_of_each_key, "x-kubernetes-validations": _cel},
)
