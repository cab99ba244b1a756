"""The sending thread and what leftovers it takes along: faults cost time, never records, and never the run's time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flts_ray.config import TrackingSettings
from flts_ray.errors import TrackingError
from flts_ray.runs import open_run
from flts_ray.tracking import run as run_module
from flts_ray.tracking import sync as sync_module
from flts_ray.tracking.client import Gateway
from flts_ray.tracking.delivery import HOME, HOST
from flts_ray.tracking.journal import Journal
from flts_ray.tracking.run import Tracker
from flts_ray.tracking.stale import end_stale, stale_runs
from flts_ray.tracking.sync import sync
from tests.tracking.fake_store import FakeStore, StoredRun

pytestmark = pytest.mark.unit

SETTINGS = TrackingSettings(breaker_failures=2, breaker_reset_s=0.1, flush_timeout_s=20)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeStore:
    """A store in memory behind every gateway that is made."""
    store = FakeStore()
    store.home = tmp_path  # type: ignore[attr-defined]

    def make(settings: TrackingSettings, home: Path) -> FakeStore:
        return store

    monkeypatch.setattr("flts_ray.tracking.sender.RETRY_S", 0.02)
    monkeypatch.setattr("flts_ray.tracking.sync.RETRY_S", 0.02)
    for module in ("run", "sync", "stale"):
        monkeypatch.setattr(f"flts_ray.tracking.{module}.Gateway", make)
    return store


def tracker_of(home: Path, name: str = "r", settings: TrackingSettings = SETTINGS) -> Tracker:
    return Tracker(settings, home, home / "runs" / name)


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, Any]]:
    return [record.__dict__["fields"] for record in caplog.records if record.getMessage() == name]


def eventually(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it does not come about")


def test_everything_arrives_and_every_run_ends(fake: FakeStore, tmp_path: Path) -> None:
    with tracker_of(tmp_path) as tracker, tracker.run("r", tags={"a": "b"}) as run, run.child("gru") as child:
        for step in range(50):
            child.log_metrics({"loss": 1 / (1 + step)}, step=step)
        run.log_params({"training": {"epochs": 8}})
        child.log_bytes("plots/loss.png", b"png")
        assert tracker.flush()
        assert tracker.pending == 0
        assert run.run_id == "id-1"
    assert fake.statuses() == {"r": "FINISHED", "r/gru": "FINISHED"}
    assert len(fake.by_key("r/gru").metrics) == 50
    assert fake.by_key("r/gru").files == {"plots/loss.png": b"png"}
    assert fake.by_key("r").params == {"training.epochs": "8"}
    assert Journal(tmp_path / "runs" / "r").settled()


def test_a_store_that_is_down_is_told_of_once_and_caught_up_with(
    fake: FakeStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flts_ray")
    down = threading.Event()
    down.set()
    fake.fault = lambda method: "down" if down.is_set() else ""
    with tracker_of(tmp_path) as tracker, tracker.run("r") as run:
        run.log_metrics({"loss": 1.0}, step=1)
        eventually(lambda: fake.calls.count("experiment_id") > 4)
        with pytest.raises(TrackingError, match="down"):
            tracker.resolve("r")
        assert not tracker.flush(0.05)
        down.clear()
        run.log_metrics({"loss": 2.0}, step=2)
        assert tracker.flush()
        assert tracker.resolve("r") == "id-1"
    assert len(events(caplog, "tracker_down")) == 1
    assert events(caplog, "tracker_down")[0]["reason"] == "the store is down"
    (back,) = events(caplog, "tracker_back")
    assert back["seconds"] > 0
    assert len(fake.by_key("r").metrics) == 2
    assert fake.statuses() == {"r": "FINISHED"}


def test_a_refusal_opens_no_breaker(fake: FakeStore, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tracker_of(tmp_path) as tracker, tracker.run("r") as run:
        for epochs in range(6):
            run.log_params({"epochs": epochs})
        assert tracker.flush()
    assert fake.by_key("r").params == {"epochs": "0"}
    assert events(caplog, "tracker_down") == []
    assert len(events(caplog, "tracking_rejected")) == 1
    assert fake.statuses() == {"r": "FINISHED"}


def test_a_run_that_ends_while_the_store_is_down_says_what_is_left(
    fake: FakeStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake.fault = lambda method: "down"
    with open_run(tmp_path, "digest", "r"):
        with tracker_of(tmp_path) as tracker, tracker.run("r") as run:
            run.log_metrics({"loss": 1.0}, step=1)
        (left,) = events(caplog, "tracking_pending")
        assert left["pending"] == 3
        assert left["reason"] == "the store is down"
        assert "flts sync" in left["advice"]
        assert sync(SETTINGS, tmp_path).pending == 0, "a run at work is none of the sync's business"
    failed = sync(SETTINGS, tmp_path)
    assert (failed.pending, failed.delivered, failed.reason) == (3, 0, "the store is down")
    assert "3 still to be delivered" in failed.sentence()
    fake.fault = lambda method: ""
    report = sync(SETTINGS, tmp_path)
    assert (report.pending, report.delivered, report.synced, report.closed) == (0, 3, ["r"], [])
    assert fake.statuses() == {"r": "FINISHED"}
    assert sync(SETTINGS, tmp_path).synced == []


def test_a_call_that_hangs_holds_nobody(
    fake: FakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run_module, "INTERRUPTED_S", 0.1)
    monkeypatch.setattr(run_module, "STOP_S", 0.1)
    released = threading.Event()

    def hang(method: str) -> str:
        released.wait(30)
        return ""

    fake.fault = hang
    with pytest.raises(KeyboardInterrupt), tracker_of(tmp_path) as tracker, tracker.run("r") as run:
        run.log_metrics({"loss": 1.0}, step=1)
        raise KeyboardInterrupt
    assert events(caplog, "tracking_pending")[0]["pending"] == 3
    assert sync(SETTINGS, tmp_path).synced == [], "the thread that hangs still holds the journal"
    released.set()
    eventually(lambda: sync(SETTINGS, tmp_path).pending == 0 and fake.statuses() == {"r": "KILLED"})


def killed(home: Path, name: str, *, children: bool = True) -> None:
    """A journal as SIGKILL leaves it: no end, half a line."""
    folder = home / "runs" / name
    tracker = Tracker(SETTINGS, home, folder)
    tracker._writer = run_module.JournalWriter(Journal(folder))
    tracker._sender = run_module.Sender(Journal(folder), tracker._delivery, SETTINGS, written=lambda: 0)
    runs = [tracker.run(name)]
    run = runs[0].__enter__()
    if children:
        runs.append(run.child("gru"))
        runs[1].__enter__().log_metrics({"loss": 1.0}, step=1, at_ms=5)
    # What a generator does at its end must not happen: the process is gone.
    tracker._writer.close()
    with Journal(folder).file.open("ab") as stream:
        stream.write(b'{"run": "r", "op": "metr')
    tracker._writer = tracker._sender = None
    for entered in runs:
        _ABANDONED.append(entered)


_ABANDONED: list[Any] = []


def test_the_runs_of_a_killed_process_are_delivered_and_ended(fake: FakeStore, tmp_path: Path) -> None:
    killed(tmp_path, "dead")
    last_ms = Journal(tmp_path / "runs" / "dead").summary().last_ms
    report = sync(SETTINGS, tmp_path)
    assert (report.closed, report.synced, report.pending, report.rejected) == (["dead"], ["dead"], 0, 0)
    assert fake.statuses() == {"dead": "KILLED", "dead/gru": "KILLED"}
    assert {run.end_ms for run in fake.runs.values()} == {last_ms}
    assert len(fake.by_key("dead/gru").metrics) == 1
    assert "ended as KILLED: dead" in report.sentence()


def test_the_next_run_delivers_what_dead_ones_left(fake: FakeStore, tmp_path: Path) -> None:
    killed(tmp_path, "first")
    killed(tmp_path, "second", children=False)
    with open_run(tmp_path, "digest", "third"), tracker_of(tmp_path, "third") as tracker, tracker.run("third"):
        eventually(lambda: fake.statuses().get("second") == "KILLED")
        assert fake.statuses()["third"] == "RUNNING"
    # Whether the run's own start is recorded before or after the thread looks for dead ones is chance.
    assert [run for run in fake.statuses() if run != "third"] == ["first", "first/gru", "second"]
    assert set(fake.statuses().values()) == {"KILLED", "FINISHED"}
    assert Journal(tmp_path / "runs" / "first").settled()


def test_the_next_run_leaves_alone_what_was_meant_for_another_store(fake: FakeStore, tmp_path: Path) -> None:
    killed(tmp_path, "first")
    fake.store = "elsewhere"
    assert [journal.folder.name for journal in sync_module.leftovers(tmp_path, store="elsewhere")] == []
    assert sync(SETTINGS, tmp_path).synced == ["first"], "who says sync means these settings"


def test_the_same_run_again_continues_and_repeats_nothing(fake: FakeStore, tmp_path: Path) -> None:
    killed(tmp_path, "r")
    with tracker_of(tmp_path) as tracker, tracker.run("r") as run, run.child("gru") as child:
        child.log_metrics({"loss": 1.0}, step=1, at_ms=9)
        child.log_metrics({"loss": 0.5}, step=2, at_ms=10)
    assert fake.statuses() == {"r": "FINISHED", "r/gru": "FINISHED"}
    assert fake.by_key("r/gru").metrics == {("loss", 1, 5, "1.0"), ("loss", 2, 10, "0.5")}
    assert fake.by_key("r").tags["flts.attempt"] == "2"


def test_an_error_of_the_program_does_not_end_the_thread_in_silence(
    fake: FakeStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(method: str) -> str:
        raise RuntimeError("a mistake")

    fake.fault = broken
    with tracker_of(tmp_path) as tracker, tracker.run("r"):
        assert not tracker.flush()
    assert events(caplog, "tracking_failed")[0]["reason"] == "RuntimeError: a mistake"
    assert len(events(caplog, "tracking_pending")) == 1


def test_nothing_is_recorded_outside_the_block(fake: FakeStore, tmp_path: Path) -> None:
    tracker = tracker_of(tmp_path)
    assert (tracker.pending, tracker.flush()) == (0, True)
    with pytest.raises(TrackingError, match="inside its block"), tracker.run("r"):
        raise AssertionError("not reached")
    tracker.close()
    assert not (tmp_path / "runs").exists()


def test_runs_without_a_process_are_found_and_ended(
    fake: FakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100 * 3_600_000
    monkeypatch.setattr("flts_ray.tracking.stale.now_ms", lambda: now)
    monkeypatch.setattr("flts_ray.tracking.stale.socket.gethostname", lambda: "here")
    (tmp_path / "runs" / "dead").mkdir(parents=True)
    elsewhere = tmp_path / "other home"
    (elsewhere / "runs" / "gone").mkdir(parents=True)

    def add(key: str, age_h: float, host: str = "here", home: Path = tmp_path, status: str = "RUNNING") -> None:
        tags = {"flts.run_key": key, HOST: host, HOME: str(home)} if key else {}
        fake.runs[f"{key}@{host}"] = StoredRun(key, int(now - age_h * 3_600_000), tags, status)

    add("dead/gru", 0.1)
    add("dead", 0.2, status="FINISHED")
    add("alive", 50)
    add("gone", 0.1, home=elsewhere)
    add("folderless", 2)
    add("fresh", 0.5)
    add("foreign", 50, host="there")
    add("", 50)
    with open_run(tmp_path, "digest", "alive"):
        found = stale_runs(SETTINGS, tmp_path)
        assert {run.run_key for run in found} == {"dead/gru", "gone", "folderless"}
        assert {round(run.age_s / 3600, 1) for run in found} == {0.1, 2.0}
        end_stale(SETTINGS, tmp_path, found)
        assert stale_runs(SETTINGS, tmp_path) == []
    assert [fake.runs[run.run_id].status for run in found] == ["KILLED"] * 3
    assert fake.runs["alive@here"].status == "RUNNING"


def test_a_gateway_opens_nothing_until_it_is_called(tmp_path: Path) -> None:
    assert Gateway(TrackingSettings(), tmp_path / "home").store.endswith("/home/mlflow.db flts")
    assert not (tmp_path / "home").exists()
