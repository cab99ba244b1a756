"""The environment of a container, as the kubelet puts it together from what is rendered."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tests.harness.objects import Manifest, Objects

_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")
_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9, "m": 0.001, "": 1}


def quantity(text: str | float) -> float:
    """A Kubernetes quantity as a number: ``500m`` is 0.5, ``2Gi`` is 2147483648."""
    found = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text))
    if found is None or found[2] not in _UNITS:
        raise ValueError(f"no quantity: {text}")
    return float(found[1]) * _UNITS[found[2]]


def expand(text: str, env: Mapping[str, str]) -> str:
    """Replace ``$(NAME)`` where the name is known; ``$$`` is a dollar sign."""
    return _REFERENCE.sub(lambda hit: "$" if hit[0] == "$$" else env.get(hit[1], hit[0]), text)


def data_of(manifest: Manifest) -> dict[str, bytes]:
    """The keys of a ConfigMap or Secret, decoded."""
    plain = manifest.get("stringData", {}) if manifest["kind"] == "Secret" else manifest.get("data", {})
    coded = manifest.get("data", {}) if manifest["kind"] == "Secret" else manifest.get("binaryData", {})
    decoded = {key: base64.b64decode(value) for key, value in (coded or {}).items()}
    return {**decoded, **{key: value.encode() for key, value in (plain or {}).items()}}


def environment(
    container: Manifest, objects: Objects, fields: Mapping[str, str], before: Mapping[str, str]
) -> dict[str, str]:
    """Everything a container is given.

    Args:
        container: As rendered.
        objects: Where ConfigMaps and Secrets are looked up.
        fields: What ``fieldRef`` can name.
        before: What the image and the Services give; the container's own goes above it.

    Raises:
        LookupError: If something that is named does not exist: CreateContainerConfigError.
    """
    env = dict(before)
    for source in container.get("envFrom", []):
        kind = "ConfigMap" if "configMapRef" in source else "Secret"
        reference = source.get("configMapRef") or source["secretRef"]
        found = objects.find(kind, reference["name"])
        if found is None and reference.get("optional"):
            continue
        prefix = source.get("prefix", "")
        keys = data_of(found or objects.get(kind, reference["name"]))
        env.update({f"{prefix}{key}": value.decode() for key, value in keys.items()})
    for entry in container.get("env", []):
        if "valueFrom" in entry:
            value = _value_from(entry["valueFrom"], container, objects, fields)
            if value is not None:
                env[entry["name"]] = value
        else:
            env[entry["name"]] = expand(str(entry.get("value", "")), env)
    return env


def _value_from(source: Manifest, container: Manifest, objects: Objects, fields: Mapping[str, str]) -> str | None:
    for name, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
        if reference := source.get(name):
            found = objects.find(kind, reference["name"])
            keys = {} if found is None else data_of(found)
            if reference["key"] in keys:
                return keys[reference["key"]].decode()
            if reference.get("optional"):
                return None
            raise LookupError(f'{kind.lower()} "{reference["name"]}" has no key "{reference["key"]}"')
    if reference := source.get("fieldRef"):
        return fields[reference["fieldPath"]]
    reference = source["resourceFieldRef"]
    kind, _, resource = reference["resource"].partition(".")
    amount = quantity(container["resources"][kind][resource]) / quantity(reference.get("divisor", "1"))
    return str(math.ceil(amount))


def service_links(services: Sequence[Manifest]) -> dict[str, str]:
    """The variables with which Kubernetes tells each pod of the Services that exist when it starts.

    They are why a Service called ``mlflow`` gives every pod an ``MLFLOW_PORT`` that is no port.
    """
    env: dict[str, str] = {}
    for service in services:
        address = service["spec"].get("clusterIP")
        if address in (None, "None"):
            continue
        name = service["metadata"]["name"].upper().replace("-", "_")
        ports: list[dict[str, Any]] = service["spec"]["ports"]
        env[f"{name}_SERVICE_HOST"] = address
        env[f"{name}_SERVICE_PORT"] = str(ports[0]["port"])
        env[f"{name}_PORT"] = f"tcp://{address}:{ports[0]['port']}"
        for port in ports:
            number = port["port"]
            if port.get("name"):
                env[f"{name}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}"] = str(number)
            env[f"{name}_PORT_{number}_TCP"] = f"tcp://{address}:{number}"
            env[f"{name}_PORT_{number}_TCP_ADDR"] = address
            env[f"{name}_PORT_{number}_TCP_PORT"] = str(number)
            env[f"{name}_PORT_{number}_TCP_PROTO"] = "tcp"
    return env
