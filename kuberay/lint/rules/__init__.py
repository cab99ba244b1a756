"""All rules, by topic."""

from __future__ import annotations

from kuberay.lint.rule import Rule
from kuberay.lint.rules import (
    autoscaling,
    clusters,
    jobs,
    names,
    network,
    references,
    schedules,
    secrets,
    security,
    services,
    variables,
    workloads,
)

RULES: tuple[Rule, ...] = (
    *names.RULES,
    *security.RULES,
    *secrets.RULES,
    *workloads.RULES,
    *references.RULES,
    *variables.RULES,
    *network.RULES,
    *clusters.RULES,
    *autoscaling.RULES,
    *jobs.RULES,
    *schedules.RULES,
    *services.RULES,
)
