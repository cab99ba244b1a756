"""Runs and registry on a real MLflow server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from flts_ray.config import TrackingSettings
from flts_ray.tracking.registry import ModelRegistry
from flts_ray.tracking.run import Tracker
from tests.tracking.registry_cases import RegistryCases

pytestmark = pytest.mark.service

START_LIMIT_S = 90


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow-server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/server.db",
        "--serve-artifacts", "--artifacts-destination", str(folder / "artifacts"), "--host", "127.0.0.1",
        "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)
        try:
            _wait_until_healthy(f"http://127.0.0.1:{port}/health", process, folder / "server.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    pytest.fail(f"the MLflow server did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def store(server: str, tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    return Tracker(TrackingSettings(uri=server, timeout_s=20), tmp_path_factory.mktemp("home"))


@pytest.fixture
def registry(store: Tracker, request: pytest.FixtureRequest) -> ModelRegistry:
    return ModelRegistry(store.gateway, request.node.name)


class TestServer(RegistryCases):
    """All cases over HTTP."""


def test_a_run_on_a_server(
    store: Tracker, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt), store.run("over-http") as first, first.child("gru") as child:
        child.log_metrics({"val_rmse_bits": 8e7}, step=1, at_ms=1_700_000_000_000)
        child.log_metrics({"val_rmse_bits": 8e7}, step=1, at_ms=1_700_000_000_000)
        raise KeyboardInterrupt
    for run_id in (first.run_id, child.run_id):
        assert store.gateway.call("read", "get_run", run_id).info.status == "KILLED"
    with store.run("over-http") as second, second.child("gru") as again:
        again.log_params({"training": {"epochs": 8}})
        again.log_dataset(name="PobleSec", digest="ab" * 32, source="s3://flts/datasets/abab")
        again.log_bundle(bundle)
        again.log_bytes("plots/loss.png", b"\x89PNG")
    assert (second.run_id, again.run_id) == (first.run_id, child.run_id)
    stored = store.gateway.call("read", "get_run", again.run_id)
    assert stored.info.status == "FINISHED"
    assert stored.inputs.dataset_inputs[0].dataset.name == "PobleSec"
    assert len(store.gateway.call("read", "get_metric_history", again.run_id, "val_rmse_bits")) == 1
    assert set(store.gateway.artifacts(again.run_id)) == {"bundle", "plots"}
    assert not list(tmp_path.glob("mlruns")), "artifacts went to the working directory"
    assert capsys.readouterr().out == ""
