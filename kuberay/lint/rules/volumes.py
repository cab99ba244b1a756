"""Volumes, claims and mounts."""

from __future__ import annotations

from pathlib import PurePosixPath

from kuberay.lint.environment import environ
from kuberay.lint.model import Rendering, Resource, Tree, look
from kuberay.lint.mounts import volume
from kuberay.lint.pods import Container, Pod, containers, pods
from kuberay.lint.rule import Fault, Faults, rule
from kuberay.lint.rules.names import DNS_1123
from kuberay.lint.rules.references import WAITS

MODES = frozenset({"ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"})
SCALED = ("deployment", "statefulset")


@rule("volume-exists", "the pod cannot be made: a RayJob then hangs in Initializing")
def volume_exists(rendering: Rendering) -> Faults:
    """A mount names a volume that the pod has not, two volumes share a name, or one is none that Kubernetes takes."""
    for pod in pods(rendering):
        names = [str(entry.get("name")) for entry in pod.spec.get("volumes") or []]
        made = {look(entry, "metadata.name") for entry in pod.owner.get("spec.volumeClaimTemplates", [])}
        for container in pod.containers:
            for index, mount in enumerate(container.get("volumeMounts", [])):
                if mount.get("name") not in names and mount.get("name") not in made:
                    path = f"{container.path}.volumeMounts[{index}]"
                    yield Fault(pod.owner, path, f"there is no volume {mount.get('name')}", "add it to volumes")
                yield from _mount(container, f"{container.path}.volumeMounts[{index}]", mount)
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield Fault(pod.owner, f"{pod.path}.spec.volumes", f"{name} is there twice", "rename one")
        for index, entry in enumerate(pod.spec.get("volumes") or []):
            path, name = f"{pod.path}.spec.volumes[{index}]", str(entry.get("name"))
            if not DNS_1123.fullmatch(name) or len(name) > 63:
                fix = "lower-case letters, digits and dashes, 63 characters at most"
                yield Fault(pod.owner, f"{path}.name", f"'{name}' is no DNS label", fix)
            if len(kinds := sorted(entry.keys() - {"name"})) != 1:
                what = " and ".join(kinds) or "no source"
                yield Fault(pod.owner, path, f"{name} has {what}", "one source each: emptyDir, configMap, secret, …")


def _mount(container: Container, path: str, mount: Tree) -> Faults:
    folder = str(mount.get("mountPath", ""))
    if not folder.startswith("/") or ":" in folder:
        fix = "an absolute path without a colon"
        yield Fault(container.pod.owner, f"{path}.mountPath", f"'{folder}' is no place to mount at", fix)
    for key in ("subPath", "subPathExpr"):
        inside = PurePosixPath(str(mount.get(key, "")))
        if inside.is_absolute() or ".." in inside.parts:
            yield Fault(container.pod.owner, f"{path}.{key}", f"'{inside}' leads out", "relative, without '..'")


@rule("claim-exists", WAITS)
def claim_exists(rendering: Rendering) -> Faults:
    """A PersistentVolumeClaim does not exist, or two pods want one that only one node can have."""
    for resource in rendering.resources:
        yield from _access_modes(resource)
    users: dict[str, set[str]] = {}
    for pod in pods(rendering):
        for index, entry in enumerate(pod.spec.get("volumes") or []):
            name = look(entry, "persistentVolumeClaim.claimName")
            if name is None:
                continue
            path = f"{pod.path}.spec.volumes[{index}]"
            claim = rendering.find("PersistentVolumeClaim", name)
            if claim is None:
                yield Fault(pod.owner, path, f"there is no PersistentVolumeClaim {name}", "add it, or correct the name")
                continue
            shared = {"ReadWriteMany", "ReadOnlyMany"} & set(claim.get("spec.accessModes", []))
            if _may_be_many(pod) and not shared:
                yield Fault(pod.owner, path, f"each of several pods wants {name}", "an emptyDir, or ReadWriteMany")
            users.setdefault(name, set()).add(pod.path + str(pod.owner))
            if len(users[name]) > 1 and "ReadWriteMany" not in claim.get("spec.accessModes", []):
                yield Fault(pod.owner, path, f"{name} is another pod's too", "a claim each, or ReadWriteMany")


def _access_modes(resource: Resource) -> Faults:
    claims = [("spec", resource.get("spec"))] if resource.kind == "PersistentVolumeClaim" else []
    if resource.kind == "StatefulSet":
        templates = resource.get("spec.volumeClaimTemplates", [])
        claims = [(f"spec.volumeClaimTemplates[{n}].spec", tree.get("spec")) for n, tree in enumerate(templates)]
    for path, tree in claims:
        modes = look(tree, "accessModes", [])
        if not modes or set(modes) - MODES:
            fix = f"of {', '.join(sorted(MODES))}"
            yield Fault(resource, f"{path}.accessModes", f"are {', '.join(modes) or 'not given'}", fix)


def _may_be_many(pod: Pod) -> bool:
    if pod.role == "worker" and pod.group is not None:
        most = max(pod.group.get("replicas", 0), pod.group.get("maxReplicas", 2))
        return bool(most * pod.group.get("numOfHosts", 1) > 1)
    return pod.role == "daemonset" or (pod.role in SCALED and pod.owner.get("spec.replicas", 1) > 1)


@rule("mount-writable", "the program cannot write: read-only file system")
def mount_writable(rendering: Rendering) -> Faults:
    """A container of ours has no writable home of runs, or no /tmp."""
    for container in containers(rendering):
        if container.get("securityContext.readOnlyRootFilesystem") is not True or not container.is_ray:
            continue
        writable = {
            str(mount.get("mountPath"))
            for mount in container.get("volumeMounts", [])
            if not mount.get("readOnly") and not {"configMap", "secret"} & set(volume(container, mount["name"]) or ())
        }
        for path in ("/tmp", environ(rendering, container).get("FLTS_RUN__HOME", "/tmp")):
            if not any(path == folder or path.startswith(f"{folder}/") for folder in writable):
                yield Fault(container.pod.owner, f"{container.path}.volumeMounts", f"{path} is read-only", "mount one")


RULES = (volume_exists, claim_exists, mount_writable)
