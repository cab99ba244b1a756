"""Ray clusters: groups, start parameters, versions, ports, and the fault-tolerant head."""

from __future__ import annotations

import functools
from importlib import metadata

from kuberay.lint.clusters import Group, clusters, groups
from kuberay.lint.environment import variables
from kuberay.lint.model import Rendering
from kuberay.lint.pods import ray_pods
from kuberay.lint.quantities import number
from kuberay.lint.rule import Fault, Faults, rule

HEAD_PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001}
OPTIONAL_PORTS = {"metrics": 8080, "as-metrics": 44217, "dash-metrics": 44227}
RAY_CONTAINERS = {"head": "ray-head", "worker": "ray-worker"}
OBJECT_STORE_SHARE = 0.5
"""The object store lies in /dev/shm, which counts against the container: as much again is left for the heap."""


@rule("worker-bounds", "KubeRay refuses min > max; without a maximum it is 2147483647 pods")
def worker_bounds(rendering: Rendering) -> Faults:
    """A group of workers lacks a bound, or its bounds contradict."""
    for cluster in clusters(rendering):
        for group in cluster.workers:
            bounds = [group.get(key) for key in ("minReplicas", "replicas", "maxReplicas")]
            if None in bounds:
                fix = "set minReplicas, replicas and maxReplicas"
                yield Fault(cluster.owner, group.path, "lacks a bound", fix)
            elif not bounds[0] <= bounds[1] <= bounds[2]:
                text = " <= ".join(map(str, bounds))
                yield Fault(cluster.owner, group.path, f"{text} does not hold", "min <= replicas <= max")
            elif not cluster.autoscales and bounds[2] == 0:
                yield Fault(cluster.owner, group.path, "may have no worker at all", "raise maxReplicas")


@rule("ray-version", "KubeRay switches features by rayVersion: probes, authentication, priorities")
def ray_version(rendering: Rendering) -> Faults:
    """``rayVersion`` is not the version of the Ray that the image holds."""
    ours = metadata.version("ray")
    for cluster in clusters(rendering):
        said = cluster.get("rayVersion", "")
        if said != ours:
            yield Fault(cluster.owner, f"{cluster.path}.rayVersion", f"is {said!r}", f"the image's Ray is {ours}")


@rule("cluster-upgrade-strategy", "the cluster of the RayJob or RayService never starts")
def cluster_upgrade_strategy(rendering: Rendering) -> Faults:
    """``upgradeStrategy`` stands in the cluster of a RayJob or RayService."""
    for cluster in clusters(rendering):
        path = f"{cluster.path}.upgradeStrategy"
        if cluster.get("upgradeStrategy") is not None and cluster.owner.kind != "RayCluster":
            yield Fault(cluster.owner, path, "is for RayClusters that stand alone", "remove it")
        if cluster.get("upgradeStrategy.type", "None") not in ("Recreate", "None"):
            yield Fault(cluster.owner, path, "has an unknown type", "Recreate or None")


@rule("start-params", "KubeRay refuses the cluster, or the node does not start")
def start_params(rendering: Rendering) -> Faults:
    """``rayStartParams`` holds what `ray start` does not know, what is no text, or what is given elsewhere too."""
    known = _options_of_ray_start()
    for group in groups(rendering):
        path, owner = f"{group.path}.rayStartParams", group.cluster.owner
        for key, value in group.start_params.items():
            if not isinstance(value, str):
                yield Fault(owner, f"{path}.{key}", f"{value!r} is no text", f'quote it: "{value}"')
            if key == "labels":
                yield Fault(owner, f"{path}.{key}", "KubeRay refuses labels here", "use labels: of the group")
            elif key not in known:
                yield Fault(owner, f"{path}.{key}", "`ray start` has no such option", "`ray start --help` lists them")
        twice = {"CPU": "num-cpus", "GPU": "num-gpus", "memory": "memory"}
        for resource, option in twice.items():
            if resource in group.get("resources", {}) and option in group.start_params:
                yield Fault(owner, f"{path}.{option}", f"resources.{resource} says it too", "keep one of them")


