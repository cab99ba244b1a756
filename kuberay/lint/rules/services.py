"""RayService: what is served, by how many, and how an old version goes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError

from flts_ray.config_serving import ServeSettings
from flts_ray.errors import ConfigError
from kuberay.lint.clusters import Cluster
from kuberay.lint.environment import environ
from kuberay.lint.model import Rendering, Resource, Tree, look
from kuberay.lint.mounts import settings
from kuberay.lint.pods import Container, ray_pods
from kuberay.lint.quantities import number
from kuberay.lint.rule import Fault, Faults, rule

CONFIG = "spec.serveConfigV2"
UPGRADES = ("NewCluster", "NewClusterWithIncrementalUpgrade", "None")
APP = "serve.app:app"
PROBE = {"periodSeconds": 10, "failureThreshold": 3}
"""What Kubernetes takes if they are not said."""

REPLACES = ("pip", "uv", "conda", "working_dir", "py_modules", "container", "image_uri")
OPTIONS = ("gatewayClassName", "stepSizePercent", "intervalSeconds")
TIMEOUT = "ray.io/initializing-timeout"
DURATION = re.compile(r"\+?(?=.*[1-9])(?:\d+|(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+)")
"""As Go writes durations, or whole seconds."""

DELETION_DELAY_S = 60
"""``rayClusterDeletionDelaySeconds`` unless it is set."""


@dataclass(frozen=True)
class Service:
    """A RayService and what it serves.

    Attributes:
        owner: The object.
        settings: Those of serving, as resolved on its workers.
        workers: The Ray containers of its workers.
        head: That of its head.
    """

    owner: Resource
    settings: ServeSettings
    workers: list[Container]
    head: Container


def applications(resource: Resource) -> list[Tree]:
    """The applications of a RayService's ``serveConfigV2``, as far as it can be read."""
    try:
        config = yaml.safe_load(str(resource.get(CONFIG, ""))) or {}
    except yaml.YAMLError:
        return []
    found = config.get("applications", []) if isinstance(config, dict) else []
    return [entry for entry in found if isinstance(entry, dict)]


def runtime_envs(resource: Resource) -> list[Tree]:
    """The runtime environments of a RayService: those of its applications and of their deployments."""
    parts = list(applications(resource))
    for application in applications(resource):
        parts += [part.get("ray_actor_options") or {} for part in application.get("deployments") or []]
    return [part["runtime_env"] for part in parts if isinstance(part.get("runtime_env"), dict)]


def services(rendering: Rendering) -> Iterator[Service]:
    """The RayServices whose settings can be resolved; :data:`serve_config` tells of the others."""
    for resource in rendering.of("RayService"):
        ours = [pod for pod in ray_pods(rendering) if pod.owner is resource and pod.main is not None]
        heads = [pod.main for pod in ours if pod.role == "head" and pod.main is not None]
        workers = [pod.main for pod in ours if pod.role == "worker" and pod.main is not None]
        for application in (one for one in applications(resource)[:1] if one.get("import_path") == APP):
            for head in heads[:1]:
                try:
                    found = _settings_of(rendering, application, head)
                except (ConfigError, ValidationError):
                    continue
                yield Service(resource, found, workers, head)


def _settings_of(rendering: Rendering, application: Tree, container: Container) -> ServeSettings:
    from serve.app import Arguments  # imports Ray Serve

    given = Arguments.model_validate(application.get("args", {}))
    file = None if given.config is None else str(given.config)
    return settings(rendering, container, file=file, options=given.set).serve


@rule("serve-config", "an event, and a service that is never Ready")
def serve_config(rendering: Rendering) -> Faults:
    """``serveConfigV2`` is not what Ray Serve reads, or its application refuses its arguments and settings."""
    from ray.serve.schema import ServeDeploySchema

    for resource in rendering.of("RayService"):
        try:
            content = yaml.safe_load(str(resource.get(CONFIG, "")))
            ServeDeploySchema.model_validate(content)
            for key in content.keys() - ServeDeploySchema.model_fields.keys():
                yield Fault(resource, CONFIG, f"Ray Serve knows no '{key}'", "see serve/config.yaml")
        except yaml.YAMLError as error:
            yield Fault(resource, CONFIG, f"is no YAML: {' '.join(str(error).split())}", "see serve/config.yaml")
            continue
        except ValidationError as error:
            yield Fault(resource, CONFIG, _first(error), "see serve/config.yaml")
            continue
        if len(applications(resource)) != 1:
            yield Fault(resource, CONFIG, "has not exactly one application", "see serve/config.yaml")
        for application in applications(resource):
            yield from _application(rendering, resource, application)
        for key in (key for content in runtime_envs(resource) for key in content if key in REPLACES):
            yield Fault(resource, CONFIG, f"runtime_env: {key} replaces what the image holds", "build an image instead")


