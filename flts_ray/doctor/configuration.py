"""Does the configuration say one thing only?"""

from __future__ import annotations

from dataclasses import dataclass

from flts_ray.config_layers import Resolved, flatten
from flts_ray.doctor.findings import Check, Report

SAMPLING = "sampling."


def configuration_checks(resolved: Resolved) -> list[Check]:
    """What to look at. Settings that do not resolve never come this far."""
    return [Check(name="configuration", place="settings", run=_Configuration(resolved))]


@dataclass(frozen=True, slots=True)
class _Configuration:
    """Sampling that is set in two places is how datasets differ without anybody knowing why."""

    resolved: Resolved

    def __call__(self, report: Report) -> None:
        values = flatten(self.resolved.settings)
        for key, losers in self.resolved.overridden.items():
            if not key.startswith(SAMPLING):
                continue
            said = [(origin, value) for origin, value in losers if not origin.startswith("recipe ")]
            if said:
                others = ", ".join(f"{origin} says {value}" for origin, value in said)
                report.warning(
                    f"{key} is set more than once: {others}; what counts is {values[key]}, "
                    f"from {self.resolved.origins[key]}",
                    "set it in one place",
                )
        if not report.findings:
            chosen = sum(origin != "default" for origin in self.resolved.origins.values())
            report.ok(f"{chosen} settings of {len(values)} are not at their defaults, none is contradicted")
