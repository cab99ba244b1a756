"""Rendered manifests as the rules see them: objects, and what they refer to each other by."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Tree = dict[str, Any]


def look(tree: Any, path: str, default: Any = None) -> Any:
    """The value at a dotted path of mappings; the default where there is none, or null."""
    for key in path.split("."):
        if not isinstance(tree, Mapping):
            return default
        tree = tree.get(key)
    return default if tree is None else tree


def walk(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every scalar below a value, and its path."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from walk(value, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from walk(value, f"{path}[{index}]")
    else:
        yield path, tree


@dataclass(frozen=True)
class Resource:
    """One object.

    Attributes:
        tree: Its YAML.
    """

    tree: Tree

    @property
    def kind(self) -> str:
        """Kind, such as ``RayJob``."""
        return str(self.tree.get("kind", ""))

    @property
    def name(self) -> str:
        """``metadata.name``, or ``generateName`` of one that has none yet."""
        return str(self.get("metadata.name") or self.get("metadata.generateName", ""))

    @property
    def namespace(self) -> str:
        """``metadata.namespace``; empty: none is said."""
        return str(self.get("metadata.namespace", ""))

    @property
    def labels(self) -> Tree:
        """``metadata.labels``."""
        return dict(self.get("metadata.labels", {}))

    def get(self, path: str, default: Any = None) -> Any:
        """The value at a dotted path of mappings."""
        return look(self.tree, path, default)

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


@dataclass(frozen=True)
class Rendering:
    """All objects that are applied together.

    Attributes:
        resources: The objects.
        duplicate_keys: ``(object, key and line)`` of keys that are given twice.
        gates: Feature gates of the operator that are on although they are off by default.
        existing: ``Kind/name`` of what stands in the namespace already, put there by somebody else.
    """

    resources: tuple[Resource, ...]
    duplicate_keys: tuple[tuple[Resource, str], ...] = ()
    gates: frozenset[str] = frozenset()
    existing: frozenset[str] = frozenset()
    _made: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def of(self, *kinds: str) -> Iterator[Resource]:
        """The objects of these kinds."""
        return (resource for resource in self.resources if resource.kind in kinds)

    def find(self, kind: str, name: str) -> Resource | None:
        """The object of that kind and name; one that exists already is known by its name only."""
        for found in self.of(kind):
            if found.name == name:
                return found
        return Resource({"kind": kind, "metadata": {"name": name}}) if f"{kind}/{name}" in self.existing else None

    def existing_of(self, kind: str) -> list[str]:
        """Names of what exists already of a kind."""
        return [each.partition("/")[2] for each in self.existing if each.startswith(f"{kind}/")]

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What is made of all objects, and asked for by many rules: made the first time only."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    @functools.cached_property
    def config_maps(self) -> dict[str, Tree]:
        """Keys and texts of each ConfigMap, by name; one that exists already has the key ``*``: nobody knows which."""
        known: dict[str, Tree] = {name: {"*": ""} for name in self.existing_of("ConfigMap")}
        for found in self.of("ConfigMap"):
            known[found.name] = {**found.get("data", {}), **found.get("binaryData", {})}
        return known
