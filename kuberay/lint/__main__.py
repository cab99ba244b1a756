"""``python -m kuberay.lint FOLDER_OR_FILE…``: faults that a schema cannot see. Exit code 1 if there are any."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from flts_ray.errors import ConfigError
from kuberay.lint.reading import read
from kuberay.lint.render import render
from kuberay.lint.rule import Finding
from kuberay.lint.rules import RULES


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, print, and say by the exit code whether all is well: 0, 1 with findings, 2 if something is unreadable."""
    parser = argparse.ArgumentParser(prog="python -m kuberay.lint", description=__doc__)
    parser.add_argument("sources", nargs="*", type=Path, help="Kustomize folders, or files of rendered manifests.")
    parser.add_argument("--gate", action="append", default=[], help="A feature gate of the operator that is on.")
    parser.add_argument(
        "--exists",
        action="append",
        default=[],
        metavar="KIND/NAME",
        help="What stands in the namespace already, such as Secret/regcred: a Secret, ConfigMap, claim or account.",
    )
    parser.add_argument("--json", action="store_true", help="One JSON document on stdout, nothing else there.")
    parser.add_argument("--rules", action="store_true", help="List the rules, and check nothing.")
    given = parser.parse_args(arguments)
    if given.rules:
        for found in RULES:
            print(f"{found.id:24} {found.check.__doc__}")  # noqa: T201
        return 0
    if not given.sources:
        parser.error("name a kustomize folder such as kuberay/overlays/prod, or a file")
    findings: dict[str, list[Finding]] = {}
    try:
        for source in given.sources:
            findings[str(source)] = lint(source, frozenset(given.gate), frozenset(given.exists))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    if given.json:
        document = {name: [dataclasses.asdict(found) for found in some] for name, some in findings.items()}
        print(json.dumps(document, indent=2, ensure_ascii=False))  # noqa: T201
    else:
        for name, some in findings.items():
            print("\n".join([*map(str, some), f"{name}: {len(some)} findings by {len(RULES)} rules"]))  # noqa: T201
    return 1 if any(findings.values()) else 0


def lint(source: Path, gates: frozenset[str] = frozenset(), existing: frozenset[str] = frozenset()) -> list[Finding]:
    """What is wrong with the objects of a kustomize folder or a file.

    Raises:
        ConfigError: If it cannot be rendered or read.
    """
    if source.is_dir():
        text = render(source)
    else:
        try:
            text = source.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{source} cannot be read: {error}: name a folder or a file of manifests") from error
    rendering = read(text, source=str(source), gates=gates, existing=existing)
    return [finding for each in RULES for finding in each.findings(rendering)]


if __name__ == "__main__":
    sys.exit(main())
