"""Ray's autoscaler: version 2, said explicitly."""

from __future__ import annotations

from kuberay.lint.clusters import clusters
from kuberay.lint.environment import variables
from kuberay.lint.model import Rendering, look
from kuberay.lint.mounts import volume
from kuberay.lint.pods import Pod, ray_pods
from kuberay.lint.rule import Fault, Faults, rule

TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"


@rule("autoscaler-version", "unset is neither v1 nor v2 to KubeRay, while Ray runs v2")
def autoscaler_version(rendering: Rendering) -> Faults:
    """The autoscaler's version is not said, or is said by other means too."""
    for cluster in clusters(rendering):
        if cluster.autoscales and cluster.get("autoscalerOptions.version") != "v2":
            path = f"{cluster.path}.autoscalerOptions.version"
            yield Fault(cluster.owner, path, "is not v2", "version: v2")
        if not cluster.autoscales and cluster.get("autoscalerOptions") is not None:
            path = f"{cluster.path}.autoscalerOptions"
            yield Fault(cluster.owner, path, "has no effect", "set enableInTreeAutoscaling: true, or remove it")
    for pod in ray_pods(rendering):
        for found in variables(rendering, pod.main) if pod.main else ():
            if found.name == "RAY_enable_autoscaler_v2":
                yield Fault(pod.owner, found.path, "KubeRay refuses this variable", "autoscalerOptions.version: v2")


@rule("autoscaler-bounds", "idle workers stay for ever, or too short to be used again")
def autoscaler_bounds(rendering: Rendering) -> Faults:
    """The autoscaler has no idle time, or a group that sets one has no autoscaler."""
    for cluster in clusters(rendering):
        options = f"{cluster.path}.autoscalerOptions"
        if cluster.autoscales and cluster.get("autoscalerOptions.idleTimeoutSeconds") is None:
            yield Fault(cluster.owner, options, "lacks idleTimeoutSeconds", "set it, in seconds")
        for group in cluster.workers:
            for key in ("idleTimeoutSeconds", "priority"):
                if group.get(key) is not None and not cluster.autoscales:
                    yield Fault(cluster.owner, f"{group.path}.{key}", "needs autoscaler v2", "turn it on or remove it")
            if cluster.autoscales and group.get("minReplicas") == group.get("maxReplicas"):
                yield Fault(cluster.owner, group.path, "cannot grow", "raise maxReplicas or turn the autoscaler off")


@rule("ray-restart-policy", "KubeRay refuses pods that restart in place where autoscaler v2 counts them")
def ray_restart_policy(rendering: Rendering) -> Faults:
    """A Ray pod restarts in place."""
    for pod in ray_pods(rendering):
        policy = pod.spec.get("restartPolicy", "Never")
        if policy != "Never":
            yield Fault(pod.owner, f"{pod.path}.spec.restartPolicy", f"is {policy}", "Never, or leave it out")


@rule("autoscaler-api-access", "the autoscaler cannot ask the API server for pods")
def autoscaler_api_access(rendering: Rendering) -> Faults:
    """A head whose autoscaler needs the API server gets no token for it."""
    for pod in ray_pods(rendering):
        if pod.role != "head" or pod.cluster is None or not pod.cluster.autoscales:
            continue
        name = pod.spec.get("serviceAccountName")
        account = rendering.find("ServiceAccount", name) if name else None
        mounted = pod.spec.get("automountServiceAccountToken")
        if mounted is None and account is not None:
            mounted = account.get("automountServiceAccountToken")
        if mounted is False and not _projects_token(pod):
            path = f"{pod.path}.spec.automountServiceAccountToken"
            yield Fault(
                pod.owner,
                path,
                "is false",
                "true on heads that autoscale, or a projected token for autoscalerOptions.volumeMounts",
            )
        if name and not _may_scale(rendering, name):
            fix = "bind pods get/list/watch/patch, pods/resize patch and rayclusters get/patch to it, or name none"
            yield Fault(pod.owner, f"{pod.path}.spec.serviceAccountName", f"'{name}' may not scale", fix)


def _projects_token(pod: Pod) -> bool:
    """Whether the autoscaler alone gets the token, by a volume of its own."""
    for container in pod.containers:
        for mount in container.get("volumeMounts", []) if container.role == "autoscaler" else ():
            sources = look(volume(container, str(mount.get("name"))), "projected.sources", [])
            if mount.get("mountPath") == TOKEN_PATH and any("serviceAccountToken" in source for source in sources):
                return True
    return False


def _may_scale(rendering: Rendering, account: str) -> bool:
    for binding in rendering.of("RoleBinding"):
        if any(who.get("name") == account for who in binding.get("subjects", [])):
            role = rendering.find("Role", binding.get("roleRef.name", ""))
            for entry in role.get("rules", []) if role else ():
                if "rayclusters" in entry.get("resources", []) and "patch" in entry.get("verbs", []):
                    return True
    return False


RULES = (autoscaler_version, autoscaler_bounds, ray_restart_policy, autoscaler_api_access)