def _application(rendering: Rendering, resource: Resource, application: Tree) -> Faults:
    from ray.serve.schema import ServeApplicationSchema

    for key in application.keys() - ServeApplicationSchema.model_fields.keys():
        yield Fault(resource, CONFIG, f"an application has no '{key}'", "see serve/config.yaml")
    if application.get("import_path") != APP:
        yield Fault(resource, CONFIG, f"import_path is {application.get('import_path')!r}", APP)
        return
    if application.get("route_prefix", "/") != "/":
        fix = "/: the readiness probe asks /readyz"
        yield Fault(resource, CONFIG, f"route_prefix is {application['route_prefix']!r}", fix)
    for pod in ray_pods(rendering):
        if pod.owner is resource and pod.main is not None:
            try:
                _settings_of(rendering, application, pod.main)
            except ConfigError as error:
                yield Fault(resource, CONFIG, f"on the {pod.role}: {error}", "correct args, file or environment")
                return
            except ValidationError as error:
                yield Fault(resource, CONFIG, f"args: {_first(error)}", "config, set and identifier are known")
                return


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")


@rule("serve-address", "the serve Service reaches nothing: replicas bind loopback or another port")
def serve_address(rendering: Rendering) -> Faults:
    """The service does not listen where KubeRay's Service looks for it."""
    for service in services(rendering):
        if service.settings.profile == "local":
            yield Fault(service.owner, CONFIG, "serve.profile is local", "cluster, or throughput")
        host = look(yaml.safe_load(service.owner.get(CONFIG)), "http_options.host")
        if host != "0.0.0.0":
            what = "http_options says no host, which is loopback" if host is None else f"http_options.host is {host}"
            yield Fault(service.owner, CONFIG, what, "http_options: {host: 0.0.0.0}, for the replicas too")
        for worker in service.workers:
            ports = {port.get("name"): port.get("containerPort") for port in worker.get("ports", [])}
            if ports.get("serve") != service.settings.port:
                fix = f"a port `serve`: {service.settings.port}, which is serve.port"
                yield Fault(service.owner, f"{worker.path}.ports", f"serve is {ports.get('serve')}", fix)


@rule("serve-spread", "one node that dies takes all replicas, or the head, along")
def serve_spread(rendering: Rendering) -> Faults:
    """There is one replica or one worker, or the head answers too."""
    for resource in rendering.of("RayService"):
        if not resource.get("spec.excludeHeadPodFromServeSvc", False):
            yield Fault(resource, "spec.excludeHeadPodFromServeSvc", "is off", "true: no replica runs there")
        if resource.get("spec.rayClusterConfig.headGroupSpec.headService.metadata.name"):
            path = "spec.rayClusterConfig.headGroupSpec.headService.metadata.name"
            yield Fault(resource, path, "is not allowed in a RayService", "remove it")
    for service in services(rendering):
        cluster = Cluster(service.owner, "spec.rayClusterConfig", service.owner.get("spec.rayClusterConfig", {}))
        nodes = sum(group.get("replicas", 0) for group in cluster.workers)
        if service.settings.replicas < 2:
            yield Fault(service.owner, CONFIG, "has one replica", "serve.replicas: 2")
        if nodes < min(service.settings.replicas, 2) or (
            service.settings.profile == "cluster" and nodes < service.settings.replicas
        ):
            fix = f"a worker for each of the {service.settings.replicas} replicas"
            yield Fault(service.owner, f"{cluster.path}.workerGroupSpecs", f"are {nodes} workers", fix)


@rule("serve-environment", "requests pass through Serve's own proxy, many times slower, or replicas find no port")
def serve_environment(rendering: Rendering) -> Faults:
    """A node of the service lacks what Ray Serve reads from the environment for its profile."""
    from serve.environment import environment

    for service in services(rendering):
        wanted = environment(service.settings, scratch=Path("/tmp/flts-haproxy"))
        for container in (service.head, *service.workers):
            there = environ(rendering, container)
            for name, value in wanted.items():
                if there.get(name) != value:
                    found = f"{name} is {there.get(name)!r}" if name in there else f"lacks {name}"
                    fix = f"{name}={value}, as `python -m serve.environment` says"
                    yield Fault(service.owner, f"{container.path}.env", found, fix)


@rule("serve-readiness", "a worker without a model, or one that still loads it, is sent requests")
def serve_readiness(rendering: Rendering) -> Faults:
    """A worker's readiness does not ask the model."""
    for service in services(rendering):
        for worker in service.workers:
            probe = worker.get("readinessProbe.httpGet", {})
            port = probe.get("port")
            names = {entry.get("name"): entry.get("containerPort") for entry in worker.get("ports", [])}
            if probe.get("path") != "/readyz" or names.get(port, port) != service.settings.port:
                fix = f"httpGet /readyz on port {service.settings.port}"
                yield Fault(service.owner, f"{worker.path}.readinessProbe", "is not /readyz of the replica", fix)


