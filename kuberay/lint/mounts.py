"""What a container finds at a path, and the settings that it resolves from file and environment."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from flts_ray.config import Settings
from flts_ray.config_layers import load_settings
from flts_ray.errors import ConfigError
from kuberay.lint.environment import environ, secrets
from kuberay.lint.model import Rendering, Tree
from kuberay.lint.pods import Container


@dataclass(frozen=True)
class Mounted:
    """A file that a ConfigMap or Secret puts into a container.

    Attributes:
        source: Kind and name.
        text: Its content; None: it is secret.
    """

    source: str
    text: str | None


def volume(container: Container, name: str) -> Tree | None:
    """The volume of that name of the container's pod."""
    found: list[Tree] = container.pod.spec.get("volumes") or []
    return next((entry for entry in found if entry.get("name") == name), None)


def mounted(rendering: Rendering, container: Container, path: str) -> Mounted | None:
    """The file at a path, if a ConfigMap or Secret that exists puts one there."""
    for mount in container.get("volumeMounts", []):
        folder = PurePosixPath(str(mount.get("mountPath")))
        if not PurePosixPath(path).is_relative_to(folder):
            continue
        relative = mount.get("subPath") or str(PurePosixPath(path).relative_to(folder))
        entry = volume(container, str(mount.get("name"))) or {}
        for source in [entry, *(entry.get("projected") or {}).get("sources", [])]:
            if found := _in_source(rendering, source, relative):
                return found
    return None


def _in_source(rendering: Rendering, source: Tree, relative: str) -> Mounted | None:
    for kind in ("configMap", "secret"):
        tree = source.get(kind)
        if tree is None:
            continue
        name = str(tree.get("secretName") or tree.get("name"))
        items = {str(item["path"]): str(item["key"]) for item in tree.get("items") or []}
        key = items.get(relative, "" if items else relative)
        keys = rendering.config_maps.get(name) if kind == "configMap" else secrets(rendering).get(name)
        if keys is not None and (key in keys or "*" in keys):
            return Mounted(f"{kind} {name}", str(keys[key]) if kind == "configMap" else None)
    return None


def settings(
    rendering: Rendering,
    container: Container,
    *,
    file: str | None = None,
    options: Mapping[str, Any] | None = None,
    assignments: Iterable[str] = (),
    extra: Mapping[str, str] | None = None,
) -> Settings:
    """The settings that the program resolves in a container.

    Args:
        rendering: All objects.
        container: Where it runs.
        file: Path of the configuration file in the container; default: what FLTS_CONFIG says.
        options: Settings given by other means, by dotted key.
        assignments: Texts of ``--set``.
        extra: More environment, such as that of a job's runtime environment.

    Raises:
        ConfigError: If the program would refuse them, or the file is not there.
    """
    env = environ(rendering, container) | dict(extra or {})
    path = file or env.get("FLTS_CONFIG")
    env.pop("FLTS_CONFIG", None)
    if not path:
        return load_settings(options=options, assignments=assignments, environ=env).settings
    found = mounted(rendering, container, path)
    if found is None or found.text is None:
        raise ConfigError(f"no ConfigMap puts the configuration file {path} there: mount one")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, PurePosixPath(path).name)
        copy.write_text(found.text, encoding="utf-8")
        return load_settings(file=copy, options=options, assignments=assignments, environ=env).settings
