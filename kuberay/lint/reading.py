"""YAML text into objects. A key that is given twice is noted: ``kubectl apply`` silently takes the last one."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from flts_ray.errors import ConfigError
from kuberay.lint.model import Rendering, Resource

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML was built with it


def read(
    text: str,
    *,
    source: str = "the manifests",
    gates: frozenset[str] = frozenset(),
    existing: frozenset[str] = frozenset(),
) -> Rendering:
    """The objects of a YAML text; lists of objects are opened.

    Args:
        text: Documents.
        source: What the text is, for messages.
        gates: Feature gates of the operator that are on.
        existing: ``Kind/name`` of what stands in the namespace already.

    Raises:
        ConfigError: If it is no YAML, a document is no object, or there is none.
    """
    resources: list[Resource] = []
    duplicates: list[tuple[Resource, str]] = []
    try:
        nodes = list(yaml.compose_all(text, Loader=_Loader))
        documents = list(yaml.load_all(text, Loader=_Loader))
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from error
    for number, (node, document) in enumerate(zip(nodes, documents, strict=True), start=1):
        if document is None:
            continue
        items = document.get("items") if isinstance(document, dict) and document.get("kind") == "List" else [document]
        if not isinstance(items, list) or not all(_is_object(item) for item in items):
            raise ConfigError(f"{source}: document {number} is no Kubernetes object: it needs a kind, a List its items")
        resources += [Resource(item) for item in items]
        try:
            duplicates += [(Resource(document), key) for key in _duplicates(node)]
        except RecursionError as error:
            raise ConfigError(f"{source}: document {number} has an anchor that holds itself: write it out") from error
    if not resources:
        raise ConfigError(f"{source}: no objects: name a kustomize folder or a file of rendered manifests")
    return Rendering(tuple(resources), tuple(duplicates), gates, existing)


def _is_object(item: object) -> bool:
    return isinstance(item, dict) and isinstance(item.get("kind"), str)


def _duplicates(node: yaml.Node) -> Iterator[str]:
    if isinstance(node, yaml.SequenceNode):
        for part in node.value:
            yield from _duplicates(part)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    yield f"{key.value} (line {key.start_mark.line + 1})"
                seen.add(key.value)
            yield from _duplicates(value)
