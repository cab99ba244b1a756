"""Probes, executed as rendered."""

from __future__ import annotations

import http.client
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass

from tests.harness.container import Container
from tests.harness.objects import Manifest


def passes(probe: Manifest, container: Container, address: str, ports: Mapping[str, int]) -> tuple[bool, str]:
    """Whether a probe passes, asked as the kubelet asks: from outside the pod, but for exec.

    Returns:
        The verdict, and what was answered.
    """
    timeout_s = float(probe.get("timeoutSeconds", 1))
    try:
        if told := probe.get("httpGet"):
            if told.get("scheme", "HTTP") != "HTTP":
                raise NotImplementedError("the harness has no HTTPS probes")
            path = container.image.health or told.get("path", "/")
            connection = http.client.HTTPConnection(told.get("host", address), _port(told, ports), timeout=timeout_s)
            headers = {header["name"]: header["value"] for header in told.get("httpHeaders", [])}
            try:
                connection.request("GET", path, headers={"User-Agent": "kube-probe/1.35", **headers})
                answer = connection.getresponse()
                return 200 <= answer.status < 400, f"HTTP {answer.status}: {answer.read(300)!r}"
            finally:
                connection.close()
        if told := probe.get("tcpSocket"):
            with socket.create_connection((address, _port(told, ports)), timeout=timeout_s):
                return True, "connected"
        done = container.run(probe["exec"]["command"], timeout_s)
        return done.returncode == 0, f"exit code {done.returncode}: {done.stdout[-300:]}{done.stderr[-300:]}"
    except (OSError, http.client.HTTPException, subprocess.TimeoutExpired, IndexError) as error:
        return False, f"{type(error).__name__}: {error}"


def _port(told: Manifest, ports: Mapping[str, int]) -> int:
    return ports[told["port"]] if isinstance(told["port"], str) else int(told["port"])


@dataclass
class Watch:
    """One probe of one container, over time.

    Attributes:
        probe: As rendered.
        good: What it comes to so far.
        last: The latest answer.
    """

    probe: Manifest
    good: bool = False
    last: str = "not asked yet"
    _due: float = 0.0
    _streak: int = 0

    def begin(self) -> None:
        """The container has started (or its startup probe has passed)."""
        self.good, self._streak = False, 0
        self._due = time.monotonic() + float(self.probe.get("initialDelaySeconds", 0))

    def look(self, container: Container, address: str, ports: Mapping[str, int]) -> bool:
        """Ask if it is time to.

        Returns:
            Whether it has failed as often as is allowed in a row.
        """
        if time.monotonic() < self._due:
            return False
        passed, self.last = passes(self.probe, container, address, ports)
        self._due = time.monotonic() + float(self.probe.get("periodSeconds", 10))
        self._streak = max(self._streak, 0) + 1 if passed else min(self._streak, 0) - 1
        if self._streak >= int(self.probe.get("successThreshold", 1)):
            self.good = True
        failed = -self._streak >= int(self.probe.get("failureThreshold", 3))
        if failed:
            self.good = False
        return failed
