"""The OpenAPI document as a page for people: plain HTML without scripts, so that nothing is loaded from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup, escape

FOLDER = "static"
METHODS = ("get", "post")


def docs_css() -> bytes:
    """The style of the page."""
    return files("serve").joinpath(FOLDER, "reference.css").read_bytes()


def docs_html(document: Mapping[str, Any], *, base: str, root: str = "") -> str:
    """The page.

    Args:
        document: OpenAPI.
        base: Address of the service, for the examples.
        root: Path under which the service is mounted, without a slash at the end.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.ChainableUndefined, trim_blocks=True)
    environment.filters["compact"] = lambda value: json.dumps(value, separators=(",", ":"))
    template = environment.from_string(files("serve").joinpath(FOLDER, "reference.html.j2").read_text("utf-8"))
    operations = [
        (path, method.upper(), item[method])
        for path, item in document["paths"].items()
        for method in METHODS
        if method in item
    ]
    return template.render(document=document, operations=operations, type_of=type_of, base=base, root=root)


def type_of(schema: Mapping[str, Any]) -> Markup:
    """A schema in a few words; named ones as links."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rsplit("/", 1)[-1]
        return Markup('<a href="#schema-{0}">{0}</a>').format(name)
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return Markup(" or ").join(type_of(branch) for branch in schema[choice])
    if "const" in schema:
        return Markup("<code>{}</code>").format(json.dumps(schema["const"]))
    if "enum" in schema:
        return Markup(" or ").join(Markup("<code>{}</code>").format(json.dumps(value)) for value in schema["enum"])
    if schema.get("type") == "array":
        return Markup("list of ") + type_of(schema.get("items", {}))
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return Markup("object of ") + type_of(schema["additionalProperties"])
    return escape(schema.get("type", "anything")) + _bounds(schema)


def _bounds(schema: Mapping[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema]
    return f" ({', '.join(found)})" if found else ""
