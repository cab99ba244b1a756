"""Environment variables and the settings that come of them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from flts_ray.env_names import PREFIX
from flts_ray.errors import ConfigError
from kuberay.lint.clusters import jobs
from kuberay.lint.commands import option, options
from kuberay.lint.environment import environ, variables
from kuberay.lint.known_names import is_known
from kuberay.lint.model import Rendering, look
from kuberay.lint.mounts import settings, volume
from kuberay.lint.pods import Container, containers, pods, ray_pods
from kuberay.lint.rule import Fault, Faults, rule
from kuberay.lint.rules.jobs import runtime_env_of
from kuberay.lint.rules.services import CONFIG, runtime_envs

SAMPLING = ("SAMPLE_", "FLTS_SAMPLING__")
PREPROCESSING = ("preprocess", "pipeline", "run", "train", "tune", "backtest")
"""Unless they are given a dataset."""

KUBERAY_SETS = frozenset(
    {
        *("RAY_ADDRESS", "RAY_IP", "FQ_RAY_IP", "RAY_PORT", "RAY_CLUSTER_NAME", "RAY_CLOUD_INSTANCE_ID"),
        *("RAY_NODE_TYPE_NAME", "KUBERAY_GEN_RAY_START_CMD"),
    }
)


@rule("variable-known", "nobody reads it: what it was to set stays as it is")
def variable_known(rendering: Rendering) -> Faults:
    """Nobody reads an environment variable of that name."""
    fix = "correct the name; `flts config show` lists settings, kuberay/lint/known_names.py the rest"
    for container in containers(rendering):
        image = str(container.get("image", ""))
        texts = "\n".join(_own_texts(rendering, container))
        for found in variables(rendering, container):
            if not is_known(found.name, image) and not re.search(rf"\b{re.escape(found.name)}\b", texts):
                yield Fault(container.pod.owner, found.path, f"nobody reads {found.name}", fix)
    for job in jobs(rendering):
        for name in look(runtime_env_of(job), "env_vars", {}):
            if not is_known(str(name), ""):
                yield Fault(job.owner, f"{job.path}.runtimeEnvYAML", f"nobody reads {name}", fix)
    for resource in rendering.of("RayService"):
        for content in runtime_envs(resource):
            for name in look(content, "env_vars", {}):
                if not is_known(str(name), ""):
                    yield Fault(resource, CONFIG, f"nobody reads {name}", fix)


def _own_texts(rendering: Rendering, container: Container) -> Iterator[str]:
    """What else in a container's manifest may use a variable: its command, other variables, mounted scripts."""
    yield from container.command
    for found in variables(rendering, container):
        yield from re.findall(r"\$\(\w+\)", found.value or "")
    for mount in container.get("volumeMounts", []):
        name = look(volume(container, str(mount.get("name"))), "configMap.name", "")
        for key, text in rendering.config_maps.get(name, {}).items():
            if key.endswith((".py", ".sh")):
                yield str(text)


@rule("settings", "the program ends with exit code 2 as soon as it starts")
def settings_valid(rendering: Rendering) -> Faults:
    """The program refuses the settings that file, environment and command line come to."""
    for container in containers(rendering):
        if not any(name.startswith(PREFIX) for name in environ(rendering, container)):
            continue
        argv = container.command
        try:
            settings(rendering, container, file=option(argv, "--config"), assignments=options(argv, "--set"))
        except ConfigError as error:
            yield Fault(container.pod.owner, container.path, str(error), "correct the file or the environment")
    for job in jobs(rendering):
        head = next((pod.main for pod in pods(rendering) if pod.owner is job.owner and pod.role == "head"), None)
        if head is None:
            continue
        try:
            argv = shlex.split(str(job.get("entrypoint", "")))
            extra = {str(name): str(value) for name, value in look(runtime_env_of(job), "env_vars", {}).items()}
            file, assignments = option(argv, "--config"), options(argv, "--set")
            settings(rendering, head, file=file, assignments=assignments, extra=extra)
        except ConfigError as error:
            yield Fault(job.owner, f"{job.path}.entrypoint", str(error), "correct it or what the head sets")
        except ValueError:
            continue  # the rule `entrypoint` says that it is no command line


@rule("sampling", "sampling has one owner, the preprocess step, by the configuration file: another refuses to train")
def sampling(rendering: Rendering) -> Faults:
    """A container or a job is told to sample by its environment, or by arguments although it does not preprocess."""
    fix = "set sampling.* in the configuration file"
    for container in containers(rendering):
        owner = container.pod.owner
        for found in variables(rendering, container):
            if found.name.startswith(SAMPLING):
                yield Fault(owner, found.path, f"{found.name} is set", fix)
        if text := _sampling_in(container.command):
            yield Fault(owner, f"{container.path}.args", f"{text} is no preprocessing job's", fix)
    for job in jobs(rendering):
        for name in look(runtime_env_of(job), "env_vars", {}):
            if str(name).startswith(SAMPLING):
                yield Fault(job.owner, f"{job.path}.runtimeEnvYAML", f"{name} is set", fix)
        if text := _sampling_in(str(job.get("entrypoint", "")).split()):
            yield Fault(job.owner, f"{job.path}.entrypoint", f"{text} is no preprocessing job's", fix)
    for resource in rendering.of("RayService"):
        for name in (name for content in runtime_envs(resource) for name in look(content, "env_vars", {})):
            if str(name).startswith(SAMPLING):
                yield Fault(resource, CONFIG, f"{name} is set", fix)


def _sampling_in(argv: list[str]) -> str | None:
    preprocesses = any(word.rpartition(".")[2] in PREPROCESSING for word in argv)
    if preprocesses and option(argv, "--dataset") is None:
        return None
    return next((word for word in argv if re.search(r"(?:^|=)sampling\.|\bSAMPLE_|\bFLTS_SAMPLING__", word)), None)


@rule("kuberay-variable", "KubeRay sets it, unless it is there: the node looks for another cluster than its own")
def kuberay_variable(rendering: Rendering) -> Faults:
    """A Ray container sets a variable that KubeRay sets."""
    for pod in ray_pods(rendering):
        stored = pod.cluster is not None and pod.cluster.get("gcsFaultToleranceOptions") is not None
        for found in variables(rendering, pod.main) if pod.main else ():
            if found.name in KUBERAY_SETS or (found.name == "REDIS_USERNAME" and stored):
                yield Fault(pod.owner, found.path, f"{found.name} is KubeRay's to set", "remove it")


@rule("service-links", "Kubernetes adds FLTS_…_SERVICE_HOST and MLFLOW_PORT=tcp://…, which are read as settings")
def service_links(rendering: Rendering) -> Faults:
    """A pod gets a variable for each Service of the namespace."""
    for pod in pods(rendering):
        if pod.tree and pod.spec.get("enableServiceLinks") is not False:
            yield Fault(pod.owner, f"{pod.path}.spec.enableServiceLinks", "is not false", "false")


RULES = (variable_known, settings_valid, sampling, kuberay_variable, service_links)