@functools.cache
def _options_of_ray_start() -> frozenset[str]:
    from ray.scripts.scripts import start  # takes a second: only a linter of clusters pays it

    return frozenset(option.removeprefix("--") for parameter in start.params for option in parameter.opts)


@rule("head-without-work", "training or replicas run on the head, and take it down when they run out of memory")
def head_without_work(rendering: Rendering) -> Faults:
    """A head offers CPUs."""
    for cluster in clusters(rendering):
        head = cluster.head
        cpus = head.start_params.get("num-cpus", head.get("resources", {}).get("CPU"))
        if str(cpus) != "0":
            yield Fault(cluster.owner, f"{head.path}.rayStartParams.num-cpus", f"is {cpus}", 'set it to "0"')


@rule("object-store", "30 % of the memory become the object store by default, in the container's own memory")
def object_store(rendering: Rendering) -> Faults:
    """The object store has no size, or leaves too little for the heap."""
    for pod in ray_pods(rendering):
        if pod.group is None or pod.main is None:
            continue
        path = f"{pod.group.path}.rayStartParams.object-store-memory"
        size, limit = pod.group.start_params.get("object-store-memory"), pod.main.get("resources.limits.memory")
        bytes_, most = number(size), number(limit)
        if bytes_ is None:
            yield Fault(pod.owner, path, f"is {size!r}", "set it, in bytes")
        elif most and bytes_ > OBJECT_STORE_SHARE * most:
            fix = f"at most {OBJECT_STORE_SHARE:.0%}"
            yield Fault(pod.owner, path, f"{bytes_ / most:.0%} of the memory limit {limit}", fix)


@rule("whole-cpus", "Ray counts the CPU limit rounded up: more tasks than CPUs")
def whole_cpus(rendering: Rendering) -> Faults:
    """A worker's CPU limit is not whole, and num-cpus does not say how many Ray has."""
    for pod in ray_pods(rendering):
        if pod.role == "worker" and pod.main is not None and pod.group and "num-cpus" not in pod.group.start_params:
            cpus = number(pod.main.get("resources.limits.cpu"))
            if cpus is not None and cpus % 1:
                path = f"{pod.main.path}.resources.limits.cpu"
                yield Fault(pod.owner, path, f"{cpus:g} is not whole", "make it whole, or say num-cpus")


@rule("ray-container-first", "KubeRay starts Ray in the first container, whatever it is")
def ray_container_first(rendering: Rendering) -> Faults:
    """A sidecar stands before the Ray container, or the submitter's."""
    for pod in ray_pods(rendering):
        wanted = RAY_CONTAINERS[pod.role]
        if pod.main is None or pod.main.name != wanted:
            fix = f"put the container {wanted} first"
            yield Fault(pod.owner, f"{pod.path}.spec.containers[0]", "is not Ray's by its name", fix)


@rule("head-ports", "where ports are listed KubeRay adds none: jobs and services cannot reach the dashboard")
def head_ports(rendering: Rendering) -> Faults:
    """The list of a head's ports is not complete, or one has another number than Ray uses."""
    for pod in ray_pods(rendering):
        if pod.main is None or not pod.main.get("ports"):
            continue
        listed = {port.get("name"): port.get("containerPort") for port in pod.main.get("ports")}
        path = f"{pod.main.path}.ports"
        wanted = HEAD_PORTS if pod.role == "head" else {}
        for name, port in wanted.items():
            if name not in listed:
                yield Fault(pod.owner, path, f"lacks {name}", f"add {name}: {port}, or list no ports")
        for name, port in (wanted | OPTIONAL_PORTS).items():
            if listed.get(name, port) != port:
                yield Fault(pod.owner, path, f"{name} is {listed[name]}", f"Ray listens on {port}")


