"""A Ray head with a dashboard on this machine, to which jobs are submitted as to a shared cluster: with a token."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.helpers import REPOSITORY, clean_environment
from tests.services.ports import free_ports

START_LIMIT_S = 90


@dataclass
class RayHead:
    """One ``ray start --head --block`` with two CPUs.

    Attributes:
        address: Of its dashboard, once started.
        token_file: Holds the token that every request must carry.
    """

    address: str = ""
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="ray-")))  # short: sockets lie in it
    _process: subprocess.Popen[bytes] | None = None

    @property
    def token_file(self) -> Path:
        return self.folder / "token"

    @property
    def environment(self) -> dict[str, str]:
        """What a submitter sets to reach it."""
        return {
            "RAY_API_SERVER_ADDRESS": self.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def start(self) -> None:
        self.token_file.write_text(secrets.token_hex(32))
        self.token_file.chmod(0o600)
        port, client, dashboard, agent, grpc, metrics = free_ports(6)
        self.address = f"http://127.0.0.1:{dashboard}"
        binaries = Path(sys.executable).parent
        environment = clean_environment({"RAY_worker_niceness": "0", "RAY_AUTH_MODE": "token"})
        environment |= {"RAY_AUTH_TOKEN_PATH": str(self.token_file), "RAY_USAGE_STATS_ENABLED": "0"}
        environment["PATH"] = os.pathsep.join([str(binaries), environment.get("PATH", os.defpath)])
        with (self.folder / "start.log").open("wb") as log:
            self._process = subprocess.Popen(
                [binaries / "ray", "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1",
                 f"--port={port}", f"--ray-client-server-port={client}", f"--temp-dir={self.folder}",
                 "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
                 f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={grpc}",
                 f"--metrics-export-port={metrics}", "--disable-usage-stats"],
                cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        until = time.monotonic() + START_LIMIT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                said = (self.folder / "start.log").read_text()[-2000:]
                self.stop()
                raise RuntimeError(f"ray did not start:\n{said}")
            time.sleep(0.5)

    def stop(self) -> None:
        """SIGKILL of every process of the head, which leaves nothing behind."""
        if self._process is not None:
            try:
                family = psutil.Process(self._process.pid).children(recursive=True)
            except psutil.NoSuchProcess:
                family = []
            self._process.kill()
            for process in family:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            self._process.wait()
            psutil.wait_procs(family, timeout=10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        request = urllib.request.Request(
            f"{self.address}/api/jobs/", headers={"Authorization": f"Bearer {self.token_file.read_text()}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def ray(head: RayHead, *arguments: str, cwd: Path = REPOSITORY, timeout_s: float = 200) -> tuple[int, str]:
    """Ray's own command line against the head: exit code, and stdout and stderr together."""
    done = subprocess.run(
        [Path(sys.executable).parent / "ray", *arguments],
        cwd=cwd,
        env=clean_environment(head.environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return done.returncode, done.stdout
