"""Ray jobs: how they are submitted, what they ask for, how long they may take, and what is tried again."""

from __future__ import annotations

import math
import re
import shlex
from typing import Any

import yaml

from kuberay.lint.clusters import Job, jobs
from kuberay.lint.commands import complaint, option
from kuberay.lint.model import Rendering, look
from kuberay.lint.pods import Pod, ray_pods
from kuberay.lint.quantities import number
from kuberay.lint.rule import Fault, Faults, rule
from kuberay.lint.rules.nodes import offered

MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
SHELL = re.compile(r"[$`;|<>\n]|&|\(|\)")
EXPANDED = re.compile(r"[$`]")
STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
QUOTED = re.compile(r"""'[^']*'|"(?:\\.|[^"\\])*"|\\.""")
GLOB = re.compile(r"[*?\[{]|(?<![^\s=:])~")


@rule("submission-mode", "no submitter is ever made: the job sits there until its deadline")
def submission_mode(rendering: Rendering) -> Faults:
    """The way of submission does not exist, or cannot work under the restricted Pod Security."""
    for job in jobs(rendering):
        path = f"{job.path}.submissionMode"
        if job.mode not in MODES:
            yield Fault(job.owner, path, f"'{job.mode}' is no mode", f"one of {', '.join(MODES)}")
        elif job.mode == "SidecarMode":
            yield Fault(job.owner, path, "the sidecar takes no securityContext: its pod is forbidden", "K8sJobMode")
        if job.mode in MODES[1:] and job.get("submitterPodTemplate") is not None:
            path = f"{job.path}.submitterPodTemplate"
            yield Fault(job.owner, path, f"is not used in {job.mode}", "remove it")


@rule("submitter", "KubeRay's own is forbidden by the restricted Pod Security, and a job without one ends untried")
def submitter(rendering: Rendering) -> Faults:
    """The submitter has no template, restarts, does not notice a lost head, or has a command of its own."""
    for job in jobs(rendering):
        path = f"{job.path}.submitterPodTemplate"
        template = job.get("submitterPodTemplate")
        if job.mode != "K8sJobMode":
            continue
        if template is None:
            yield Fault(job.owner, path, "is missing", "add one with a restricted securityContext")
            continue
        spec = template.get("spec") or {}
        if spec.get("restartPolicy") != "Never":
            yield Fault(job.owner, f"{path}.spec.restartPolicy", "is not Never", "Never")
        probe = look(spec, "containers", [{}])[0].get("livenessProbe")
        if "RAY_DASHBOARD_ADDRESS" not in " ".join(map(str, look(probe, "exec.command", []))):
            fix = (
                "exec: a connection to $RAY_DASHBOARD_ADDRESS; a lost node says no goodbye, and is then not tried again"
            )
            yield Fault(job.owner, f"{path}.spec.containers[0].livenessProbe", "does not ask the head", fix)
        for key in ("command", "args"):
            if (spec.get("containers") or [{}])[0].get(key):
                yield Fault(job.owner, f"{path}.spec.containers[0].{key}", "replaces the submission", "remove it")


@rule("shell-signs", "the submitter's shell runs them, in the submitter's pod")
def shell_signs(rendering: Rendering) -> Faults:
    """The entry point is more than one plain command, or the runtime environment has what a shell expands."""
    for job in jobs(rendering):
        entrypoint = str(job.get("entrypoint", ""))
        if found := SHELL.search(entrypoint):
            fix = "one command without a shell: python -m jobs.pipeline --config /etc/flts/flts.yaml"
            yield Fault(job.owner, f"{job.path}.entrypoint", f"holds {found[0]!r}", fix)
        if found := GLOB.search(QUOTED.sub("", entrypoint)):
            what, fix = f"holds {found[0]!r}, which a shell expands", "quote the argument that holds it: 'like this'"
            yield Fault(job.owner, f"{job.path}.entrypoint", what, fix)
        if found := EXPANDED.search(str(job.get("runtimeEnvYAML", ""))):
            yield Fault(job.owner, f"{job.path}.runtimeEnvYAML", f"holds {found[0]!r}", "write the value out")


