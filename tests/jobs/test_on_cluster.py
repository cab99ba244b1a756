"""Jobs on a real head that asks for a token, submitted by Ray's own command line and by ``flts submit``."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.helpers import FLTS, REPOSITORY, Answer, clean_environment, flts, write_stations
from tests.jobs.head import RayHead, ray

pytestmark = [pytest.mark.ray, pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    found = RayHead()
    found.start()
    yield found
    found.stop()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return write_stations(tmp_path_factory.mktemp("sources"), ("A",), train=300, test=80)


def submit(head: RayHead, *arguments: str, cwd: Path, **extra: str) -> Answer:
    return flts("submit", *arguments, cwd=cwd, env={**head.environment, **extra})


def test_a_plain_submission_from_the_checkout(head: RayHead, sources: tuple[str, str], tmp_path: Path) -> None:
    code, said = ray(
        head, "job", "submit", "--working-dir", str(REPOSITORY), "--",
        "python", "-m", "jobs.preprocess", "--home", str(tmp_path), "--train", sources[0], "--test", sources[1],
    )  # fmt: skip
    assert code == 0, said
    (dataset,) = (tmp_path / "datasets").iterdir()
    assert f'"dataset_id": "{dataset.name}"' in said


def test_a_job_fails_with_its_own_code_and_goes_on_under_its_name(
    head: RayHead, sources: tuple[str, str], tmp_path: Path
) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("scaling: {scaler: minmax}\n")
    late = tmp_path / "late" / "A.csv"
    arguments = ("preprocess", "--submission-id", "late", "--config", str(config))
    arguments += ("--home", str(tmp_path / "home"), "--train", str(late))

    failed = submit(head, *arguments, cwd=tmp_path, SCALER="robust", MLFLOW_TRACKING_URI="http://nowhere")
    assert failed.code == 18
    *_, reason = failed.err.splitlines()
    assert reason.startswith(f"error: job late ended with exit code 18: the source {late} does not exist")
    assert "set here and not sent along: MLFLOW_TRACKING_URI, SCALER" in failed.err
    assert failed.out == ""

    late.parent.mkdir()
    late.write_bytes((Path(sources[0]) / "A.csv").read_bytes())
    again = submit(head, *arguments, cwd=tmp_path)
    assert again.code == 0, again.err
    assert "late has failed before" in again.err
    assert "does not exist" not in again.err  # what the first attempt said is in the same log
    assert f"dashboard: {head.address}/#/jobs/late" in again.err

    once_more = submit(head, *arguments, cwd=tmp_path)
    assert (once_more.code, once_more.document) == (0, again.document)
    assert "nothing is run again" in once_more.err
    assert submit(head, *arguments, "--force", cwd=tmp_path).code == 2

    code, listed = ray(head, "job", "list")
    assert code == 0
    assert f"'config_hash': '{again.document['config_hash']}'" in listed
    assert head.token_file.read_text() not in listed


@pytest.mark.timeout(600)
@pytest.mark.long
def test_every_job_does_its_step(head: RayHead, sources: tuple[str, str], tmp_path: Path) -> None:
    home = ("--home", str(tmp_path / "home"))
    small = tuple(
        part
        for setting in ("candidates=gru", "training.epochs=2", "recurrent.hidden_size=8", "tune.cells=gru")
        for part in ("--set", setting)
    )
    files = ("--train", sources[0], "--test", sources[1])
    claim = submit(head, "preprocess", *home, *small, *files, cwd=tmp_path)
    assert claim.code == 0, claim.err
    dataset = ("--dataset", claim.document["dataset_id"])

    trained = submit(head, "train", *home, *small, *dataset, cwd=tmp_path)
    assert trained.code == 0, trained.err
    assert list(trained.document["candidates"]) == ["gru"]
    evaluated = submit(head, "evaluate", "--submission-id", "judged", *home, *small, *dataset, cwd=tmp_path)
    assert evaluated.code in (0, 30), evaluated.err
    assert (tmp_path / "home/runs/judged/report.html").exists()
    small += ("--set", "promotion.allow_sampled=true", "--set", "tune.trials=2")
    tuned = submit(head, "tune", *home, *small, *dataset, cwd=tmp_path)
    assert tuned.code in (0, 30), tuned.err
    assert {"gru", "tuned"} <= {row["model"] for row in tuned.document["leaderboard"]}

    forecast = ("forecast", *home, "--input", sources[1], "--output", str(tmp_path / "forecasts"))
    written = submit(head, *forecast, cwd=tmp_path)
    if "promoted" in (evaluated.document["verdict"]["state"], tuned.document["verdict"]["state"]):
        assert written.code == 0, written.err
        assert list((tmp_path / "forecasts").rglob("*.parquet"))
    else:
        assert written.code != 0
        assert written.err.splitlines()[-1].startswith("error: job ")


def test_whoever_stops_the_submitter_stops_the_job(head: RayHead, sources: tuple[str, str], tmp_path: Path) -> None:
    settings = ("candidates=gru", "training.epochs=5000", "training.early_stopping=false", "windows.lookback=8")
    process = subprocess.Popen(
        [*FLTS, "submit", "pipeline", "--submission-id", "long", "--home", str(tmp_path), "--train", sources[0],
         "--test", sources[1], *(part for setting in settings for part in ("--set", setting))],
        cwd=tmp_path, env=clean_environment(head.environment), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if '"tracked"' in line:
            break
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 143, err
    assert "stopping long" in err
    assert out == ""
    assert "was stopped" in ray(head, "job", "status", "long")[1]
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as tracker:  # it had the time to close what it had begun
        assert set(tracker.execute("select status from runs")) == {("KILLED",)}


def test_without_waiting_the_name_is_all(head: RayHead, tmp_path: Path) -> None:
    left = submit(head, "preprocess", "--no-wait", "--submission-id", "left", "--home", "relative", cwd=tmp_path)
    assert (left.code, left.out) == (0, "left\n")
    joined = submit(head, "preprocess", "--submission-id", "left", "--home", "relative", cwd=tmp_path)
    assert joined.code == 2
    assert "run.home is 'relative', which for a job lies in a working directory that Ray removes" in joined.err


def test_without_the_token_nothing_is_told(head: RayHead, tmp_path: Path) -> None:
    refused = submit(head, "preprocess", "--home", "/h", cwd=tmp_path, RAY_AUTH_TOKEN="0" * 64)
    assert refused.code == 52
    assert "Invalid authentication token" in refused.err.splitlines()[-1]
