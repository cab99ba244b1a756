"""Which TCP connections the pods make: looked up in each pod's network, as often as one can afford."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.harness.pod import Pod

ESTABLISHED, LISTENING = "01", "0A"
PERIOD_S = 1.0


@dataclass(frozen=True)
class Flow:
    """Pods of this name connected to this address and port."""

    source: str
    address: str
    port: int


@dataclass
class Flows:
    """Collects the connections that pods open.

    Attributes:
        pods: The pods that exist now.
        seen: Each flow once, and the pod that opened it.
    """

    pods: Callable[[], list[Pod]]
    seen: dict[Flow, Pod] = field(default_factory=dict)
    _ending: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        threading.Thread(target=self._collect, name="flows", daemon=True).start()

    def stop(self) -> None:
        self._ending.set()

    def _collect(self) -> None:
        while not self._ending.wait(PERIOD_S):
            for pod in self.pods():
                for address, port in opened(sockets_of(pod.pid)) if pod.pid else ():
                    self.seen.setdefault(Flow(pod.name, address, port), pod)


def opened(table: str) -> set[tuple[str, int]]:
    """Far ends of the connections that were opened from here, in the form of ``/proc/net/tcp``."""
    rows = [line.split()[1:4] for line in table.splitlines()[1:]]
    listening = {_port(local) for local, _, state in rows if state == LISTENING}
    outward = [far for local, far, state in rows if state == ESTABLISHED and _port(local) not in listening]
    return {(_address(far), _port(far)) for far in outward if not _address(far).startswith("127.")}


def _port(end: str) -> int:
    return int(end.rpartition(":")[2], 16)


def _address(end: str) -> str:
    return socket.inet_ntoa(struct.pack("<I", int(end.rpartition(":")[0], 16)))


def sockets_of(pid: int) -> str:
    """The TCP connections in the network of a process; none if it has ended. IPv6 sockets of IPv4 ends included."""
    told = []
    for name in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{name}").read_text(encoding="ascii").splitlines()
        except OSError:
            return ""
        told += lines[0 if name == "tcp" else 1 :]
    return "\n".join(_as_v4(line) for line in told)


def _as_v4(line: str) -> str:
    """A row of ``tcp6`` with the last 32 bits of its addresses: here all are IPv4 inside IPv6, or listen."""
    words = line.split()
    return " ".join([words[0], *(end[-13:] if len(end) > 13 else end for end in words[1:3]), *words[3:]])