@rule("entrypoint", "the job ends with exit code 2 as soon as it starts")
def entrypoint(rendering: Rendering) -> Faults:
    """The entry point does not parse, or is no job of ours."""
    for job in jobs(rendering):
        path, text = f"{job.path}.entrypoint", str(job.get("entrypoint", ""))
        try:
            argv = shlex.split(text)
        except ValueError as error:
            yield Fault(job.owner, path, f"is no command line: {error}", "close the quotation")
            continue
        if argv[:2] != ["python", "-m"]:
            yield Fault(job.owner, path, f"{text!r} is none of our jobs", "python -m jobs.pipeline --config …")
        elif wrong := complaint(argv):
            yield Fault(job.owner, path, wrong, "see `flts --help`")


@rule("entrypoint-resources", "the driver waits for a node that never comes")
def entrypoint_resources(rendering: Rendering) -> Faults:
    """A driver asks for more than any node of its cluster offers."""
    for job in jobs(rendering):
        nodes = [pod for pod in ray_pods(rendering) if pod.owner is job.owner]
        for key, what in (("entrypointNumCpus", "CPU"), ("entrypointNumGpus", "GPU")):
            asked, most = job.get(key, 0), max((offered(pod, what) for pod in nodes), default=math.inf)
            if asked > most:
                fix = "leave it out: the driver runs on the head and needs none"
                yield Fault(job.owner, f"{job.path}.{key}", f"is {asked:g}, and no node has more than {most:g}", fix)


@rule("runtime-env", "the job fails before it starts, or is killed 3 s after it was told to stop")
def runtime_env(rendering: Rendering) -> Faults:
    """``runtimeEnvYAML`` is not what Ray reads, installs packages, or leaves the run no time to close."""
    from ray.runtime_env import RuntimeEnv  # takes a second

    for job in jobs(rendering):
        path, content = f"{job.path}.runtimeEnvYAML", runtime_env_of(job)
        if not isinstance(content, dict):
            yield Fault(job.owner, path, "is no YAML mapping", "env_vars: {NAME: text}")
            continue
        for key in content:
            if key not in RuntimeEnv.known_fields:
                yield Fault(job.owner, path, f"Ray knows no '{key}'", "env_vars is all that is needed")
            elif key in ("pip", "uv", "conda", "working_dir", "py_modules"):
                yield Fault(job.owner, path, f"{key} replaces what the image holds", "build an image instead")
        names = content.get("env_vars") or {}
        for name, value in names.items():
            if not isinstance(value, str):
                yield Fault(job.owner, path, f"{name} is {value!r}, which is no text", f'quote it: "{value}"')
        if STOP_WAIT not in names:
            yield Fault(job.owner, path, f"lacks {STOP_WAIT}", f'env_vars: {{{STOP_WAIT}: "60"}}')
        elif isinstance(names[STOP_WAIT], str) and not names[STOP_WAIT].isdecimal():
            what = f"{STOP_WAIT} is {names[STOP_WAIT]!r}, which is no whole number"
            yield Fault(job.owner, path, what, 'seconds, such as "60"')


def runtime_env_of(job: Job) -> Any:
    """The runtime environment of a job; None if it is no YAML."""
    try:
        return yaml.safe_load(str(job.get("runtimeEnvYAML", ""))) or {}
    except yaml.YAMLError:
        return None


@rule("job-deadlines", "a job whose pods cannot start hangs in Initializing, one that stalls in Running, for ever")
def job_deadlines(rendering: Rendering) -> Faults:
    """A deadline is missing or shorter than what it contains."""
    for job in jobs(rendering):
        starting, whole = job.get("preRunningDeadlineSeconds"), job.get("activeDeadlineSeconds")
        for key, seconds in (("preRunningDeadlineSeconds", starting), ("activeDeadlineSeconds", whole)):
            if not seconds:
                yield Fault(job.owner, f"{job.path}.{key}", "is not set", "set it, in seconds")
            elif seconds < 0:
                yield Fault(job.owner, f"{job.path}.{key}", f"is {seconds}", "more than 0, in seconds")
        if starting and whole and 0 < whole <= starting:
            fix = f"more than preRunningDeadlineSeconds, which is {starting}"
            yield Fault(job.owner, f"{job.path}.activeDeadlineSeconds", f"is {whole}", fix)
    for pod in ray_pods(rendering):
        starting = pod.owner.get("spec.preRunningDeadlineSeconds")
        waiting = _wait_of(pod)
        if starting and waiting is not None and waiting >= starting:
            path = "spec.preRunningDeadlineSeconds"
            yield Fault(pod.owner, path, f"is {starting}", f"more than the {waiting:g} s that the head waits")


