"""The whole examination, as ``flts doctor`` gives it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from flts_ray.config_layers import Resolved
from flts_ray.doctor.configuration import configuration_checks
from flts_ray.doctor.findings import Finding, run_checks
from flts_ray.doctor.leftovers import home_leftovers, store_leftovers, tracker_leftovers
from flts_ray.doctor.machine import machine_checks
from flts_ray.doctor.sources import source_checks
from flts_ray.doctor.storage import storage_checks
from flts_ray.doctor.tracking import tracking_checks

TROUBLE = 1


def examine(resolved: Resolved, *, fix: bool = False, deep: bool = False) -> list[Finding]:
    """Look at everything that a run needs and at everything that runs may have left behind.

    Every check has its own time limit, so that a dead server costs seconds; none stops another, but what needs a
    server that does not answer is skipped. Nothing is changed unless ``fix`` is set, apart from small probe objects
    that are removed again.

    Args:
        resolved: Settings and their origins.
        fix: End runs that nobody works on, deliver records, remove half-written output.
        deep: Read and verify every byte of every dataset.

    Returns:
        What was found, in a fixed order.

    Raises:
        ConfigError: If the address of the tracker cannot be used at all.
        StorageError: If the address of the store cannot be used at all.
    """
    settings = resolved.settings
    return run_checks(
        [
            configuration_checks(resolved),
            machine_checks(settings),
            source_checks(settings),
            [*storage_checks(settings), *store_leftovers(settings, fix=fix, deep=deep)],
            [*tracking_checks(settings), *tracker_leftovers(settings, fix=fix)],
            home_leftovers(settings, fix=fix),
        ]
    )


def document(findings: Iterable[Finding]) -> dict[str, Any]:
    """The findings as one JSON document, with the exit code."""
    found = list(findings)
    return {"exit_code": exit_code(found), "findings": [asdict(finding) for finding in found]}


def exit_code(findings: Iterable[Finding]) -> int:
    """0, or 1 if anything is in trouble."""
    return TROUBLE if any(finding.state == "trouble" for finding in findings) else 0
