"""A pod's volumes as folders on this machine, with the owners and modes that the kubelet gives them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.harness.container import Volume
from tests.harness.environment import data_of
from tests.harness.objects import Manifest, Objects

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


@dataclass(frozen=True)
class Volumes:
    """Makes what a pod mounts.

    Attributes:
        folder: The pod's own; what is in it ends with the pod.
        claims: Of PersistentVolumeClaims; what is in it stays.
        objects: Where ConfigMaps, Secrets and claims are looked up.
        fields: What a downward API volume can name.
        group: The pod's fsGroup.
    """

    folder: Path
    claims: Path
    objects: Objects
    fields: Mapping[str, str]
    group: int

    def mounts(self, container: Manifest, volumes: Mapping[str, Manifest]) -> list[Volume]:
        """What a container mounts.

        Raises:
            LookupError: If something that is named does not exist: the pod waits for it.
        """
        found = []
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                raise LookupError(f'volume "{mount["name"]}" of container "{container["name"]}" is not in the pod')
            source = self._place(volumes[mount["name"]])
            if part := mount.get("subPath"):
                source = source / part
                if not source.exists():
                    self._own(source)
            projected = {"configMap", "secret", "projected", "downwardAPI"} & volumes[mount["name"]].keys()
            found.append(Volume(source, mount["mountPath"], bool(mount.get("readOnly") or projected)))
        return found

    def account(self, token: str, authority: bytes) -> Volume:
        """The token of the pod's ServiceAccount, where it is mounted by itself."""
        folder = self.folder / "volumes" / "kube-api-access"
        self._write(
            folder, {"token": token.encode(), "ca.crt": authority, "namespace": self.objects.namespace.encode()}, 0o644
        )
        return Volume(folder, ACCOUNT, read_only=True)

    def _place(self, volume: Manifest) -> Path:
        folder = self.folder / "volumes" / str(volume["name"])
        if "emptyDir" in volume:
            if not folder.exists():
                self._own(folder, mode=0o777)
            return folder
        if "persistentVolumeClaim" in volume:
            name = str(volume["persistentVolumeClaim"]["claimName"])
            self.objects.get("PersistentVolumeClaim", name)
            if not (self.claims / name).exists():
                self._own(self.claims / name)
            return self.claims / name
        sources = volume["projected"]["sources"] if "projected" in volume else [volume]
        default = volume.get("projected", {}).get("defaultMode", 0o644)
        for source in sources:
            self._project(folder, source, default)
        return folder

    def _project(self, folder: Path, source: Manifest, default: int) -> None:
        if "downwardAPI" in source:
            fields = {
                item["path"]: self.fields[item["fieldRef"]["fieldPath"]] for item in source["downwardAPI"]["items"]
            }
            self._write(folder, {path: value.encode() for path, value in fields.items()}, default)
            return
        kind, told = ("Secret", source["secret"]) if "secret" in source else ("ConfigMap", source["configMap"])
        name = told.get("secretName") or told["name"]
        manifest = self.objects.find(kind, name)
        if manifest is None and told.get("optional"):
            folder.mkdir(parents=True, exist_ok=True)
            return
        keys = data_of(manifest or self.objects.get(kind, name))
        wanted = {item["key"]: item["path"] for item in told.get("items", [])} or {key: key for key in keys}
        if missing := wanted.keys() - keys.keys():
            raise LookupError(f'{kind.lower()} "{name}" has no key "{sorted(missing)[0]}"')
        self._write(folder, {path: keys[key] for key, path in wanted.items()}, told.get("defaultMode", default))

    def _write(self, folder: Path, files: Mapping[str, bytes], mode: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        for path, content in files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)
            file.write_bytes(content)
            if self.group:
                os.chown(file, 0, self.group)
                mode |= (mode & 0o400) >> 3  # a group that is given the volume can read it
            file.chmod(mode)

    def _own(self, folder: Path, mode: int = 0o755) -> None:
        folder.mkdir(parents=True)
        if self.group:
            os.chown(folder, 0, self.group)
            mode |= 0o2770
        folder.chmod(mode)

    def remove(self) -> None:
        """What ends with the pod."""
        shutil.rmtree(self.folder / "volumes", ignore_errors=True)