def _wait_of(pod: Pod) -> float | None:
    waits = (number(option(found.command, "--wait")) for found in pod.containers if found.role == "init")
    return next((wait for wait in waits if wait is not None), None)


@rule("job-waits", "a job that starts before the store and the tracker spends its retries on them")
def job_waits(rendering: Rendering) -> Faults:
    """The head of a job's cluster does not wait for the services."""
    for pod in ray_pods(rendering):
        if pod.role == "head" and pod.owner.kind in ("RayJob", "RayCronJob") and _wait_of(pod) is None:
            path = f"{pod.path}.spec.initContainers"
            yield Fault(pod.owner, path, "do not wait for the services", "add one: flts doctor --wait 900")


@rule(
    "job-retries",
    "a dead head ends the job for good, or it is refused, or a hopeless submission is tried again",
)
def job_retries(rendering: Rendering) -> Faults:
    """A job is not tried again with a fresh cluster, or its submitter is."""
    for job in jobs(rendering):
        limit, path = job.get("backoffLimit", 0), f"{job.path}.backoffLimit"
        if job.mode == "InteractiveMode" and limit > 0:
            yield Fault(job.owner, path, "KubeRay refuses it in InteractiveMode", "remove it")
        elif limit < 0 or (limit == 0 and job.mode != "InteractiveMode"):
            yield Fault(job.owner, path, f"is {limit}", "2: what is done is not done again")
        if job.mode == "K8sJobMode" and job.get("submitterConfig.backoffLimit", 2) != 0:
            path = f"{job.path}.submitterConfig.backoffLimit"
            yield Fault(job.owner, path, "is not 0", "0, in favour of spec.backoffLimit")


@rule("job-cluster", "KubeRay refuses a job with two clusters, or none")
def job_cluster(rendering: Rendering) -> Faults:
    """A job names a standing cluster and brings its own, or neither."""
    for job in jobs(rendering):
        if (job.cluster is None) == (job.get("clusterSelector") is None):
            yield Fault(job.owner, job.path, "needs one cluster", "rayClusterSpec or clusterSelector")


@rule("kueue", "Kueue does not admit the job, or KubeRay starts it without waiting")
def kueue(rendering: Rendering) -> Faults:
    """A job in a queue has what Kueue cannot account for."""
    for job in jobs(rendering):
        if "kueue.x-k8s.io/queue-name" not in job.owner.labels:
            continue
        elastic = job.owner.get("metadata.annotations", {}).get("kueue.x-k8s.io/elastic-job") == "true"
        if not job.get("shutdownAfterJobFinishes", False):
            yield Fault(job.owner, f"{job.path}.shutdownAfterJobFinishes", "is off", "true, instead of deletionRules")
        if job.get("clusterSelector") is not None:
            yield Fault(job.owner, f"{job.path}.clusterSelector", "cannot be queued", "rayClusterSpec")
        if job.cluster is not None and job.cluster.autoscales and not elastic:
            path = f"{job.cluster.path}.enableInTreeAutoscaling"
            yield Fault(job.owner, path, "is on", "off, or annotate kueue.x-k8s.io/elastic-job (Kueue >= 0.16)")
        if job.cluster is not None and len(job.cluster.workers) > 7:
            yield Fault(job.owner, f"{job.cluster.path}.workerGroupSpecs", "are more than 7", "merge some")


RULES = (
    submission_mode,
    submitter,
    shell_signs,
    entrypoint,
    entrypoint_resources,
    runtime_env,
    job_deadlines,
    job_waits,
    job_retries,
    job_cluster,
    kueue,
)
