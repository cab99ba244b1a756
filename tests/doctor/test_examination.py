"""The whole examination where no server is needed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flts_ray.doctor import document, examine, exit_code
from flts_ray.doctor.findings import run_checks
from flts_ray.doctor.storage import storage_checks
from flts_ray.doctor.tracking import tracking_checks
from tests.doctor.findings import named, resolved, unwell
from tests.services import FaultProxy, free_ports

pytestmark = pytest.mark.unit


def test_a_place_where_nothing_ran_yet_is_well_and_stays_empty(tmp_path: Path) -> None:
    found = examine(resolved(run__home=str(tmp_path / "home")), fix=True)
    assert unwell(found) == []
    assert list(tmp_path.iterdir()) == []


def test_dead_servers_are_named_and_nothing_waits_for_them(tmp_path: Path) -> None:
    dead = f"http://127.0.0.1:{free_ports(1)[0]}"
    with FaultProxy("127.0.0.1", 1) as proxy:
        proxy.set("error", status=500)
        settings = resolved(
            run__home=str(tmp_path / "home"), storage__root="s3://flts/store", storage__endpoint_url=dead,
            tracking__uri=proxy.url,
        )  # fmt: skip
        found = examine(settings, fix=True)
    assert named(found, "store: server").detail == "does not answer (Connection refused)"
    assert named(found, "tracker: server").detail == "answers 500"
    for check in ("store: rights", "datasets", "tracker: artifacts", "runs that never end"):
        assert named(found, check).state == "skipped"
    assert named(found, "configuration").state == "ok"
    assert exit_code(found) == 1
    told = json.loads(json.dumps(document(found)))
    assert (told["exit_code"], len(told["findings"])) == (1, len(found))
    assert set(told["findings"][0]) == {"check", "place", "state", "detail", "remedy"}


def test_a_folder_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    checks = storage_checks(resolved(storage__root=str(tmp_path / "file" / "store")).settings)
    assert "is a file" in named(run_checks([checks]), "store").detail


def test_a_damaged_database(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"SQLite format 3\x00" + b"\xff" * 4096)
    found = run_checks([tracking_checks(resolved(run__home=str(tmp_path)).settings)])
    assert named(found, "tracker: database").state == "trouble"
    assert named(found, "tracker: experiment").state == "skipped"
