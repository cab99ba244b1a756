"""The good fixture, and the broken ones: each the good one with one fault.

A file of ``broken/`` is named after its rule and holds one document for each fault:

- ``fault``: what is wrong with it;
- ``object``: kind and name; ``set``: path → value; ``remove``: paths;
- ``add``: one more object; ``text``: more YAML, for what is no tree any more;
- ``also``: other rules that see the same fault.

``fine.yaml`` has the same for changes that are no faults: ``fine`` says which.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kuberay.lint.model import Rendering, Resource
from kuberay.lint.reading import read

HERE = Path(__file__).parent
GATES = frozenset({"RayCronJob"})
STEP = re.compile(r'\["([^"]+)"\]|\[(\d+)\]|([^.\[]+)')


@dataclass(frozen=True)
class Broken:
    """One broken fixture."""

    rule: str
    fault: dict[str, Any]

    @property
    def caught_by(self) -> set[str]:
        return {self.rule, *self.fault.get("also", [])}

    def __str__(self) -> str:
        return f"{self.rule}: {self.fault['fault']}"


@functools.cache
def _good() -> str:
    return json.dumps(yaml.safe_load((HERE / "good.yaml").read_text(encoding="utf-8")))


def good() -> dict[str, Any]:
    """A copy without anchors: what is changed in one place is not changed in another."""
    tree: dict[str, Any] = json.loads(_good())
    return tree


def broken() -> list[Broken]:
    return [
        Broken(path.stem, fault)
        for path in sorted((HERE / "broken").glob("*.yaml"))
        for fault in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    ]


def fine() -> list[Broken]:
    """Changes that are no faults."""
    documents = yaml.safe_load_all((HERE / "fine.yaml").read_text(encoding="utf-8"))
    return [Broken("", {"fault": change["fine"], **change}) for change in documents]


def apply(case: Broken, tree: dict[str, Any]) -> Rendering:
    """The good fixture with a fault in it."""
    fault = case.fault
    if "object" in fault:
        found = [item for item in tree["items"] if f"{item['kind']}/{item['metadata']['name']}" == fault["object"]]
        assert len(found) == 1, f"the good fixture has not one {fault['object']}"
        for path in fault.get("remove", []):
            place, key = _place(found[0], path)
            del place[key]
        for path, value in fault.get("set", {}).items():
            place, key = _place(found[0], path)
            place[key] = value
    if "add" in fault:
        tree["items"].append(fault["add"])
    if "text" in fault:
        return read(json.dumps(tree) + "\n" + fault["text"], gates=GATES)  # JSON is YAML
    return rendering(tree)


def rendering(tree: dict[str, Any]) -> Rendering:
    """As :func:`read` does, without the text between."""
    return Rendering(tuple(map(Resource, tree["items"])), gates=GATES)


def _place(tree: Any, path: str) -> tuple[Any, str | int]:
    steps: list[str | int] = [quoted or (int(index) if index else plain) for quoted, index, plain in STEP.findall(path)]
    for step in steps[:-1]:
        tree = tree[step]
    return tree, steps[-1]
