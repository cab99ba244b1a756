"""The door to MLflow: which stores are accepted, and how failures read."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from flts_ray.config import TrackingSettings
from flts_ray.errors import ConfigError, TrackingError
from flts_ray.tracking.client import Gateway, configure_process, error_code, tracking_uri
from flts_ray.tracking.run import Tracker
from tests.tracking.conftest import FreshStore

pytestmark = pytest.mark.unit


def test_the_default_store_is_sqlite_under_home(tmp_path: Path) -> None:
    assert tracking_uri(TrackingSettings(), tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"


@pytest.mark.parametrize(
    "uri", ["http://h:5000", "https://h", "sqlite:////a/b.db", "postgresql+psycopg2://u:p@h/db", "mysql://h/db"]
)
def test_servers_and_databases_are_accepted(uri: str, tmp_path: Path) -> None:
    assert tracking_uri(TrackingSettings(uri=uri), tmp_path) == uri


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "file:mlruns", "./mlruns", "/tmp/mlruns", "databricks"])
def test_folders_are_refused_with_the_way_out(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tracking\.uri.*sqlite:///"):
        Tracker(TrackingSettings(uri=uri), tmp_path, tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_configuration_bounds_http_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")
    configure_process(2.5)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "3"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"


def test_a_server_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(TrackingError, match=rf"Could not .* http://127\.0\.0\.1:{port}.* Check that the store is up"):
        Gateway(TrackingSettings(uri=f"http://127.0.0.1:{port}", timeout_s=1), tmp_path).experiment_id()


def test_a_server_that_never_answers_is_given_up_on(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        failure: list[Exception] = []

        def connect() -> None:
            try:
                Gateway(TrackingSettings(uri=uri, timeout_s=1), tmp_path).experiment_id()
            except TrackingError as exc:
                failure.append(exc)

        thread = threading.Thread(target=connect, daemon=True)
        thread.start()
        thread.join(timeout=60)  # MLflow's own limit would be many minutes
        assert not thread.is_alive()
    assert "Could not look up experiment" in str(failure[0])


def test_a_file_that_is_no_database_is_a_tracking_error(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is not a database, whatever its name says " * 40)
    with pytest.raises(TrackingError, match="Could not open the tracking store"):
        Gateway(TrackingSettings(), tmp_path).experiment_id()


def test_codes_of_mlflow_stay_readable(tracker: Tracker) -> None:
    with pytest.raises(TrackingError) as caught:
        tracker.gateway.call("fetch run nope", "get_run", "nope")
    assert error_code(caught.value) == "RESOURCE_DOES_NOT_EXIST"
    assert error_code(TrackingError("no cause")) == ""


def test_a_deleted_experiment_is_named(tracker: Tracker, tmp_path: Path) -> None:
    settings = TrackingSettings(uri=tracker.uri, experiment="to-delete")
    gone = Gateway(settings, tmp_path)
    gone.call("delete", "delete_experiment", gone.experiment_id())
    with pytest.raises(TrackingError, match=r"'to-delete'.*is deleted: restore it"):
        gone.experiment_id()


def test_an_experiment_made_by_someone_else_meanwhile_is_used(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = tracker.gateway.experiment_id()
    real, missed = Gateway.call, []

    def call(self: Gateway, doing: str, method: str, /, *args: object, **kwargs: object) -> object:
        if method == "get_experiment_by_name" and not missed:
            missed.append(True)
            return None
        return real(self, doing, method, *args, **kwargs)

    monkeypatch.setattr(Gateway, "call", call)
    assert tracker.gateway.experiment_id() == known


def test_a_server_that_trickles_is_given_up_on(tmp_path: Path) -> None:
    """Each byte starts the socket's own limit anew; the call's limit holds all the same."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def trickle() -> None:
            client, _ = listener.accept()
            with client, suppress(OSError):
                while client.send(b"H") and not done.wait(0.1):
                    pass

        done = threading.Event()
        thread = threading.Thread(target=trickle, daemon=True)
        thread.start()
        gateway = Gateway(TrackingSettings(uri=f"http://127.0.0.1:{listener.getsockname()[1]}"), tmp_path)
        gateway._limit_s = 0.5
        with pytest.raises(TrackingError, match=r"no answer within 0\.5 s"):
            gateway.experiment_id()
        done.set()
        thread.join(5)


def test_a_server_that_does_not_know_its_name_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Gateway) -> None:
        raise RuntimeError("error code 403 != 200. Response body: 'Invalid Host header - possible DNS rebinding'")

    monkeypatch.setattr(Gateway, "_open", refuse)
    with pytest.raises(TrackingError, match=r"start it with --allowed-hosts 'mlflow:5000'"):
        Gateway(TrackingSettings(uri="http://u:p@mlflow:5000"), tmp_path).experiment_id()


def test_importing_the_package_does_not_import_mlflow() -> None:
    code = "import sys, flts_ray.tracking.run, flts_ray.tracking.registry; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_new_store_is_made_in_silence(fresh_store: FreshStore) -> None:
    assert (fresh_store.stdout, fresh_store.stderr) == ("", "")
    assert (fresh_store.home / "mlflow.db").exists()


def test_processes_that_open_a_fresh_store_at_once_all_find_its_tables(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from flts_ray.config import TrackingSettings;"
        "from flts_ray.tracking.client import Gateway;"
        "print(Gateway(TrackingSettings(), Path(sys.argv[1])).experiment_id())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "home")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    opened = [subprocess.Popen(command, **pipes) for _ in range(3)]
    answers = [process.communicate(timeout=120) for process in opened]
    assert [process.returncode for process in opened] == [0, 0, 0], answers
    assert len({out for out, _ in answers}) == 1
