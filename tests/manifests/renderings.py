"""Every way to put the tree together that must render: overlays, each component alone, and all that go together."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path
from typing import Any

import yaml

from kuberay.lint.model import Rendering
from kuberay.lint.reading import read
from kuberay.lint.render import render

KUBERAY = Path(__file__).resolve().parents[2] / "kuberay"
OVERLAYS = tuple(sorted(path.parent.name for path in KUBERAY.glob("overlays/*/kustomization.yaml")))
COMPONENTS = tuple(sorted(path.parent.name for path in KUBERAY.glob("components/*/kustomization.yaml")))
SEPARATOR = "+"


def _kustomization(start: str) -> dict[str, Any]:
    """That of an overlay; ``base`` says neither namespace nor components."""
    if start == "base":
        return {"namespace": "flts-test"}
    content: dict[str, Any] = yaml.safe_load((KUBERAY / "overlays" / start / "kustomization.yaml").read_text("utf-8"))
    return content


def combinations() -> list[str]:
    """Names such as ``prod+tls``: base and each overlay, alone, with each component more, and with all of them."""
    out = []
    for start in ("base", *OVERLAYS):
        has = {Path(name).name for name in _kustomization(start).get("components", ())}
        more = [name for name in COMPONENTS if name not in has]
        out += [start, *(f"{start}{SEPARATOR}{name}" for name in more), SEPARATOR.join((start, *more))]
    return out


@functools.cache
def text_of(combination: str) -> str:
    """What a combination renders to."""
    start, *components = combination.split(SEPARATOR)
    folder = KUBERAY / ("base" if start == "base" else f"overlays/{start}")
    if start != "base" and not components:
        return render(folder)
    with tempfile.TemporaryDirectory() as scratch:

        def relative(path: Path) -> str:
            return os.path.relpath(path, Path(scratch).resolve())

        kustomization = {
            # What a component adds must get it too, or names with a hash are not those of its own namespace.
            "namespace": _kustomization(start)["namespace"],
            "resources": [relative(folder)],
            "components": [relative(KUBERAY / "components" / name) for name in components],
        }
        Path(scratch, "kustomization.yaml").write_text(yaml.safe_dump(kustomization), encoding="utf-8")
        return render(Path(scratch))


@functools.cache
def rendering_of(combination: str) -> Rendering:
    """The objects of a combination."""
    return read(text_of(combination), source=combination)
