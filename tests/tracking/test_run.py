"""Runs on the embedded store: how they end, and that retries continue instead of doubling."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from flts_ray.errors import StorageError, TrackingError
from flts_ray.tracking.client import now_ms
from flts_ray.tracking.delivery import ATTEMPT, PARENT, RUN_KEY
from flts_ray.tracking.journal import REJECTED_FILE
from flts_ray.tracking.run import Tracker, flatten

pytestmark = pytest.mark.unit


@pytest.fixture
def client(tracker: Tracker) -> MlflowClient:
    return MlflowClient(tracker.uri)


@pytest.fixture(autouse=True)
def delivered(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask the store only after everything has arrived."""
    real = Tracker.resolve

    def resolve(self: Tracker, run_key: str) -> str:
        assert self.flush()
        return real(self, run_key)

    monkeypatch.setattr(Tracker, "resolve", resolve)


def status(client: MlflowClient, run_id: str) -> str:
    return str(client.get_run(run_id).info.status)


def runs_of(client: MlflowClient, tracker: Tracker, key: str) -> list[Any]:
    return list(client.search_runs([tracker.gateway.experiment_id()], f"tags.`{RUN_KEY}` = '{key}'"))


def refused(tracker: Tracker) -> str:
    """What the store refused for good, so far."""
    file = tracker.folder / REJECTED_FILE
    return file.read_text() if file.exists() else ""


def test_a_run_is_running_inside_and_finished_after(tracker: Tracker, client: MlflowClient) -> None:
    with tracker.run("ends-well", name="shown") as run, run.child("gru") as child:
        assert status(client, run.run_id) == "RUNNING"
        assert status(client, child.run_id) == "RUNNING"
    ended = client.get_run(run.run_id)
    assert ended.info.status == "FINISHED"
    assert ended.info.run_name == "shown"
    assert ended.info.end_time >= ended.info.start_time
    assert status(client, child.run_id) == "FINISHED"
    assert client.get_run(child.run_id).data.tags["mlflow.parentRunId"] == run.run_id


