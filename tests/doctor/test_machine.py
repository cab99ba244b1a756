"""Versions, processors, cluster, configuration."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from flts_ray.config_layers import Resolved, load_settings
from flts_ray.doctor.configuration import configuration_checks
from flts_ray.doctor.findings import Check, Finding, Report, run_checks
from flts_ray.doctor.machine import check_versions, machine_checks
from tests.doctor.findings import named, resolved
from tests.services import free_ports

pytestmark = pytest.mark.unit


def machine(**settings: object) -> list[Finding]:
    return run_checks([machine_checks(resolved(**settings).settings)])


def versions(*requirements: str) -> list[Finding]:
    return run_checks([[Check(name="versions", place="", run=lambda report: check_versions(report, requirements))]])


def test_what_is_installed_here_will_do() -> None:
    found = named(machine(), "versions")
    assert found.state == "ok"
    for name in ("ray 2", "torch 2", "mlflow 3", "pyarrow 2"):
        assert name in found.detail


def test_another_version_is_told_from_none() -> None:
    other, none = versions("numpy>=99", "no-such-thing-at-all", "numpy>=1", 'nor-this; extra == "dev"')
    assert (other.state, none.state) == ("warning", "trouble")
    assert ">=99 is asked for" in other.detail
    assert "no-such-thing-at-all is not installed" in none.detail


def test_workers_that_do_not_fit() -> None:
    fits = named(machine(run__num_cpus=1), "processors")
    crowded = named(machine(run__num_cpus=1, training__workers=2), "processors")
    assert (fits.state, crowded.state) == ("ok", "trouble")
    assert "2 workers of 1 CPUs each do not fit on 1" in crowded.detail


def test_a_cluster_that_is_there_and_one_that_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert named(machine(run__ray_address=address), "cluster").state == "ok"
        assert named(machine(run__ray_address=f"ray://{address}"), "cluster").state == "ok"
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_ports(1)[0]}")
    gone = named(machine(), "cluster")
    assert (gone.state, "nobody answers" in gone.detail) == ("trouble", True)
    assert named(machine(run__ray_address="auto"), "cluster").state == "skipped"
    assert named(machine(run__ray_address="host:many"), "cluster").state == "trouble"


def test_room_is_told_of_a_home_that_is_not_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk() -> Finding:
        return named(machine(run__home=str(tmp_path / "not" / "yet")), "disk")

    roomy = disk()
    assert "GiB free" in roomy.detail
    usage = os.statvfs(tmp_path)
    full = os.statvfs_result((*usage[:4], 0, *usage[5:]))
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    assert disk().state == "trouble"


def configuration(found: Resolved) -> Finding:
    return named(run_checks([configuration_checks(found)]), "configuration")


def test_sampling_that_is_set_twice(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("sampling: {train_rows: 500}\ntraining: {epochs: 3}\n")
    once = configuration(load_settings(file=file, environ={"FLTS_TRAINING__EPOCHS": "2"}))
    both = configuration(load_settings(file=file, environ={"SAMPLE_TRAIN_ROWS": "100"}))
    assert once.state == "ok"
    assert both.state == "warning"
    for part in ("sampling.train_rows", f"file {file} says 500", "what counts is 100", "SAMPLE_TRAIN_ROWS"):
        assert part in both.detail


def test_a_report_keeps_what_it_was_told() -> None:
    report = Report("a", "b")
    assert not report.troubled
    report.trouble("c", "d")
    assert report.troubled
