"""Runs and registry on a real MLflow server, and what is left of both when it fails."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from flts_ray.config import TrackingSettings
from flts_ray.errors import TrackingError
from flts_ray.tracking.client import Gateway
from flts_ray.tracking.journal import REJECTED_FILE, Journal
from flts_ray.tracking.registry import ModelRegistry
from flts_ray.tracking.run import Tracker
from flts_ray.tracking.stale import end_stale, stale_runs
from flts_ray.tracking.sync import sync
from tests.services import FaultProxy, MlflowServer
from tests.tracking.registry_cases import RegistryCases

pytestmark = pytest.mark.service

STEPS = 50


@pytest.fixture(scope="module")
def store(mlflow_server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracker]:
    home = tmp_path_factory.mktemp("home")
    with Tracker(mlflow_server.settings(timeout_s=20), home, home / "runs" / "session") as tracker:
        yield tracker


@pytest.fixture
def registry(store: Tracker, request: pytest.FixtureRequest) -> ModelRegistry:
    return ModelRegistry(store.gateway, request.node.name)


@pytest.fixture
def proxy(mlflow_server: MlflowServer) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", mlflow_server.port) as proxy:
        yield proxy


@pytest.fixture
def settings(proxy: FaultProxy, request: pytest.FixtureRequest) -> TrackingSettings:
    """Impatient, through the proxy, with an experiment of the test's own."""
    return TrackingSettings(
        uri=proxy.url, experiment=request.node.name, timeout_s=1, breaker_failures=2, breaker_reset_s=0.3
    )


def stored(store: Tracker, experiment: str) -> dict[str, Any]:
    """Runs of an experiment by key, asked for without the proxy."""
    found = store.gateway.call("read", "get_experiment_by_name", experiment)
    runs = store.gateway.call("read", "search_runs", [found.experiment_id])
    by_key = {run.data.tags["flts.run_key"]: run for run in runs}
    assert len(by_key) == len(runs), "a run was doubled"
    return by_key


def history(store: Tracker, run: Any) -> list[tuple[int, float]]:
    points = store.gateway.call("read", "get_metric_history", run.info.run_id, "val_rmse_bits")
    return sorted((point.step, point.value) for point in points)


EXPECTED = [(step, float(1000 - step)) for step in range(STEPS)]


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
    assert store.flush()
    before = (first.run_id, child.run_id)
    for run_id in before:
        assert store.gateway.call("read", "get_run", run_id).info.status == "KILLED"
    with store.run("over-http") as second, second.child("gru") as again:
        again.log_params({"training": {"epochs": 8}})
        again.log_dataset(name="PobleSec", digest="ab" * 32, source="s3://flts/datasets/abab")
        again.log_bundle(bundle)
        again.log_bytes("plots/loss.png", b"\x89PNG")
    assert store.flush()
    assert (second.run_id, again.run_id) == before
    found = store.gateway.call("read", "get_run", again.run_id)
    assert found.info.status == "FINISHED"
    assert found.inputs.dataset_inputs[0].dataset.name == "PobleSec"
    assert len(store.gateway.call("read", "get_metric_history", again.run_id, "val_rmse_bits")) == 1
    assert set(store.gateway.artifacts(again.run_id)) == {"bundle", "plots"}
    assert not list(tmp_path.glob("mlruns")), "artifacts went to the working directory"
    assert capsys.readouterr().out == ""


@pytest.mark.fault
@pytest.mark.parametrize("mode", ["refuse", "hang", "error", "slow"])
def test_a_faulty_server_delays_records_and_nothing_else(
    store: Tracker,
    proxy: FaultProxy,
    settings: TrackingSettings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    mode: Literal["refuse", "hang", "error", "slow"],
) -> None:
    caplog.set_level(logging.INFO, "flts_ray")
    proxy.set(mode, delay_s=0.2)
    with Tracker(settings, tmp_path, tmp_path / "runs" / "r") as tracker:
        with tracker.run("r") as run, run.child("gru") as child:
            for step in range(STEPS):
                child.log_metrics({"val_rmse_bits": 1000 - step}, step=step)
                if step == STEPS // 2 and mode != "slow":
                    assert not tracker.flush(3), "the fault was there while the run went on"
            child.log_bytes("plots/loss.png", b"\x89PNG")
            child.log_params({"epochs": STEPS})
        if mode != "slow":
            assert tracker.pending > STEPS
            proxy.set("pass")
        assert tracker.flush(30)
    runs = stored(store, settings.experiment)
    assert {key: run.info.status for key, run in runs.items()} == {"r": "FINISHED", "r/gru": "FINISHED"}
    assert history(store, runs["r/gru"]) == EXPECTED
    assert runs["r/gru"].data.params == {"epochs": str(STEPS)}
    assert store.gateway.artifacts(runs["r/gru"].info.run_id, "plots") == ("plots/loss.png",)
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("tracker_")]
    assert told == ([] if mode == "slow" else ["tracker_down", "tracker_back"])
    assert not (tmp_path / "runs" / "r" / REJECTED_FILE).exists()
    assert Journal(tmp_path / "runs" / "r").settled()


