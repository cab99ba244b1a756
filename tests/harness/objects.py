"""What is in the namespace: the rendered objects, and those that come to be while the cluster runs."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kuberay.lint.render import render

Manifest = dict[str, Any]


@dataclass
class Objects:
    """Objects by kind and name."""

    namespace: str
    _known: dict[tuple[str, str], Manifest] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def rendered(cls, folder: Path) -> Objects:
        """What ``kubectl apply -k`` would send."""
        return cls.of(found for found in yaml.safe_load_all(render(folder)) if found)

    @classmethod
    def of(cls, manifests: Iterable[Manifest]) -> Objects:
        found = list(manifests)
        namespaces = {each["metadata"]["namespace"] for each in found if "namespace" in each["metadata"]}
        if len(namespaces) != 1:
            raise ValueError(f"objects of one namespace are needed, and these are of {sorted(namespaces)}")
        objects = cls(namespaces.pop())
        for each in found:
            objects.add(each)
        return objects

    def add(self, manifest: Manifest) -> bool:
        """Add an object unless there is one of its kind and name.

        Returns:
            Whether it is new.
        """
        with self._lock:
            key = (manifest["kind"], manifest["metadata"]["name"])
            if key in self._known:
                return False
            self._known[key] = manifest
            return True

    def remove(self, kind: str, name: str) -> None:
        with self._lock:
            del self._known[kind, name]

    def find(self, kind: str, name: str) -> Manifest | None:
        with self._lock:
            return self._known.get((kind, name))

    def get(self, kind: str, name: str) -> Manifest:
        """An object that has to be there.

        Raises:
            LookupError: What a controller or the kubelet would say.
        """
        found = self.find(kind, name)
        if found is None:
            raise LookupError(f'{kind.lower()} "{name}" not found')
        return found

    def all(self, kind: str) -> list[Manifest]:
        with self._lock:
            return [manifest for (of, _), manifest in self._known.items() if of == kind]


@dataclass
class Applied:
    """An object that a controller acts on.

    Attributes:
        manifest: As rendered.
    """

    manifest: Manifest

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def spec(self) -> Manifest:
        spec: Manifest = self.manifest["spec"]
        return spec


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether labels satisfy a plain selector; an empty one selects nothing, as in a Service."""
    return bool(selector) and all(labels.get(name) == value for name, value in selector.items())
