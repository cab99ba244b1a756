"""All rules, by topic."""

from __future__ import annotations

from kuberay.lint.rule import Rule
from kuberay.lint.rules import (
    autoscaling,
    cleanup,
    clusters,
    jobs,
    names,
    network,
    nodes,
    probes,
    references,
    schedules,
    secrets,
    security,
    services,
    variables,
    volumes,
    workloads,
)

RULES: tuple[Rule, ...] = (
    *names.RULES,
    *security.RULES,
    *secrets.RULES,
    *workloads.RULES,
    *probes.RULES,
    *references.RULES,
    *volumes.RULES,
    *variables.RULES,
    *network.RULES,
    *clusters.RULES,
    *nodes.RULES,
    *autoscaling.RULES,
    *jobs.RULES,
    *cleanup.RULES,
    *schedules.RULES,
    *services.RULES,
)
