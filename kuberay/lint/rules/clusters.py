"""Ray clusters: groups, versions, who may reach the dashboard, and the fault-tolerant head."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata

from kuberay.lint.clusters import Group, clusters
from kuberay.lint.environment import variables
from kuberay.lint.model import Rendering
from kuberay.lint.pods import RAY, containers, ray_pods
from kuberay.lint.rule import Fault, Faults, rule
from kuberay.lint.rules.nodes import said_of

AUTH_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")


@rule("worker-bounds", "KubeRay refuses min > max; without a maximum it is 2147483647 pods; without workers tasks wait")
def worker_bounds(rendering: Rendering) -> Faults:
    """A group of workers lacks a bound, its bounds contradict, or there is nobody to run a task."""
    for cluster in clusters(rendering):
        if not cluster.workers and str(said_of(cluster.head, "CPU")) == "0":
            path = f"{cluster.path}.workerGroupSpecs"
            yield Fault(cluster.owner, path, "has no group while the head offers no CPU", "add one")
        for group in cluster.workers:
            for what, fix in _bounds(group):
                yield Fault(cluster.owner, group.path, what, fix)


def _bounds(group: Group) -> Iterator[tuple[str, str]]:
    bounds = [0, *(group.get(key) for key in ("minReplicas", "replicas", "maxReplicas"))]
    if None in bounds:
        yield "lacks a bound", "set minReplicas, replicas and maxReplicas"
    elif bounds != sorted(bounds):
        yield f"{' <= '.join(map(str, bounds))} does not hold", "0 <= min <= replicas <= max"
    elif not group.cluster.autoscales and bounds[-1] == 0:
        yield "may have no worker at all", "raise maxReplicas"
    if group.get("numOfHosts", 1) < 1:
        yield f"has {group.get('numOfHosts')} hosts a replica", "numOfHosts: 1, or leave it out"
    if said_of(group, "CPU") == "0":
        yield "offers no CPU: no task runs in it", "as many as its limit, or leave num-cpus out"


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


@rule("head-without-work", "training or replicas run on the head, and take it down when they run out of memory")
def head_without_work(rendering: Rendering) -> Faults:
    """A head offers CPUs."""
    for cluster in clusters(rendering):
        head = cluster.head
        cpus = said_of(head, "CPU")
        if str(cpus) != "0":
            yield Fault(cluster.owner, f"{head.path}.rayStartParams.num-cpus", f"is {cpus}", 'set it to "0"')


@rule("token-auth", "whoever reaches the dashboard runs code in the cluster; {} means off")
def token_auth(rendering: Rendering) -> Faults:
    """A cluster does not ask for a token, or not for one of ours, or an Ingress leads to its dashboard."""
    for cluster in clusters(rendering):
        path = f"{cluster.path}.authOptions"
        by_kubernetes, secret = (cluster.get(f"authOptions.{key}") for key in ("enableK8sTokenAuth", "secretName"))
        if cluster.get("authOptions.mode") != "token":
            yield Fault(cluster.owner, path, "does not turn the token on", "mode: token")
        elif not secret and not by_kubernetes:
            fix = "secretName: ray-token, which the clients know too"
            yield Fault(cluster.owner, path, "leaves the token to the operator", fix)
        if by_kubernetes and cluster.owner.kind != "RayCluster":
            yield Fault(cluster.owner, path, "Kubernetes tokens are not supported here", "remove enableK8sTokenAuth")
        elif by_kubernetes and secret:
            yield Fault(cluster.owner, path, "enableK8sTokenAuth excludes secretName", "remove enableK8sTokenAuth")
        if cluster.head.get("enableIngress", False):
            fix = "remove it, and use kubectl port-forward"
            yield Fault(cluster.owner, f"{cluster.head.path}.enableIngress", "publishes the dashboard", fix)
    for container in containers(rendering):
        first = container.role == "main" and container.pod.role in (*RAY, "submitter")
        for found in variables(rendering, container) if first or container.role == "autoscaler" else ():
            if found.name in AUTH_VARIABLES and found.direct:
                what = f"{found.name} is KubeRay's to set, and it leaves alone what is there"
                yield Fault(container.pod.owner, found.path, what, "remove it: authOptions says it")


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
    head_without_work,
    token_auth,
    gcs_fault_tolerance,
    feature_gate,
)
