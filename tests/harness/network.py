"""The cluster's network: a bridge, an address for each pod and each Service, and the names that stand for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

NEEDED = ("ip", "unshare", "nsenter", "setpriv")


def why_no_pods() -> str:
    """Why pods cannot be started on this machine; empty if they can."""
    if os.geteuid() != 0:
        return "namespaces need root"
    if missing := [name for name in NEEDED if shutil.which(name) is None]:
        return f"not installed: {', '.join(missing)} (apt install iproute2 util-linux)"
    probe = [
        "unshare",
        "--net",
        "--mount",
        "--pid",
        "--uts",
        "--ipc",
        "--fork",
        "ip",
        "link",
        "add",
        "name",
        "probe",
        "type",
        "bridge",
    ]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    return f"namespaces are refused: {done.stderr.strip()}" if done.returncode else ""


def run(*command: str) -> None:
    """Run a system command; its own words are the error."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


@dataclass
class Network:
    """A bridge of its own, so that several test sessions can run beside each other.

    The bridge routes nothing to the outside: what leaves for the internet gets no answer, as under default-deny.

    Attributes:
        hosts: The file that every pod sees as ``/etc/hosts``; rewritten in place, as DNS changes under running pods.
        namespace: Kubernetes' namespace: a part of the long names.
    """

    hosts: Path
    namespace: str
    _names: dict[str, str] = field(default_factory=dict)
    _number: int = 0
    _pods: int = 0
    _services: int = 0
    _plugs: dict[str, str] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def bridge(self) -> str:
        return f"flts{self._number}"

    @property
    def gateway(self) -> str:
        return f"10.213.{self._number}.1"

    def start(self) -> None:
        """Take the first bridge that nobody has."""
        for number in range(1, 255):
            taken = subprocess.run(
                ["ip", "link", "add", "name", f"flts{number}", "type", "bridge"], capture_output=True, check=False
            ).returncode
            if not taken:
                self._number = number
                # A bridge without an address of its own takes that of a port, and another one when a pod goes: whoever
                # knew the old one then talks to nobody for a minute.
                run("ip", "link", "set", self.bridge, "address", f"02:f1:75:00:00:{number:02x}")
                run("ip", "address", "add", f"{self.gateway}/24", "dev", self.bridge)
                run("ip", "link", "set", self.bridge, "up")
                self._write()
                return
        raise RuntimeError("no bridge is free: remove those of ended sessions (ip link delete flts1 ...)")

    def stop(self) -> None:
        run("ip", "link", "delete", self.bridge)

    def connect(self, pid: int, pod: str) -> str:
        """Plug the network namespace of a process into the bridge.

        Returns:
            The pod's address.
        """
        with self._lock:
            self._pods += 1
            number = self._pods
        if number > 120:
            raise RuntimeError("the harness has addresses for 120 pods")
        address = f"10.213.{self._number}.{1 + number}"
        outside = f"{self.bridge}-{number}"
        run("ip", "link", "add", "name", outside, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        run("ip", "link", "set", outside, "master", self.bridge, "up")
        inside = ("nsenter", "--net", f"--target={pid}", "ip")
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "address", "add", f"{address}/24", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "route", "add", "default", "via", self.gateway)
        self.call(pod, address, short=True)
        with self._lock:
            self._plugs[pod] = outside
        return address

    def disconnect(self, pod: str) -> None:
        """Take a pod off the bridge at once: the kernel would take its time after the last process has ended."""
        self.forget(pod)
        with self._lock:
            outside = self._plugs.pop(pod, "")
        if outside:
            subprocess.run(
                ["ip", "link", "delete", outside], capture_output=True, check=False
            )  # gone with its pod: good

    def unplug(self, pod: str) -> None:
        """What a lost node does: no packet comes or goes any more, and nobody is told."""
        run("ip", "link", "set", self._plugs[pod], "down")

    def cluster_ip(self) -> str:
        """A new address for a Service, on the bridge itself: this machine answers there."""
        with self._lock:
            self._services += 1
            address = f"10.213.{self._number}.{254 - self._services}"
        run("ip", "address", "add", f"{address}/32", "dev", self.bridge)
        return address

    def call(self, name: str, address: str, *, short: bool = False) -> None:
        """Let a name stand for an address from now on, in every form that cluster DNS knows."""
        forms = (
            [name]
            if short
            else [name, *(f"{name}.{self.namespace}{end}" for end in ("", ".svc", ".svc.cluster.local"))]
        )
        with self._lock:
            self._names[name] = f"{address} {' '.join(forms)}"
            self._write()

    def forget(self, name: str) -> None:
        """Let a name stand for nothing."""
        with self._lock:
            if self._names.pop(name, None):
                self._write()

    def _write(self) -> None:
        text = "\n".join(["127.0.0.1 localhost", *self._names.values(), ""])
        with self.hosts.open("w", encoding="ascii") as file:  # the same inode: pods have it mounted
            file.write(text)
