"""Pod Security, service accounts and images."""

from __future__ import annotations

from kuberay.lint.model import Rendering, look
from kuberay.lint.pods import RAY, Container, Pod, containers, pods
from kuberay.lint.rule import Fault, Faults, rule

LEVELS = ("enforce", "warn", "audit")
HOST = ("hostNetwork", "hostPID", "hostIPC")
VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip


@rule("namespace", "Pod Security is not enforced, or objects land in whatever namespace kubectl points at")
def namespace(rendering: Rendering) -> Faults:
    """There is not one namespace for all, made here with the restricted level."""
    made = {found.name for found in rendering.of("Namespace")}
    for resource in rendering.of("Namespace"):
        for level in LEVELS:
            key = f"pod-security.kubernetes.io/{level}"
            if resource.labels.get(key) != "restricted":
                yield Fault(resource, f"metadata.labels.{key}", f"is {resource.labels.get(key)}", "restricted")
    for resource in rendering.resources:
        if resource.kind not in CLUSTER_WIDE and resource.namespace not in made:
            where = f"is in the namespace '{resource.namespace}'" if resource.namespace else "has no namespace"
            yield Fault(resource, "metadata.namespace", where, "set `namespace:` in the overlay and make it there")


CLUSTER_WIDE = (
    "Namespace", "ClusterRole", "ClusterRoleBinding", "PriorityClass", "StorageClass", "CustomResourceDefinition",
    "ClusterQueue", "ResourceFlavor", "GatewayClass", "ClusterIssuer",
)  # fmt: skip


@rule("restricted", "the pod is forbidden: a RayJob hangs in Initializing, or in Running without its submitter")
def restricted(rendering: Rendering) -> Faults:
    """A pod or container is not as the restricted Pod Security Standard wants it."""
    for pod in pods(rendering):
        if pod.role == "submitter" and not pod.tree:
            continue  # the rule `submitter` says it
        yield from _pod(pod)
        for container in pod.containers:
            yield from _container(container)


def _pod(pod: Pod) -> Faults:
    path = f"{pod.path}.spec"
    for key in HOST:
        if pod.spec.get(key):
            yield Fault(pod.owner, f"{path}.{key}", "shares the node's", "remove it")
    for index, volume in enumerate(pod.spec.get("volumes") or []):
        for kind in volume.keys() - VOLUMES - {"name"}:
            yield Fault(pod.owner, f"{path}.volumes[{index}]", f"{kind} is forbidden", "a PVC or an emptyDir")


def _container(container: Container) -> Faults:
    owner, path = container.pod.owner, f"{container.path}.securityContext"
    for index, port in enumerate(container.get("ports", [])):
        if port.get("hostPort"):
            yield Fault(owner, f"{container.path}.ports[{index}].hostPort", "is a port of the node", "remove it")
    own, shared = container.get("securityContext", {}), container.pod.spec.get("securityContext") or {}
    wanted = {"allowPrivilegeEscalation": False, "capabilities.drop": ["ALL"]}
    for key, value in wanted.items():
        if look(own, key) != value:
            yield Fault(owner, f"{path}.{key}", f"is {look(own, key)}", f"{value}".lower().replace("'all'", "ALL"))
    if own.get("privileged"):
        yield Fault(owner, f"{path}.privileged", "is true", "remove it")
    if set(look(own, "capabilities.add", [])) - {"NET_BIND_SERVICE"}:
        yield Fault(owner, f"{path}.capabilities.add", f"adds {look(own, 'capabilities.add')}", "remove it")
    both = shared | own
    if both.get("runAsNonRoot") is not True:
        yield Fault(owner, f"{path}.runAsNonRoot", f"is {both.get('runAsNonRoot')}", "true, here or for the pod")
    if look(both, "seccompProfile.type") not in ("RuntimeDefault", "Localhost"):
        yield Fault(owner, f"{path}.seccompProfile.type", "is not set", "RuntimeDefault, here or for the pod")


@rule("root-user", "the kubelet refuses to start it: CreateContainerConfigError")
def root_user(rendering: Rendering) -> Faults:
    """A container runs as user 0, or as whatever its image says."""
    for container in containers(rendering):
        both = (container.pod.spec.get("securityContext") or {}) | container.get("securityContext", {})
        user = both.get("runAsUser")
        if user == 0 or (user is None and container.role != "autoscaler" and container.pod.tree):
            path = f"{container.path}.securityContext.runAsUser"
            yield Fault(container.pod.owner, path, f"is {user}", "1000, or the image's own user by its number")


@rule("read-only-root", "who breaks in can change the program")
def read_only_root(rendering: Rendering) -> Faults:
    """A container may write to its image."""
    for container in containers(rendering):
        needs = container.role != "autoscaler" and (container.pod.role not in RAY or container.role != "sidecar")
        if needs and container.get("securityContext.readOnlyRootFilesystem") is not True:
            path = f"{container.path}.securityContext.readOnlyRootFilesystem"
            yield Fault(container.pod.owner, path, "is not true", "true, with an emptyDir for what it writes")


@rule("immutable-image", "what runs depends on when it was pulled, and a rollback brings back nothing")
def immutable_image(rendering: Rendering) -> Faults:
    """An image has no tag, one that moves, or is pulled anew at every start."""
    for container in containers(rendering):
        image, path = container.get("image"), f"{container.path}.image"
        if image is None:
            if container.role != "autoscaler":
                yield Fault(container.pod.owner, path, "is missing", "name it")
            continue
        name, _, digest = str(image).partition("@")
        tag = name.rpartition("/")[2].partition(":")[2]
        if not digest and (not tag or tag in ("latest", "main", "master", "dev", "nightly", "stable")):
            fix = "a release tag or a digest, by `images:` of the overlay"
            yield Fault(container.pod.owner, path, f"{image} can change", fix)
        policy = container.get("imagePullPolicy")
        if container.role != "autoscaler" and policy != "IfNotPresent":
            fix = "IfNotPresent: the tag says which image it is"
            yield Fault(container.pod.owner, f"{container.path}.imagePullPolicy", f"is {policy}", fix)


@rule("service-account-token", "who breaks into a pod can talk to the API server")
def service_account_token(rendering: Rendering) -> Faults:
    """A pod that has no business with the API server gets a token for it."""
    for pod in pods(rendering):
        account = rendering.find("ServiceAccount", str(pod.spec.get("serviceAccountName", "")))
        mounted = pod.spec.get("automountServiceAccountToken")
        if mounted is None and account is not None:
            mounted = account.get("automountServiceAccountToken")
        scales = pod.role == "head" and pod.cluster is not None and pod.cluster.autoscales
        bound = {who.get("name") for found in rendering.of("RoleBinding") for who in found.get("subjects", [])}
        if mounted is not False and not scales and pod.spec.get("serviceAccountName") not in bound and pod.tree:
            path = f"{pod.path}.spec.automountServiceAccountToken"
            yield Fault(pod.owner, path, "is not false", "false, or bind a Role to its ServiceAccount")


RULES = (
    namespace,
    restricted,
    root_user,
    read_only_root,
    immutable_image,
    service_account_token,
)
