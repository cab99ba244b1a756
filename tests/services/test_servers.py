"""The servers that other tests rely on do what their names say."""

from __future__ import annotations

import dataclasses
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from flts_ray.data.storage import Store
from flts_ray.errors import StorageError
from flts_ray.tracking.client import Gateway
from flts_ray.tracking.run import Tracker
from tests.services import FaultProxy, MlflowServer, Postgres, S3Server
from tests.services.processes import ServerProcess

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, s3_credentials: dict[str, str]) -> Iterator[S3Server]:
    """A server that these tests may break."""
    server = S3Server(
        tmp_path_factory.mktemp("own-s3"),
        access_key=s3_credentials["AWS_ACCESS_KEY_ID"],
        secret_key=s3_credentials["AWS_SECRET_ACCESS_KEY"],
    )
    server.start()
    server.make_bucket("flts")
    yield server
    server.stop()


def test_buckets_are_made_once(own: S3Server) -> None:
    own.make_bucket("flts")
    assert {"flts", "probe"} <= set(own.buckets())


def test_a_full_disk_reads_and_refuses_to_write_and_restarts_keep_everything(own: S3Server) -> None:
    store, port = Store("s3://flts/full", own.settings(3, 3)), own.port
    store.write_bytes("x", b"kept")
    own.restart(full=True)
    try:
        assert (own.port, store.read_bytes("x")) == (port, b"kept")
        with pytest.raises(StorageError):
            store.write_bytes("y", b"no room" * 1000)
    finally:
        own.restart()
    store.write_bytes("y", b"room")
    assert store.read_bytes("x") == b"kept"


def test_credentials_can_be_refused_for_a_while(own: S3Server) -> None:
    store = Store("s3://flts/rights", own.settings(3, 3))
    store.write_bytes("x", b"x")
    own.revoke()
    with pytest.raises(StorageError):
        store.read_bytes("x")
    own.restore()
    assert store.read_bytes("x") == b"x"


def test_known_credentials_without_rights(own: S3Server) -> None:
    key, secret = own.rightless
    stranger = dataclasses.replace(own, access_key=key, secret_key=secret, _process=None)
    with pytest.raises(ClientError, match="AccessDenied"):
        stranger.buckets() or stranger.make_bucket("other")
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        dataclasses.replace(own, secret_key="wrong", _process=None).make_bucket("other")


def test_a_signed_request_passes_the_proxy(own: S3Server) -> None:
    with FaultProxy("127.0.0.1", own.port) as proxy:
        settings = own.settings(3, 3).model_copy(update={"endpoint_url": proxy.url})
        store = Store("s3://flts/proxied", settings)
        store.write_bytes("x", b"x" * 10_000_000)
        assert store.read_bytes("x") == b"x" * 10_000_000
        assert proxy.requests >= 2
        proxy.set("refuse")
        with pytest.raises(StorageError):
            store.read_bytes("x")


def test_a_frozen_server_thaws(own: S3Server) -> None:
    own.pause()
    try:
        with pytest.raises(OSError, match="timed out"):
            urllib.request.urlopen(own.endpoint_url, timeout=0.3)
    finally:
        own.resume()
    assert "flts" in own.buckets()


def test_runs_survive_the_death_of_server_and_database(
    mlflow_server: MlflowServer, postgres: Postgres, s3_server: S3Server, tmp_path: Path
) -> None:
    settings = mlflow_server.settings(30)
    with Tracker(settings, tmp_path, tmp_path / "runs" / "services") as tracker, tracker.run("services") as run:
        run.log_metrics({"loss": 1.0})
        run.log_text("note.txt", "kept")
        assert tracker.flush(60)
        run_id = run.run_id
    mlflow_server.kill()
    postgres.kill()
    assert not mlflow_server.answers()
    postgres.start()
    mlflow_server.start()
    stored = Gateway(settings, tmp_path).call("read", "get_run", run_id)
    assert (stored.info.status, stored.data.metrics) == ("FINISHED", {"loss": 1.0})
    files = Store("s3://tracker/artifacts", s3_server.settings()).list()
    assert [file for file in files if file.endswith("note.txt")]
    postgres.restart()
    mlflow_server.wait()


def test_a_frozen_tracker_does_not_answer(mlflow_server: MlflowServer) -> None:
    mlflow_server.pause()
    try:
        with pytest.raises(OSError, match="timed out"):
            urllib.request.urlopen(f"{mlflow_server.uri}/health", timeout=0.3)
    finally:
        mlflow_server.resume()
    mlflow_server.wait()


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    process = ServerProcess("nothing", tmp_path / "log")
    with pytest.raises(RuntimeError, match=r"nothing did not start:\nno such luck"):
        process.start(["sh", "-c", "echo no such luck; exit 3"], ready=lambda: False)
    assert not process.running


def test_children_end_with_their_server(tmp_path: Path) -> None:
    process = ServerProcess("parent", tmp_path / "log")
    process.start(["sh", "-c", "sleep 600 & echo $!; wait"], ready=lambda: bool((tmp_path / "log").read_text()))
    child = int((tmp_path / "log").read_text())
    process.kill()
    assert not process.running
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
