"""What is removed after a Ray job, and when."""

from __future__ import annotations

from typing import Any

from kuberay.lint.clusters import Job, jobs
from kuberay.lint.model import Rendering
from kuberay.lint.rule import Fault, Faults, rule

POLICIES = ("DeleteWorkers", "DeleteCluster", "DeleteSelf", "DeleteNone")
"""In the order in which their times must come; the last has no place in it."""

ENDS = {"SUCCEEDED": "jobStatus", "FAILED": "jobStatus", "Failed": "jobDeploymentStatus"}
"""How a job ends; one that a deadline ends, or whose cluster never starts, may have no status of its own."""


@rule("job-cleanup", "KubeRay refuses contradictory ways to remove a cluster; without any it stays and costs")
def job_cleanup(rendering: Rendering) -> Faults:
    """What becomes of the cluster after the job is not said, or said twice."""
    for job in jobs(rendering):
        rules = job.get("deletionStrategy.deletionRules")
        shuts_down = bool(job.get("shutdownAfterJobFinishes", False))
        path = f"{job.path}.deletionStrategy"
        kept = job.get("ttlSecondsAfterFinished", 0)
        if kept < 0:
            yield Fault(job.owner, f"{job.path}.ttlSecondsAfterFinished", f"is {kept}", "0 or more, in seconds")
        if kept > 0 and not shuts_down:
            fix = "shutdownAfterJobFinishes: true, or deletionRules alone"
            yield Fault(job.owner, f"{job.path}.ttlSecondsAfterFinished", "needs a shutdown", fix)
        if rules and shuts_down:
            yield Fault(job.owner, path, "excludes shutdownAfterJobFinishes", "keep one of them")
        if job.get("suspend", False) and not shuts_down:
            fix = "shutdownAfterJobFinishes: true and ttlSecondsAfterFinished, without deletionRules"
            yield Fault(job.owner, f"{job.path}.suspend", "needs a shutdown", fix)
        if not rules and not shuts_down and job.cluster is not None:
            yield Fault(job.owner, path, "is missing: nothing removes the cluster", "add deletionRules")
        if {"onSuccess", "onFailure"} & set(job.get("deletionStrategy", {})):
            yield Fault(job.owner, path, "onSuccess and onFailure are deprecated", "deletionRules")
        yield from _deletion_rules(job, path, rules or [])


def _deletion_rules(job: Job, path: str, rules: list[dict[str, Any]]) -> Faults:
    times: dict[str, dict[str, float]] = {}
    for index, entry in enumerate(rules):
        here, policy, when = f"{path}.deletionRules[{index}]", str(entry.get("policy")), entry.get("condition") or {}
        state, seconds = str(when.get("jobStatus") or when.get("jobDeploymentStatus")), when.get("ttlSeconds", 0)
        if policy not in POLICIES:
            yield Fault(job.owner, here, f"{policy!r} is no policy", f"one of {', '.join(POLICIES)}")
        if ("jobStatus" in when) == ("jobDeploymentStatus" in when):
            yield Fault(job.owner, here, "needs one condition", "jobStatus or jobDeploymentStatus, not both")
        if policy == "DeleteWorkers" and job.cluster is not None and job.cluster.autoscales:
            yield Fault(job.owner, here, "DeleteWorkers contradicts the autoscaler", "DeleteCluster")
        if policy in POLICIES[:2] and job.cluster is None:
            yield Fault(job.owner, here, f"{policy} is refused on a cluster of others", "DeleteSelf")
        if seconds < 0:
            yield Fault(job.owner, f"{here}.condition.ttlSeconds", f"is {seconds}", "0 or more, in seconds")
        if policy in times.get(state, {}):
            yield Fault(job.owner, here, f"is the second {policy} of {state}: KubeRay refuses it", "keep one")
        times.setdefault(state, {})[policy] = float(seconds)
    for state, by_policy in times.items():
        given = [by_policy[policy] for policy in POLICIES[:3] if policy in by_policy]
        if given != sorted(given):
            yield Fault(job.owner, path, f"after {state} they are out of order", "workers <= cluster <= self")
    if rules and job.cluster is not None:
        for state, key in ENDS.items():
            if not {"DeleteCluster", "DeleteSelf"} & times.get(state, {}).keys():
                fix = f"a rule DeleteCluster for {key} {state}"
                yield Fault(job.owner, path, f"leaves the cluster of a job that ends as {state}", fix)


RULES = (job_cleanup,)
