"""Ray's autoscaler: version 2, said explicitly."""

from __future__ import annotations

from collections.abc import Iterator

from kuberay.lint.clusters import clusters
from kuberay.lint.environment import variables
from kuberay.lint.model import Rendering, Tree, look
from kuberay.lint.mounts import volume
from kuberay.lint.pods import Pod, ray_pods
from kuberay.lint.rule import Fault, Faults, rule

TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN_FILES = {
    "token": "serviceAccountToken: path: token",
    "ca.crt": "configMap kube-root-ca.crt: key and path ca.crt",
    "namespace": "downwardAPI: fieldPath metadata.namespace, path namespace",
}
SHORTEST_TOKEN_S = 600
RIGHTS = (
    ("", "pods", ("get", "list", "watch", "patch")),
    ("", "pods/resize", ("patch",)),
    ("ray.io", "rayclusters", ("get", "patch")),
)
"""What the autoscaler asks of the API server: API group, resource, verbs."""


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


@rule("autoscaler-bounds", "KubeRay refuses the cluster, or idle workers stay for ever, or too short to be used again")
def autoscaler_bounds(rendering: Rendering) -> Faults:
    """The autoscaler has no idle time or nothing to do, or a group that needs one has no autoscaler."""
    for cluster in clusters(rendering):
        options = f"{cluster.path}.autoscalerOptions"
        idle = cluster.get("autoscalerOptions.idleTimeoutSeconds")
        if cluster.autoscales and idle is None:
            yield Fault(cluster.owner, options, "lacks idleTimeoutSeconds", "set it, in seconds")
        times = {options: idle} | {group.path: group.get("idleTimeoutSeconds") for group in cluster.workers}
        for path, seconds in times.items():
            if seconds is not None and seconds <= 0:
                yield Fault(cluster.owner, f"{path}.idleTimeoutSeconds", f"is {seconds}", "more than 0, in seconds")
        for group in cluster.workers:
            for key in ("idleTimeoutSeconds", "priority"):
                if group.get(key) is not None and not cluster.autoscales:
                    yield Fault(cluster.owner, f"{group.path}.{key}", "needs autoscaler v2", "turn it on or remove it")
            if cluster.autoscales and group.get("minReplicas") == group.get("maxReplicas"):
                yield Fault(cluster.owner, group.path, "cannot grow", "raise maxReplicas or turn the autoscaler off")
            if cluster.autoscales and group.get("suspend", False):
                yield Fault(
                    cluster.owner,
                    f"{group.path}.suspend",
                    "KubeRay refuses it here",
                    "remove it: minReplicas: 0 lets it shrink",
                )


@rule("ray-restart-policy", "KubeRay refuses pods that restart in place where autoscaler v2 counts them")
def ray_restart_policy(rendering: Rendering) -> Faults:
    """A Ray pod restarts in place."""
    for pod in ray_pods(rendering):
        policy = pod.spec.get("restartPolicy", "Never")
        if policy != "Never":
            yield Fault(pod.owner, f"{pod.path}.spec.restartPolicy", f"is {policy}", "Never, or leave it out")


@rule("autoscaler-api-access", "the autoscaler cannot ask the API server for pods")
def autoscaler_api_access(rendering: Rendering) -> Faults:
    """A head whose autoscaler needs the API server gets no token for it, or one without the rights."""
    for pod in ray_pods(rendering):
        if pod.role != "head" or pod.cluster is None or not pod.cluster.autoscales:
            continue
        name = pod.spec.get("serviceAccountName")
        account = rendering.find("ServiceAccount", name) if name else None
        mounted = pod.spec.get("automountServiceAccountToken")
        if mounted is None and account is not None:
            mounted = account.get("automountServiceAccountToken")
        sources = _projected(pod)
        if mounted is False and sources is None:
            path = f"{pod.path}.spec.automountServiceAccountToken"
            yield Fault(
                pod.owner,
                path,
                "is false",
                "true on heads that autoscale, or a projected token for autoscalerOptions.volumeMounts",
            )
        for what, fix in _faults_of_projection(sources) if sources is not None else ():
            yield Fault(pod.owner, f"{pod.path}.spec.volumes", f"the volume of its token {what}", fix)
        if name and (missing := _missing_rights(rendering, name)):
            fix = "grant it in the Role that is bound to the account, or name no account: KubeRay makes one"
            path = f"{pod.path}.spec.serviceAccountName"
            yield Fault(pod.owner, path, f"'{name}' may not {', '.join(missing)}", fix)


def _projected(pod: Pod) -> list[Tree] | None:
    """What a volume of its own puts where the autoscaler alone looks for its token; None: there is none."""
    for container in pod.containers:
        for mount in container.get("volumeMounts", []) if container.role == "autoscaler" else ():
            if mount.get("mountPath") == TOKEN_PATH:
                sources: list[Tree] = look(volume(container, str(mount.get("name"))), "projected.sources", [])
                return sources if any("serviceAccountToken" in source for source in sources) else None
    return None


def _faults_of_projection(sources: list[Tree]) -> Iterator[tuple[str, str]]:
    files: set[str] = set()
    for source in sources:
        whole = [{"key": "ca.crt", "path": "ca.crt"}] if "configMap" in source else []
        for item in look(source, "configMap.items", whole):
            files |= {item["path"]} if item["key"] == "ca.crt" else set()
        for item in look(source, "downwardAPI.items", []):
            files |= {item["path"]} if look(item, "fieldRef.fieldPath") == "metadata.namespace" else set()
        if token := source.get("serviceAccountToken"):
            files.add(token.get("path"))
            if token.get("expirationSeconds", 3600) < SHORTEST_TOKEN_S:
                yield (
                    f"has one of {token['expirationSeconds']} s",
                    f"at least {SHORTEST_TOKEN_S}: Kubernetes refuses less",
                )
    for name, origin in TOKEN_FILES.items():
        if name not in files:
            yield f"has no file {name}", origin


def _missing_rights(rendering: Rendering, account: str) -> list[str]:
    """What the autoscaler does and the account may not; nothing if its role is defined elsewhere."""
    rules: list[Tree] = []
    for binding in rendering.of("RoleBinding", "ClusterRoleBinding"):
        if any(who.get("name") == account for who in binding.get("subjects", [])):
            kind = binding.get("roleRef.kind", "Role")
            role = rendering.find(kind, binding.get("roleRef.name", ""))
            if role is None and kind == "ClusterRole":
                return []
            rules += role.get("rules", []) if role else []
    return [
        f"{verb} {resource}"
        for group, resource, verbs in RIGHTS
        for verb in verbs
        if not any(_allows(entry, group, resource, verb) for entry in rules)
    ]


def _allows(entry: Tree, group: str, resource: str, verb: str) -> bool:
    asked = {"apiGroups": group, "resources": resource, "verbs": verb}
    allowed = all({value, "*"} & set(entry.get(key, [])) for key, value in asked.items())
    return allowed and not entry.get("resourceNames")


RULES = (autoscaler_version, autoscaler_bounds, ray_restart_policy, autoscaler_api_access)