@rule("serve-drain", "requests in progress are cut off when a worker or an old cluster goes")
def serve_drain(rendering: Rendering) -> Faults:
    """A pod or a cluster is removed before its requests can have ended."""
    for service in services(rendering):
        drain_s = service.settings.drain_s + service.settings.shutdown_s
        for worker in service.workers:
            path = f"{worker.pod.path}.spec.terminationGracePeriodSeconds"
            grace_s = worker.pod.spec.get("terminationGracePeriodSeconds", 30)
            if grace_s <= drain_s + _pre_stop_s(worker):
                fix = f"more than the {drain_s + _pre_stop_s(worker):g} s of serve.drain_s + shutdown_s + preStop"
                yield Fault(service.owner, path, f"is {grace_s}", fix)
            if service.settings.own_port:
                yield from _pre_stop(service, worker)
        delay_s = service.owner.get("spec.rayClusterDeletionDelaySeconds", DELETION_DELAY_S)
        if delay_s <= max(service.settings.deadline_s, drain_s):
            fix = f"more than the longest request, {service.settings.deadline_s:g} s, and its drain, {drain_s:g} s"
            yield Fault(service.owner, "spec.rayClusterDeletionDelaySeconds", f"is {delay_s}", fix)


def _pre_stop(service: Service, worker: Container) -> Faults:
    """A replica that clients reach by its pod's address: the pod waits until nobody sends it anything any more."""
    period_s, failures = (worker.get(f"readinessProbe.{key}", default) for key, default in PROBE.items())
    waits_s, unready_s, deadline_s = _pre_stop_s(worker), period_s * failures, service.settings.deadline_s
    if waits_s < max(unready_s, deadline_s):
        what = f"sleeps {waits_s:g} s" if waits_s else "does not sleep"
        fix = (
            f"exec: sleep, as long as the readiness probe needs to fail, {unready_s:g} s, "
            f"and as the longest request, {deadline_s:g} s"
        )
        yield Fault(service.owner, f"{worker.path}.lifecycle.preStop", what, fix)


def _pre_stop_s(container: Container) -> float:
    seconds = container.get("lifecycle.preStop.sleep.seconds")
    if seconds is None:
        words = " ".join(map(str, container.get("lifecycle.preStop.exec.command", []))).split()
        seconds = next((after for word, after in itertools.pairwise(words) if word == "sleep"), 0)
    return number(seconds) or 0.0


@rule("service-upgrade", "KubeRay refuses the service or its upgrade, or waits for a Gateway that is not there")
def service_upgrade(rendering: Rendering) -> Faults:
    """The way of upgrading does not exist, lacks what it needs, or has numbers that KubeRay refuses."""
    for resource in rendering.of("RayService"):
        path, kind = "spec.upgradeStrategy.type", resource.get("spec.upgradeStrategy.type", "NewCluster")
        if kind not in UPGRADES:
            yield Fault(resource, path, f"'{kind}' is no type", f"one of {', '.join(UPGRADES)}")
        if kind == "NewClusterWithIncrementalUpgrade":
            yield from _steps(resource)
            if not resource.get("spec.rayClusterConfig.enableInTreeAutoscaling"):
                yield Fault(resource, path, "needs the autoscaler", "enableInTreeAutoscaling: true")
        for key in ("serviceUnhealthySecondThreshold", "deploymentUnhealthySecondThreshold"):
            if resource.get(f"spec.{key}") is not None:
                yield Fault(resource, f"spec.{key}", "has no effect any more", "remove it")
        timeout = resource.get("metadata.annotations", {}).get(TIMEOUT)
        if timeout is not None and not DURATION.fullmatch(str(timeout)):
            yield Fault(resource, f"metadata.annotations.{TIMEOUT}", f"'{timeout}' is no time", "such as 30m, or 1800")


def _steps(resource: Resource) -> Faults:
    path = "spec.upgradeStrategy.clusterUpgradeOptions"
    options: Tree = resource.get(path, {})
    lacking = [key for key in OPTIONS if options.get(key) in (None, "")]
    if lacking:
        yield Fault(resource, path, f"lacks {', '.join(lacking)}", "add it")
        return
    step, most = options["stepSizePercent"], options.get("maxSurgePercent", 100)
    if not 0 < step <= most <= 100:
        what = f"0 < stepSizePercent ({step}) <= maxSurgePercent ({most}) <= 100 does not hold"
        yield Fault(resource, path, what, "such as 25 and 100")
    if options["intervalSeconds"] <= 0:
        yield Fault(resource, f"{path}.intervalSeconds", f"is {options['intervalSeconds']}", "more than 0")


RULES = (
    serve_config,
    serve_address,
    serve_spread,
    serve_environment,
    serve_readiness,
    serve_drain,
    service_upgrade,
)