@pytest.mark.fault
def test_connections_cut_at_random_double_nothing(
    store: Tracker, proxy: FaultProxy, settings: TrackingSettings, tmp_path: Path
) -> None:
    """Requests arrive and their answers do not: runs are found again, points are stored once."""
    done = threading.Event()

    def cut() -> None:
        while not done.wait(0.15):
            proxy.set("cut", after_bytes=20)
            done.wait(0.1)
            proxy.set("pass")

    saboteur = threading.Thread(target=cut)
    saboteur.start()
    try:
        with Tracker(settings, tmp_path, tmp_path / "runs" / "r") as tracker:
            with tracker.run("r") as run, run.child("gru") as child:
                for step in range(STEPS):
                    child.log_metrics({"val_rmse_bits": 1000 - step}, step=step)
                    time.sleep(0.03)
            done.set()
            saboteur.join()
            proxy.set("pass")
            assert tracker.flush(30)
    finally:
        done.set()
        saboteur.join()
    runs = stored(store, settings.experiment)
    assert {key: run.info.status for key, run in runs.items()} == {"r": "FINISHED", "r/gru": "FINISHED"}
    assert history(store, runs["r/gru"]) == EXPECTED


_DRIVER = """
import sys, time
from pathlib import Path
from flts_ray.config import TrackingSettings
from flts_ray.runs import open_run
from flts_ray.tracking.run import Tracker
settings, home = TrackingSettings.model_validate_json(sys.argv[1]), Path(sys.argv[2])
with open_run(home, "digest", "r") as folder, Tracker(settings, home, folder.folder) as tracker:
    with tracker.run("r") as run, run.child("gru") as child:
        for step in range(50):
            child.log_metrics({"val_rmse_bits": 1000 - step}, step=step)
            if step == 25:
                tracker.flush(float(sys.argv[3]))
        print("recorded", flush=True)
        time.sleep(60)
"""


@pytest.mark.fault
def test_a_killed_driver_loses_nothing_and_leaves_no_run_running(
    store: Tracker, proxy: FaultProxy, settings: TrackingSettings, tmp_path: Path
) -> None:
    proxy.set("pass")
    command = [sys.executable, "-c", _DRIVER, settings.model_dump_json(), str(tmp_path), "20"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "recorded\n"
        assert {run.info.status for run in stored(store, settings.experiment).values()} == {"RUNNING"}
        assert stale_runs(settings, tmp_path) == []
        proxy.set("refuse")
        driver.send_signal(signal.SIGKILL)
    proxy.set("pass")
    assert {run.run_key for run in stale_runs(settings, tmp_path)} == {"r", "r/gru"}
    report = sync(settings, tmp_path)
    assert (report.closed, report.synced, report.pending, report.rejected) == (["r"], ["r"], 0, 0)
    runs = stored(store, settings.experiment)
    assert {key: run.info.status for key, run in runs.items()} == {"r": "KILLED", "r/gru": "KILLED"}
    assert history(store, runs["r/gru"]) == EXPECTED
    assert stale_runs(settings, tmp_path) == []


@pytest.mark.fault
def test_a_hanging_server_does_not_keep_the_process(
    store: Tracker, proxy: FaultProxy, settings: TrackingSettings, tmp_path: Path
) -> None:
    """SIGTERM style: the block is left by SystemExit while a call hangs for much longer than the run may."""
    proxy.set("hang")
    slow = settings.model_copy(update={"timeout_s": 60.0})
    driver = _DRIVER.replace("time.sleep(60)", "raise SystemExit(143)")
    command = [sys.executable, "-c", driver, slow.model_dump_json(), str(tmp_path), "0.1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert (done.returncode, done.stdout) == (143, "recorded\n")
    proxy.set("pass")
    report = sync(settings, tmp_path)
    assert (report.closed, report.synced, report.pending) == ([], ["r"], 0)
    assert {run.info.status for run in stored(store, settings.experiment).values()} == {"KILLED"}


def test_a_run_without_a_journal_is_ended_by_hand(store: Tracker, settings: TrackingSettings, tmp_path: Path) -> None:
    (tmp_path / "runs" / "lost").mkdir(parents=True)
    gateway = Gateway(settings, tmp_path)
    run_id = gateway.create_run(gateway.experiment_id(), "lost", {"flts.run_key": "lost"}, 1_700_000_000_000)
    found = stale_runs(settings, tmp_path)
    assert [run.run_id for run in found] == [run_id]
    end_stale(settings, tmp_path, found)
    assert {run.info.status for run in stored(store, settings.experiment).values()} == {"KILLED"}


@pytest.mark.fault
def test_a_registry_behind_a_server_that_is_down_is_a_sentence(proxy: FaultProxy, settings: TrackingSettings) -> None:
    proxy.set("error", status=500)
    registry = ModelRegistry(Gateway(settings, Path("unused")), "PobleSec")
    with pytest.raises(TrackingError, match=r"Could not look up champion .* Check that the store is up"):
        registry.champion()
