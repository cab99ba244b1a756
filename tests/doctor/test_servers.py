"""The doctor on real servers: well when they are, and right about what was broken on purpose."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path
from typing import Any

import pytest

from flts_ray.config_layers import Resolved
from flts_ray.data.claims import DATASETS
from flts_ray.data.storage import Store
from flts_ray.doctor import Finding, examine, exit_code
from flts_ray.runs import open_run
from flts_ray.tracking.client import Gateway, now_ms
from flts_ray.tracking.delivery import HOME, HOST, RUN_KEY
from flts_ray.tracking.run import Tracker
from tests.doctor.findings import named, publish, resolved, unwell
from tests.services import FaultProxy, MlflowServer, S3Server, free_ports

pytestmark = pytest.mark.service


@dataclasses.dataclass(frozen=True)
class Site:
    """A bucket, an experiment and a home of its own on shared servers."""

    home: Path
    objects: S3Server
    tracker: MlflowServer

    def settings(self, **more: Any) -> Resolved:
        given = {
            "run__home": str(self.home),
            "storage__root": "s3://doctor/store",
            "storage__endpoint_url": self.objects.endpoint_url,
            "tracking__uri": self.tracker.uri,
            "tracking__experiment": self.home.parent.name,
            "tracking__timeout_s": 20,
        }
        return resolved(**{**given, **more})

    def look(self, *, fix: bool = False, deep: bool = False, **more: Any) -> list[Finding]:
        return examine(self.settings(**more), fix=fix, deep=deep)

    @property
    def gateway(self) -> Gateway:
        return Gateway(self.settings().settings.tracking, self.home)

    @property
    def store(self) -> Store:
        return Store("s3://doctor/store", self.objects.settings())


@pytest.fixture
def site(s3_server: S3Server, mlflow_server: MlflowServer, tmp_path: Path) -> Site:
    s3_server.make_bucket("doctor")
    site = Site(tmp_path / "home", s3_server, mlflow_server)
    site.store.delete(DATASETS)
    return site


def test_healthy_servers(site: Site, tmp_path: Path) -> None:
    publish(site.store, tmp_path)
    site.gateway.experiment_id()
    before, artifacts = site.store.list(hidden=True), Store("s3://tracker/artifacts", site.objects.settings())
    kept = artifacts.list(hidden=True)
    found = site.look(deep=True)
    assert unwell(found) == []
    assert [finding.check for finding in found if finding.state == "skipped"] == []
    assert named(found, "datasets").detail == "1 datasets, 2 files, every byte as claimed"
    assert "can create, create only once, read, replace, list, delete" in named(found, "store: rights").detail
    assert site.store.list(hidden=True) == before, "probes are removed"
    assert artifacts.list(hidden=True) == kept


def test_a_bucket_that_is_missing_is_not_made(site: Site) -> None:
    buckets = site.objects.buckets()
    missing = site.look(storage__root="s3://doctor-typo/store")
    assert named(missing, "store: bucket").state == "trouble"
    assert "doctor-typo" in named(missing, "store: bucket").detail
    assert named(missing, "store: rights").state == "skipped"
    later = site.look(storage__root="s3://doctor-typo/store", storage__create_bucket=True, fix=True)
    assert named(later, "store: bucket").state == "ok"
    assert site.objects.buckets() == buckets


def test_credentials_that_are_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-and-secret")
    wrong = named(site.look(storage__timeout_s=4.1), "store: bucket")  # a client of its own
    assert wrong.state == "trouble"
    assert "wrong-and-secret" not in str(wrong)
    for name, value in site.objects.rightless_environment.items():
        monkeypatch.setenv(name, value)
    assert named(site.look(storage__timeout_s=4.2), "store: bucket").state == "trouble"
    for name in site.objects.environment:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    none = named(site.look(storage__timeout_s=4.3), "store: bucket")
    assert "no credentials" in none.detail


def test_servers_that_are_away(site: Site) -> None:
    with FaultProxy("127.0.0.1", site.objects.port) as objects, FaultProxy("127.0.0.1", site.tracker.port) as tracker:
        places = {"storage__endpoint_url": objects.url, "tracking__uri": tracker.url}
        assert unwell(site.look(**places)) == []
        for mode in ("refuse", "hang", "error"):
            objects.set(mode)
            tracker.set(mode)
            found = site.look(**places)
            assert named(found, "store: server").state == "trouble", mode
            assert named(found, "tracker: server").state == "trouble", mode
            assert exit_code(found) == 1


def test_an_experiment_that_was_deleted(site: Site) -> None:
    gateway = site.gateway
    number = gateway.experiment_id()
    gateway.call("delete", "delete_experiment", number)
    found = named(site.look(), "tracker: experiment")
    assert found.state == "trouble"
    assert f"restore -x {number}" in found.remedy


def test_a_tracker_that_cannot_store_files(site: Site) -> None:
    site.gateway.experiment_id()
    site.objects.revoke()
    try:
        found = site.look()
    finally:
        site.objects.restore()
    assert named(found, "tracker: artifacts").state == "trouble"
    assert named(found, "tracker: server").state == "ok"
    assert named(found, "store: bucket").state == "trouble"


def status_of(site: Site, run_id: str) -> str:
    return str(site.gateway.call("read", "get_run", run_id).info.status)


def test_runs_that_never_end(site: Site) -> None:
    gateway = site.gateway
    with open_run(site.home, "at work") as alive, open_run(site.home, "dead") as dead:
        pass
    ids = {}
    for key in (dead.run_id, f"{dead.run_id}/gru"):
        tags = {RUN_KEY: key, HOST: socket.gethostname(), HOME: str(site.home)}
        ids[key] = gateway.create_run(gateway.experiment_id(), key, tags, now_ms())
    with open_run(site.home, "at work") as alive:
        tags = {RUN_KEY: alive.run_id, HOST: socket.gethostname(), HOME: str(site.home)}
        busy = gateway.create_run(gateway.experiment_id(), alive.run_id, tags, now_ms())
        found = named(site.look(), "runs that never end")
        assert (found.state, found.remedy) == ("trouble", "flts doctor --fix")
        assert all(key in found.detail for key in ids)
        assert alive.run_id not in found.detail
        assert named(site.look(fix=True), "runs that never end").state == "fixed"
        assert {status_of(site, run_id) for run_id in ids.values()} == {"KILLED"}
        assert status_of(site, busy) == "RUNNING"
        assert named(site.look(), "runs that never end").state == "ok"
    gateway.end_run(busy, "FINISHED", now_ms())


def test_records_that_never_arrived(site: Site) -> None:
    away = site.settings(tracking__uri=f"http://127.0.0.1:{free_ports(1)[0]}", tracking__flush_timeout_s=0.2)
    with (
        open_run(site.home, "digest") as run,
        Tracker(away.settings.tracking, site.home, run.folder) as tracker,
        tracker.run(run.run_id) as tracked,
    ):
        tracked.log_metrics({"loss": 0.5})
    assert named(site.look(), "undelivered records").state == "trouble"
    assert named(site.look(fix=True), "undelivered records").state == "fixed"
    assert unwell(site.look()) == []
    gateway = site.gateway
    (stored,) = gateway.find_runs(gateway.experiment_id(), f"tags.`{RUN_KEY}` = '{run.run_id}'")
    assert stored.status == "FINISHED"


def test_half_written_datasets(site: Site, tmp_path: Path) -> None:
    publish(site.store, tmp_path)
    whole = site.store.list(hidden=True)
    site.store.write_bytes(f"{DATASETS}/.unfinished-{'0' * 16}/train/alpha.parquet", b"half")
    states = [f.state for f in site.look() if f.check == "half-written files"]
    assert states == ["trouble", "ok"], "in the bucket, and not in the home"
    states = [f.state for f in site.look(fix=True) if f.check == "half-written files"]
    assert states == ["fixed", "ok"]
    left = [path for path in site.store.list(hidden=True) if not path.startswith(".locks/")]
    assert left == [path for path in whole if not path.startswith(".locks/")]
    assert unwell(site.look()) == []