@rule("token-auth", "whoever reaches the dashboard runs code in the cluster; {} means off")
def token_auth(rendering: Rendering) -> Faults:
    """A cluster does not ask for a token, or not for one of ours."""
    for cluster in clusters(rendering):
        path = f"{cluster.path}.authOptions"
        if cluster.get("authOptions.mode") != "token":
            yield Fault(cluster.owner, path, "does not turn the token on", "mode: token")
        elif not cluster.get("authOptions.secretName"):
            fix = "secretName: ray-token, which the clients know too"
            yield Fault(cluster.owner, path, "leaves the token to the operator", fix)
        if cluster.get("authOptions.enableK8sTokenAuth") and cluster.owner.kind != "RayCluster":
            yield Fault(cluster.owner, path, "Kubernetes tokens are not supported here", "remove enableK8sTokenAuth")


@rule("gcs-fault-tolerance", "KubeRay refuses a store named twice; a shared one mixes old and new clusters")
def gcs_fault_tolerance(rendering: Rendering) -> Faults:
    """The store of the head's state is configured by other means than ``gcsFaultToleranceOptions``, or is shared."""
    fix = "let gcsFaultToleranceOptions alone say it"
    for cluster in clusters(rendering):
        options = cluster.get("gcsFaultToleranceOptions")
        if "ray.io/ft-enabled" in cluster.owner.get("metadata.annotations", {}):
            yield Fault(cluster.owner, "metadata.annotations", "ray.io/ft-enabled is the old way", fix)
        if options is None:
            continue
        path = f"{cluster.path}.gcsFaultToleranceOptions"
        if "externalStorageNamespace" in options:
            yield Fault(cluster.owner, path, "externalStorageNamespace is fixed", "remove it: one a cluster is made")
        if options.get("backend", "redis") == "redis" and not options.get("redisAddress"):
            yield Fault(cluster.owner, path, "has no redisAddress", "redisAddress: redis:6379")
    for pod in ray_pods(rendering):
        yield from _redis_elsewhere(pod.group, fix)
        for found in variables(rendering, pod.main) if pod.main else ():
            if found.name in ("RAY_REDIS_ADDRESS", "REDIS_PASSWORD"):
                yield Fault(pod.owner, found.path, f"{found.name} is KubeRay's to set", fix)


def _redis_elsewhere(group: Group | None, fix: str) -> Faults:
    for key in group.start_params if group else ():
        if key.startswith("redis-") and group:
            yield Fault(group.cluster.owner, f"{group.path}.rayStartParams.{key}", "is KubeRay's to set", fix)


@rule("feature-gate", "KubeRay ignores or refuses what a gate of its operator keeps off")
def feature_gate(rendering: Rendering) -> Faults:
    """Something is used that a gate keeps off by default."""
    uses = [(resource, "", "RayCronJob") for resource in rendering.of("RayCronJob")]
    for cluster in clusters(rendering):
        for key, gate in (
            ("networkPolicy", "RayClusterNetworkPolicy"),
            ("tlsOptions", "RayClusterMTLS"),
            ("historyServerOptions", "RayClusterHistoryServer"),
        ):
            if cluster.get(key) is not None:
                uses.append((cluster.owner, f"{cluster.path}.{key}", gate))
        if cluster.get("gcsFaultToleranceOptions.backend") == "rocksdb":
            path = f"{cluster.path}.gcsFaultToleranceOptions.backend"
            uses.append((cluster.owner, path, "GCSFaultToleranceEmbeddedStorage"))
    for resource, path, gate in uses:
        if gate not in rendering.gates:
            fix = f"turn it on in the operator (helm: featureGates), then lint with --gate {gate}"
            yield Fault(resource, path, f"needs the feature gate {gate}", fix)


RULES = (
    worker_bounds,
    ray_version,
    cluster_upgrade_strategy,
    start_params,
    head_without_work,
    object_store,
    whole_cpus,
    ray_container_first,
    head_ports,
    token_auth,
    gcs_fault_tolerance,
    feature_gate,
)
