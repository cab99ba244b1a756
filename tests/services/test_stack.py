"""The servers that ``make services`` starts: the pipeline runs on them as it does on its embedded default."""

from __future__ import annotations

import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from flts_ray.config import StorageSettings, TrackingSettings
from flts_ray.data.storage import Store
from flts_ray.tracking.client import Gateway
from tests.helpers import REPOSITORY, Answer, clean_environment, flts, sets, write_stations
from tests.services import why_no_postgres
from tests.services.stack import running_stack

pytestmark = [pytest.mark.service, pytest.mark.timeout(600)]

SETTINGS = {"candidates": "[gru]", "training.epochs": 1, "recurrent.hidden_size": 8, "run.num_cpus": 2}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """The command itself in the background: its folder, and the variables that its file sets."""
    if reason := why_no_postgres():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("with space") / ".services"
    command = [sys.executable, "-m", "tests.services", "--folder", str(folder)]
    output = folder.parent / "output"
    with output.open("wb") as log:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=clean_environment(), stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 180
        while "Ctrl-C" not in output.read_text():
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.2)
        lines = (folder / "services.env").read_text().splitlines()
        yield folder, {name: shlex.split(value)[0] for name, _, value in (line.partition("=") for line in lines)}
        members = psutil.Process(process.pid).children(recursive=True)
        assert len(members) >= 3
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert output.read_text().endswith("stopped\n")
        assert not [member for member in members if member.is_running() and member.status() != psutil.STATUS_ZOMBIE]
        assert not (folder / "services.env").exists()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@pytest.fixture
def client(services: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A process with the file's variables."""
    for name, value in services[1].items():
        monkeypatch.setenv(name, value)
    return services[1]


def test_nobody_else_reads_the_credentials(services: tuple[Path, dict[str, str]]) -> None:
    folder, variables = services
    assert stat.S_IMODE((folder / "services.env").stat().st_mode) == 0o600
    secrets = [variables["AWS_SECRET_ACCESS_KEY"], variables["PGPASSWORD"]]
    assert all(len(secret) >= 32 for secret in secrets)
    commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert not [secret for secret in secrets if any(secret in command for command in commands)]


def test_a_folder_has_one_set_of_servers(services: tuple[Path, dict[str, str]]) -> None:
    with pytest.raises(RuntimeError, match="already"), running_stack(services[0]):
        pass


def test_a_folder_of_something_else_stays_untouched(tmp_path: Path) -> None:
    if why_no_postgres():
        pytest.skip(why_no_postgres())
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RuntimeError, match="something else"), running_stack(tmp_path):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def scores(answer: Answer) -> list[dict[str, Any]]:
    assert answer.code in (0, 30), answer.err[-3000:]
    return [{k: v for k, v in row.items() if k not in ("fit_s", "predict_s")} for row in answer.document["leaderboard"]]


@pytest.mark.long
def test_the_pipeline_gives_the_same_on_real_servers(client: dict[str, str], tmp_path: Path) -> None:
    train, test = write_stations(tmp_path, ("alpha",))
    command = ["run", "--json", "--train", train, "--test", test, *sets(SETTINGS)]
    embedded = flts(*command, "--home", str(tmp_path / "embedded"), cwd=tmp_path)
    served = flts(*command, "--home", str(tmp_path / "served"), cwd=tmp_path, env=client)
    assert scores(served) == scores(embedded)
    for same in ("dataset_id", "verdict"):
        assert served.document[same] == embedded.document[same]
    objects = StorageSettings(endpoint_url=client["FLTS_STORAGE__ENDPOINT_URL"])
    assert f"datasets/{served.document['dataset_id']}/claim.json" in Store("s3://flts/store", objects).list()
    artifacts = {Path(file).name for file in Store("s3://mlflow/artifacts", objects).list()}
    assert {"bundle.json", "weights.safetensors", "report.html"} <= artifacts
    gateway = Gateway(TrackingSettings(uri=client["FLTS_TRACKING__URI"], timeout_s=20), tmp_path)
    runs = gateway.find_runs(gateway.experiment_id(), "")
    assert {run.status for run in runs} == {"FINISHED"}
    assert len(runs) == 2
    secrets = [client["AWS_SECRET_ACCESS_KEY"].encode(), client["PGPASSWORD"].encode()]
    written = [file for file in (tmp_path / "served").rglob("*") if file.is_file()]
    assert written
    assert not [file for file in written for secret in secrets if secret in file.read_bytes()]
    assert not os.path.lexists(tmp_path / "served" / "mlflow.db")
