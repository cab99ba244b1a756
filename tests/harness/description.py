"""From a container as rendered to a container that can be started, as the kubelet resolves it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.harness.container import Container, Volume
from tests.harness.environment import environment, expand, quantity, service_links
from tests.harness.image import Image
from tests.harness.network import Network
from tests.harness.objects import Manifest, Objects
from tests.harness.volumes import Volumes


class World(Protocol):
    """What a pod needs to know of the cluster it runs in."""

    folder: Path
    objects: Objects
    network: Network

    def image(self, name: str) -> Image:
        """What stands for an image."""

    def account(self, name: str) -> tuple[str, bytes]:
        """Token of a ServiceAccount, and the certificate of the API server's authority."""


@dataclass(frozen=True)
class Description:
    """What containers of one pod have in common.

    Attributes:
        pod: Its name.
        manifest: ``metadata`` and ``spec``.
        world: The cluster.
        address: In the cluster's network.
        folder: The pod's own.
    """

    pod: str
    manifest: Manifest
    world: World
    address: str
    folder: Path

    def container(self, manifest: Manifest, attempt: int, *, pause: int) -> Container:
        """A container of the pod.

        Raises:
            LookupError: If something that it names does not exist (yet).
            ValueError: If it can never start.
        """
        image, spec = self.world.image(manifest["image"]), self.manifest["spec"]
        security = {**spec.get("securityContext", {}), **manifest.get("securityContext", {})}
        user, group = int(security.get("runAsUser", image.user)), int(security.get("fsGroup", 0))
        if security.get("runAsNonRoot") and user == 0:
            raise ValueError(f"container {manifest['name']} has runAsNonRoot and would run as root")
        groups = [int(security.get("runAsGroup", user)), *security.get("supplementalGroups", [])]
        env = environment(manifest, self.world.objects, self._fields(), {**image.env, **self._host()})
        words = [*manifest.get("command", image.entrypoint)]
        words += manifest.get("args", [] if "command" in manifest else image.cmd)
        return Container(
            name=f"{self.pod}-{manifest['name']}-{attempt}",
            folder=self.folder / f"{manifest['name']}-{attempt}",
            pause=pause,
            image=image,
            argv=[expand(word, env) for word in words],
            env=env,
            volumes=self._volumes(manifest, group),
            user=user,
            groups=list(dict.fromkeys([*groups, *([group] if group else [])])),
            read_only_root=bool(security.get("readOnlyRootFilesystem")),
            memory_bytes=int(quantity(manifest.get("resources", {}).get("limits", {}).get("memory", 0))),
            workdir=manifest.get("workingDir", image.workdir),
        )

    @property
    def _account(self) -> str:
        return str(self.manifest["spec"].get("serviceAccountName", "default"))

    def _host(self) -> dict[str, str]:
        """What every pod is told of the cluster."""
        server = {"KUBERNETES_SERVICE_HOST": "kubernetes.default.svc", "KUBERNETES_SERVICE_PORT": "443"}
        wanted = self.manifest["spec"].get("enableServiceLinks", True)
        links = service_links(self.world.objects.all("Service")) if wanted else {}
        return {"HOSTNAME": self.pod, **server, **links}

    def _volumes(self, manifest: Manifest, group: int) -> list[Volume]:
        made = Volumes(self.folder, self.world.folder / "claims", self.world.objects, self._fields(), group)
        known = {volume["name"]: volume for volume in self.manifest["spec"].get("volumes", [])}
        mounts = [*made.mounts(manifest, known), Volume(self.world.network.hosts, "/etc/hosts")]
        account: Mapping[str, Any] = self.world.objects.find("ServiceAccount", self._account) or {}
        by_account = account.get("automountServiceAccountToken", True)
        if self.manifest["spec"].get("automountServiceAccountToken", by_account):
            mounts.append(made.account(*self.world.account(self._account)))
        return mounts

    def _fields(self) -> dict[str, str]:
        """What ``fieldRef`` can name."""
        metadata = self.manifest["metadata"]
        named = {
            f"metadata.{kind}['{name}']": value
            for kind in ("labels", "annotations")
            for name, value in metadata.get(kind, {}).items()
        }
        return {
            "metadata.name": self.pod,
            "metadata.namespace": self.world.objects.namespace,
            "metadata.uid": self.pod,
            "spec.nodeName": f"node-of-{self.pod}",
            "spec.serviceAccountName": self._account,
            "status.podIP": self.address,
            "status.hostIP": self.world.network.gateway,
            **named,
        }
