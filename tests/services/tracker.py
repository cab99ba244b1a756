"""A real MLflow server."""

from __future__ import annotations

import signal
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flts_ray.config import TrackingSettings
from tests.services.ports import free_ports
from tests.services.processes import ServerProcess, quiet_environment


@dataclass
class MlflowServer:
    """``mlflow server`` with proxied artifacts, on 127.0.0.1.

    Attributes:
        folder: Its log, and what it keeps itself.
        backend_uri: Database; empty: SQLite in the folder.
        artifacts: ``s3://bucket/prefix``, or empty: a folder in the folder.
        environment: What it needs besides, such as the S3 server's address and credentials.
        port: Kept over restarts.
    """

    folder: Path
    backend_uri: str = field(default="", repr=False)
    artifacts: str = ""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    port: int = 0
    _process: ServerProcess | None = None

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.running

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def settings(self, timeout_s: float = 10.0) -> TrackingSettings:
        return TrackingSettings(uri=self.uri, timeout_s=timeout_s)

    def start(self, timeout_s: float = 120.0) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_ports(1)[0]
        env = quiet_environment(
            {
                **self.environment,
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # or eight more processes
                "MLFLOW_DISABLE_TELEMETRY": "true",
                # Here rather than among the arguments, which everyone on the machine can read.
                "MLFLOW_BACKEND_STORE_URI": self.backend_uri or f"sqlite:///{self.folder / 'server.db'}",
            }
        )
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--workers", "1", "--serve-artifacts"),
            *("--artifacts-destination", self.artifacts or str(self.folder / "artifacts")),
        ]
        self._process = ServerProcess("the MLflow server", self.folder / "server.log")
        self._process.start(command, env=env, cwd=self.folder, ready=self.answers, timeout_s=timeout_s)

    def answers(self) -> bool:
        """Whether it answers, its database included."""
        request = urllib.request.Request(
            f"{self.uri}/api/2.0/mlflow/experiments/search",
            data=b'{"max_results": 1}',
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def wait(self, timeout_s: float = 60.0) -> None:
        """Wait until it answers, for example after its database came back."""
        deadline = time.monotonic() + timeout_s
        while not self.answers():
            if time.monotonic() > deadline:
                raise RuntimeError("the MLflow server does not answer")
            time.sleep(0.2)

    def stop(self) -> None:
        """End it; what it stored stays for the next start."""
        if self._process is not None:
            self._process.stop(signal.SIGTERM)
            self._process = None

    def kill(self) -> None:
        """End every process of it at once."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def restart(self) -> None:
        """Stop at once and start, with the same store on the same port."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Freeze it: connections are accepted and nothing is answered."""
        assert self._process is not None
        self._process.pause()

    def resume(self) -> None:
        assert self._process is not None
        self._process.resume()