@pytest.mark.parametrize(
    ("raised", "expected"),
    [(ValueError("x"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(143), "KILLED")],
)
def test_status_tells_how_the_body_ended(
    tracker: Tracker, client: MlflowClient, raised: BaseException, expected: str
) -> None:
    key = f"ends-with-{type(raised).__name__}"
    with pytest.raises(type(raised)), tracker.run(key) as run, run.child("gru") as child:
        raise raised
    assert status(client, run.run_id) == expected
    assert status(client, child.run_id) == expected


def test_one_failed_candidate_does_not_fail_the_parent(tracker: Tracker, client: MlflowClient) -> None:
    with tracker.run("one-child-fails") as run:
        with pytest.raises(RuntimeError), run.child("lstm") as bad:
            raise RuntimeError("diverged")
        with run.child("gru") as good:
            pass
    assert [status(client, r.run_id) for r in (run, bad, good)] == ["FINISHED", "FAILED", "FINISHED"]


@pytest.mark.parametrize(("raised", "expected"), [(None, "KILLED"), (RuntimeError("x"), "FAILED")])
def test_a_child_left_by_a_lost_attempt_ends_with_its_parent(
    tracker: Tracker, client: MlflowClient, raised: Exception | None, expected: str
) -> None:
    left = ""
    with suppress(RuntimeError), tracker.run(f"leaves-child-{expected}") as run:
        left = tracker.gateway.create_run(tracker.gateway.experiment_id(), "gru", {PARENT: run.run_id}, now_ms())
        if raised:
            raise raised
    assert tracker.flush()
    assert status(client, left) == expected


def test_a_retry_continues_the_run_and_its_children(tracker: Tracker, client: MlflowClient) -> None:
    with pytest.raises(RuntimeError), tracker.run("retried") as first, first.child("gru") as child:
        raise RuntimeError("worker lost")
    with tracker.run("retried") as second, second.child("gru") as again:
        assert status(client, second.run_id) == "RUNNING"
    assert (second.run_id, again.run_id) == (first.run_id, child.run_id)
    assert [r.info.run_id for r in runs_of(client, tracker, "retried")] == [first.run_id]
    assert len(runs_of(client, tracker, "retried/gru")) == 1
    assert status(client, second.run_id) == "FINISHED"
    assert client.get_run(second.run_id).data.tags[ATTEMPT] == "2"


def test_a_run_cut_off_without_an_end_is_continued(tracker: Tracker, client: MlflowClient) -> None:
    tags = {RUN_KEY: "killed-hard", ATTEMPT: "1"}  # as SIGKILL leaves it
    cut_off = tracker.gateway.create_run(tracker.gateway.experiment_id(), "job", tags, now_ms())
    with tracker.run("killed-hard") as run:
        pass
    assert run.run_id == cut_off
    assert status(client, run.run_id) == "FINISHED"


def test_other_keys_are_other_runs(tracker: Tracker) -> None:
    with tracker.run("key-a") as a, tracker.run("key-b") as b:
        pass
    assert a.run_id != b.run_id


def test_a_key_that_could_change_the_search_is_refused(tracker: Tracker) -> None:
    with pytest.raises(TrackingError, match="cannot be searched"), tracker.run("x' OR tags.a = 'b"):
        pass


def test_metrics_with_their_first_timestamp_are_stored_once(tracker: Tracker, client: MlflowClient) -> None:
    with tracker.run("metrics") as run:
        for _ in range(3):
            run.log_metrics({"val_rmse_bits": 8e7, "windows_per_s": 1234.5}, step=2, at_ms=1_700_000_000_000)
        run.log_metrics({"val_rmse_bits": 7e7}, step=3)
    history = client.get_metric_history(run.run_id, "val_rmse_bits")
    assert [(m.value, m.step) for m in history] == [(8e7, 2), (7e7, 3)]
    assert history[0].timestamp == 1_700_000_000_000


def test_infinity_is_not_stored_as_a_large_number(tracker: Tracker, client: MlflowClient) -> None:
    with tracker.run("diverged") as run:
        run.log_metrics({"train_loss_scaled": math.inf})
    assert math.isnan(client.get_run(run.run_id).data.metrics["train_loss_scaled"])


def test_many_parameters_and_a_refused_change(tracker: Tracker, client: MlflowClient) -> None:
    with tracker.run("params") as run:
        run.log_params({f"key_{i}": i for i in range(250)})
        run.log_params({"training": {"epochs": 8}, "features": {"ema_spans": (6, 30)}, "long": "x" * 9000})
        run.log_params({"training": {"epochs": 8}})
        run.log_params({"training": {"epochs": 9}})
    params = client.get_run(run.run_id).data.params
    assert len(params) == 253
    assert "Could not log parameters" in refused(tracker)
    assert (params["key_249"], params["training.epochs"], params["features.ema_spans"]) == ("249", "8", "6,30")
    assert len(params["long"]) == 6000


def test_dataset_with_a_long_digest_is_stored_once(tracker: Tracker, client: MlflowClient) -> None:
    with tracker.run("dataset") as run:
        for _ in range(2):
            run.log_dataset(name="PobleSec", digest="ab" * 32, source="s3://flts/datasets/abab")
    (entry,) = client.get_run(run.run_id).inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("PobleSec", "ab" * 18)
    assert entry.dataset.source == "s3://flts/datasets/abab"
    assert [(t.key, t.value) for t in entry.tags] == [("mlflow.data.context", "training")]


def test_artifacts_lie_under_home(
    tracker: Tracker, client: MlflowClient, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with tracker.run("artifacts") as run:
        run.log_bundle(bundle)
        run.log_bytes("plots/loss.png", b"\x89PNG")
        run.log_text("report.html", "<p>ü</p>")
        run.log_json("verdict.json", {"state": "promoted"})
    fetched = Path(client.download_artifacts(run.run_id, "", str(tmp_path)))
    files = {str(f.relative_to(fetched)) for f in fetched.rglob("*") if f.is_file()}
    assert {"bundle/manifest.json", "bundle/arrays/weights.bin", "plots/loss.png", "report.html"} <= files
    assert json.loads((fetched / "verdict.json").read_text()) == {"state": "promoted"}
    assert (fetched / "report.html").read_text(encoding="utf-8") == "<p>ü</p>"
    assert not (tmp_path / "mlruns").exists()
    home = Path(tracker.uri.removeprefix("sqlite:///")).parent
    assert list((home / "mlartifacts").rglob("loss.png"))


@pytest.mark.parametrize("path", ["/etc/passwd", "../outside.txt", "a/../../b", ""])
def test_artifact_paths_stay_inside_the_run(tracker: Tracker, path: str) -> None:
    with tracker.run("paths") as run, pytest.raises(TrackingError, match="relative path"):
        run.log_bytes(path, b"")


def test_nan_is_no_json(tracker: Tracker) -> None:
    with tracker.run("nan-json") as run, pytest.raises(ValueError, match="not JSON compliant"):
        run.log_json("leaderboard.json", {"rmse": math.nan})


def test_a_missing_bundle_is_refused(tracker: Tracker, tmp_path: Path) -> None:
    with tracker.run("no-bundle") as run, pytest.raises(TrackingError, match="not a folder"):
        run.log_bundle(tmp_path / "absent")


def test_a_disk_that_refuses_the_end_does_not_hide_the_cause(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise StorageError("the disk is full")

    with pytest.raises(ValueError, match="the real cause") as caught, tracker.run("disk-full"):
        monkeypatch.setattr(Tracker, "record", refuse)
        raise ValueError("the real cause")
    assert "the disk is full" in caught.value.__notes__
    monkeypatch.undo()
    tracker.record("disk-full", "end", {"status": "KILLED", "start": ""})


def test_secrets_and_zero_bytes_do_not_reach_the_record(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-0123456789")
    with tracker.run("planted", tags={"note": "planted-0123456789"}) as run:
        run.log_params({"uri": "http://u:hunter22@h", "text": "a\0b"})
        run.set_tags({"failure": "bad key planted-0123456789"})
    told = (tracker.folder / "tracking.jsonl").read_text()
    assert "planted-0123456789" not in told
    assert "hunter22" not in told
    assert '"text": "ab"' in told


def test_flatten_writes_values_as_a_configuration_would() -> None:
    nested = {"a": {"b": True, "c": None}, "d": ("x", 1), "e": 3e-3}
    assert flatten(nested) == {"a.b": "true", "a.c": "", "d": "x,1", "e": "0.003"}
