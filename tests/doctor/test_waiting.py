"""Waiting for what a run needs: it ends when all of it answers, or says what is missing when the time is over."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import pytest

from flts_ray.config import Settings
from flts_ray.data.sample_data import write_sample_data
from flts_ray.doctor import examine, exit_code, wait_for_services
from flts_ray.runs import open_run
from tests.doctor.findings import named, resolved, unwell
from tests.services import MlflowServer, S3Server, free_ports


def told(caplog: pytest.LogCaptureFixture, event: str) -> list[tuple[str, ...]]:
    """What events of this name said was missing."""
    records = [record for record in caplog.records if record.getMessage() == event]
    return [getattr(record, "fields", {}).get("missing", ()) for record in records]


def on_s3(s3: S3Server, tracker_uri: str, home: Path, bucket: str) -> Settings:
    """Settings of a pod in a cluster."""
    return resolved(
        run__home=str(home), storage__root=f"s3://{bucket}/store", storage__endpoint_url=s3.endpoint_url,
        tracking__uri=tracker_uri, data__train=f"s3://{bucket}/in/train",
    ).settings  # fmt: skip


@pytest.mark.unit
def test_it_goes_on_as_soon_as_the_sources_are_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    here = tmp_path / "in"
    settings = resolved(run__home=str(tmp_path / "home"), data__train=f"{here}/train", data__test=f"{here}/test")
    looks = itertools.count(1)

    def sleep(seconds: float) -> None:
        if next(looks) == 3:
            write_sample_data(here, stations=("a",), days=2)

    found = wait_for_services(settings.settings, 1e6, sleep=sleep)
    assert (exit_code(found), next(looks)) == (0, 4)
    assert named(found, "sources: test").detail == "1 file"
    (missing,) = told(caplog, "services_awaited")  # the same is not said at every look
    assert [text.partition(" (")[0] for text in missing] == ["sources: train", "sources: test"]
    assert told(caplog, "services_answer") == [()]


@pytest.mark.unit
def test_it_ends_with_what_is_missing_when_the_time_is_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dead = f"http://127.0.0.1:{free_ports(1)[0]}"
    settings = resolved(
        run__home=str(tmp_path), storage__root="s3://flts/store", storage__endpoint_url=dead, tracking__uri=dead
    ).settings
    found = wait_for_services(settings, 0.0, sleep=lambda _: pytest.fail("there is no time left to sleep"))
    assert exit_code(found) == 1
    (missing,) = told(caplog, "services_missing")
    assert ["server (" in text and "Connection refused" in text for text in missing] == [True, True]


@pytest.mark.unit
def test_the_doctor_looks_at_sources_that_are_set(tmp_path: Path) -> None:
    home = {"run__home": str(tmp_path / "home")}
    assert not [finding for finding in examine(resolved(**home)) if finding.check.startswith("sources")]
    found = named(examine(resolved(**home, data__train=str(tmp_path / "*.csv"))), "sources: train")
    assert (found.state, str(tmp_path) in found.detail) == ("trouble", True)


@pytest.mark.service
def test_a_cluster_that_comes_up_bit_by_bit(
    s3_server: S3Server, mlflow_server: MlflowServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bucket = "coming-up"
    settings = on_s3(s3_server, mlflow_server.uri, tmp_path / "home", bucket)
    with open_run(tmp_path / "home", "cut off before") as before:
        (before.folder / "journal.jsonl").write_text('{"op": "never delivered"}\n')
    looks = itertools.count(1)

    def sleep(seconds: float) -> None:
        if next(looks) == 1:
            s3_server.make_bucket(bucket)
        else:
            write_sample_data(f"s3://{bucket}/in", storage=settings.storage, stations=("a",), days=2)

    found = wait_for_services(settings, 1e6, sleep=sleep)
    assert unwell(found) == []
    assert named(found, "store: rights").state == named(found, "tracker: artifacts").state == "ok"
    first, second = told(caplog, "services_awaited")
    assert ["bucket 'coming-up' does not exist" in " ".join(first), len(second)] == [True, 1]
