"""Figures of a run: what heartbeats and events come to, and that nothing of it can hurt the run."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flts_ray.config import Settings
from flts_ray.errors import StorageError
from flts_ray.telemetry import metrics as module
from flts_ray.telemetry import run_figures as of
from flts_ray.telemetry.figures import STORAGE_BYTES, Figure, count_bytes
from flts_ray.telemetry.heartbeat import Beat
from flts_ray.telemetry.logging import LOGGER, event
from flts_ray.telemetry.metrics import RunMetrics
from flts_ray.telemetry.readings import Readings

pytestmark = pytest.mark.unit

SETTINGS = Settings.model_validate({"data": {"train": ("a.csv",)}, "training": {"epochs": 12}})
EPOCH = {
    "epoch": 3,
    "train_loss_scaled": 0.5,
    "val_loss_scaled": 0.25,
    "val_rmse_scaled": 0.1,
    "val_rmse_bits": 1e6,
    "val_mae_bits": 8e5,
    "val_composite": 0.125,
    "windows_per_s": 5000.0,
    "rss_mb": 400.0,
    "gpu_mb": 0.0,
}


class Page:
    """What Ray would show: values by figure and labels."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        self.broken = False

    def make(self, figure: Figure, **always: str) -> Any:
        page = self

        class Metric:
            def _at(self, labels: dict[str, str]) -> tuple[str, frozenset[tuple[str, str]]]:
                assert set(labels) == set(figure.tags), "Ray refuses labels that were not declared"
                if page.broken:
                    raise RuntimeError("the metrics agent is not there")
                return figure.name, frozenset({**always, **labels}.items())

            def set(self, value: float, labels: dict[str, str]) -> None:
                assert figure.kind == "gauge"
                page.values[self._at(labels)] = value

            def inc(self, value: float, labels: dict[str, str]) -> None:
                assert figure.kind == "counter"
                assert value > 0, "Ray refuses to add nothing"
                page.values[self._at(labels)] = page.values.get(self._at(labels), 0.0) + value

        return Metric()

    def get(self, figure: Figure, **labels: str) -> float:
        return self.values[figure.name, frozenset({"run": "r1", **labels}.items())]


class Clock:
    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def info() -> Iterator[None]:
    """Events of level info count, as they do after the entry point has set up the log."""
    before = LOGGER.level
    LOGGER.setLevel(logging.INFO)
    yield
    LOGGER.setLevel(before)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PUSH_EVERY_S", 0.01)


def made(page: Page | None = None, **changes: Any) -> RunMetrics:
    readings = Readings((page or Page()).make, run="r1")
    return RunMetrics("r1", SETTINGS, readings=readings, **{"is_up": lambda: True, "clock": Clock(), **changes})


def beat(candidate: str, stage: str, **fields: Any) -> Beat:
    return {"candidate": candidate, "stage": stage, **fields}


def worker(stage: str, **fields: Any) -> Beat:
    return beat("gru", stage, **{"rank": 0, "pid": 7, "node_id": "n", **fields})


def until(done: Callable[[], bool]) -> None:
    limit = time.monotonic() + 10
    while not done():
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_an_epoch_becomes_figures() -> None:
    metrics = made()
    metrics.beat(worker("epoch", **EPOCH))
    got = metrics.readings.get
    assert got(of.EPOCH, candidate="gru") == 3
    assert got(of.EPOCHS, candidate="gru") == 12
    assert got(of.TRAIN_LOSS, candidate="gru") == 0.5
    assert got(of.VAL_COMPOSITE, candidate="gru") == 0.125
    assert got(of.WINDOWS_PER_S, candidate="gru") == 5000
    assert got(of.WORKER_MEMORY, candidate="gru", rank="0") == 400e6
    assert got(of.ACCELERATOR_MEMORY, candidate="gru", rank="0") is None, "there is none"


def test_a_beat_that_repeats_itself_is_a_sign_of_life_and_no_progress() -> None:
    clock = Clock()
    metrics = made(clock=clock)
    metrics.beat(worker("training", step=5, windows_per_s=10.0))
    clock.now_s = 1_100.0
    metrics.beat(worker("training", step=5, windows_per_s=0.0))
    assert metrics.readings.get(of.BEAT, candidate="gru") == 1_100
    assert metrics.readings.get(of.PROGRESS, candidate="gru") == 1_000
    metrics.beat(worker("training", step=6))
    assert metrics.readings.get(of.PROGRESS, candidate="gru") == 1_100


def test_what_a_fit_came_to_stays_and_its_signs_of_life_end_with_it() -> None:
    metrics = made()
    metrics.beat(beat("gru", "starting"))
    metrics.beat(worker("epoch", **EPOCH))
    metrics.beat(beat("gru", "fitted", fit_s=3.0))
    metrics.beat(worker("finished"))  # was still on its way
    got = metrics.readings.get
    assert got(of.BEAT, candidate="gru") is None
    assert got(of.WORKER_MEMORY, candidate="gru", rank="0") is None
    assert got(of.EPOCH, candidate="gru") == 3
    metrics.beat(beat("gru", "starting"))
    metrics.beat(worker("loading"))
    assert got(of.BEAT, candidate="gru") == 1_000


def test_a_fit_that_waits_for_another_run_is_not_silent() -> None:
    metrics = made()
    metrics.beat(beat("gru", "waiting"))
    assert metrics.readings.get(of.BEAT, candidate="gru") is None


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (
            beat("prophet", "training", done=7, failed=1, total=20),
            {of.TASKS_DONE: 7, of.TASKS_FAILED: 1, of.TASKS_EXPECTED: 20, of.TASKS_RUNNING: None},
        ),
        (
            beat("sweep", "trials", done=3, running=2, failed=0, total=20, best=0.5),
            {of.TASKS_DONE: 3, of.TASKS_RUNNING: 2, of.TASKS_FAILED: 0, of.TASKS_EXPECTED: 20},
        ),
        (beat("backtest", "windows", done=2, total=9), {of.TASKS_DONE: 2, of.TASKS_EXPECTED: 9}),
    ],
)
def test_counted_work_has_one_set_of_figures(sent: Beat, expected: dict[Figure, float | None]) -> None:
    metrics = made()
    metrics.beat(sent)
    assert {figure: metrics.readings.get(figure, candidate=sent["candidate"]) for figure in expected} == expected


def test_one_task_of_prophet_does_not_speak_for_all() -> None:
    metrics = made()
    metrics.beat(beat("prophet", "fitting", rank=3, pid=1, node_id="n", done=4))
    assert metrics.readings.get(of.TASKS_DONE, candidate="prophet") is None


def test_a_sweep_without_a_result_has_no_best() -> None:
    metrics = made()
    metrics.beat(beat("sweep", "trials", done=0, running=2, failed=0, total=20, best=None))
    assert metrics.readings.get(of.SWEEP_BEST) is None
    metrics.beat(beat("sweep", "trials", done=1, running=2, failed=0, total=20, best=0.25))
    assert metrics.readings.get(of.SWEEP_BEST) == 0.25


def test_events_become_figures(info: None) -> None:
    metrics = made(submission="job-1", attempt=2)
    got = metrics.readings.get
    with metrics:
        event("run_started", run_id="r1", dataset_id="d1", config_hash="c")
        event("stage_started", stage="train", limit_s=60.0)
        assert got(of.STAGE_START, stage="train") == 1_000
        assert got(of.STAGE_LIMIT, stage="train") == 60
        event("stalled", candidate="gru", rank=0)
        event("stalled", candidate="gru", rank=1)
        event("workers_restarting", candidate="gru")
        event("prophet_retry", series="alpha", target="down", reason="x")
        event("candidate_failed", candidate="lstm", error="TrainingError", reason="x")
        event("tracker_down", reason="x", retry_s=1)
        event("storage_retry", place="s3://b", reason="x", deadline_s=60)
        assert (got(of.TRACKER_DOWN), got(of.STORAGE_DOWN)) == (1, 1)
        event("tracker_back", seconds=1, backlog=0)
        event("storage_recovered", place="s3://b", seconds=1)
        event("stage_done", stage="train", seconds=12.5)
        assert (got(of.TRACKER_DOWN), got(of.STORAGE_DOWN), got(of.STORAGE_OUTAGES)) == (0, 0, 1)
        assert got(of.RUN_INFO, attempt="2", submission="job-1", dataset="d1") == 1
        assert got(of.STALLS, candidate="gru") == 2
        assert (got(of.RESTARTS, candidate="gru"), got(of.RESTARTS, candidate="prophet")) == (1, 1)
        assert got(of.CANDIDATES_FAILED, candidate="lstm") == 1
        assert got(of.STAGE_SECONDS, stage="train") == 12.5
        assert (got(of.STAGE_START, stage="train"), got(of.STAGE_LIMIT, stage="train")) == (None, None)
    event("stalled", candidate="gru", rank=0)
    assert got(of.STALLS, candidate="gru") == 2, "it no longer listens"


def test_no_fit_outlives_its_stage(info: None) -> None:
    metrics = made()
    with metrics:
        event("stage_started", stage="train", limit_s=None)
        metrics.beat(beat("prophet", "training", done=1, failed=0, total=2))
        metrics.beat(worker("training", step=1))
        event("stage_done", stage="train", seconds=1.0)
        metrics.beat(worker("finished"))
        assert metrics.readings.get(of.BEAT, candidate="prophet") is None
        assert metrics.readings.get(of.BEAT, candidate="gru") is None


def test_figures_reach_ray_once_it_is_up_and_end_with_the_run(quick: None) -> None:
    page, up = Page(), threading.Event()
    with made(page, is_up=up.is_set) as metrics:
        metrics.follow(lambda: 42)
        metrics.readings.add(of.STALLS, 2, candidate="gru")
        time.sleep(0.1)
        assert page.values == {}
        up.set()
        until(lambda: len(page.values) >= 5)
        until(lambda: (of.STALLS.name, frozenset({"run": "r1", "candidate": "gru"}.items())) in page.values)
        assert page.get(of.TRACKER_BACKLOG) == 42
        assert page.get(of.STALL_LIMIT) == SETTINGS.watchdog.stall_timeout_s
        assert page.get(of.RUN_SEEN, attempt="1") == 1_000
        assert page.get(of.DRIVER_MEMORY) > 1e6
        time.sleep(0.1)
        assert page.get(of.STALLS, candidate="gru") == 2, "what was added is added once"
    ended = {name for (name, _), value in page.values.items() if math.isnan(value)}
    counters = {figure.name for figure in of.FIGURES if figure.kind == "counter"}
    assert ended == {name for name, _ in page.values} - counters
    assert page.get(of.RUN_ENDS, attempt="1", outcome="done", exit_code="0") == 1


@pytest.mark.parametrize(
    ("error", "outcome", "code"),
    [
        (StorageError("away"), "failed", "51"),
        (ValueError("a fault"), "failed", "1"),
        (KeyboardInterrupt(), "stopped", ""),
        (SystemExit(143), "stopped", ""),
    ],
)
def test_how_a_run_ended_is_told(error: BaseException, outcome: str, code: str) -> None:
    page = Page()
    with pytest.raises(type(error)), made(page):
        raise error
    assert page.get(of.RUN_ENDS, attempt="1", outcome=outcome, exit_code=code) == 1


def test_a_ray_that_refuses_is_told_of_once(quick: None, caplog: pytest.LogCaptureFixture) -> None:
    page = Page()
    page.broken = True
    with made(page) as metrics:
        until(lambda: "metrics_failed" in caplog.text)
        time.sleep(0.1)
        metrics.beat(worker("epoch", **EPOCH))
    assert [record.getMessage() for record in caplog.records].count("metrics_failed") == 1


def test_an_event_with_other_fields_hurts_nobody(info: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    with made() as metrics:
        event("stage_done")
        event("stage_started", stage="track", limit_s=None)
        assert metrics.readings.get(of.STAGE_START, stage="track") == 1_000


def test_a_series_that_ended_is_told_once_and_forgotten() -> None:
    page = Page()
    readings = Readings(page.make, run="r1")
    readings.set(of.BEAT, 5, candidate="gru")
    readings.set(of.BEAT, 6, candidate="lstm")
    readings.end(of.BEAT, candidate="gru")
    readings.push()
    assert math.isnan(page.get(of.BEAT, candidate="gru"))
    assert page.get(of.BEAT, candidate="lstm") == 6
    page.values.clear()
    readings.push()
    assert [name for name, labels in page.values] == [of.BEAT.name], "gauges are told again, ended ones are not"


def test_bytes_are_counted_only_where_ray_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from flts_ray.telemetry import figures

    page = Page()
    meter = page.make(STORAGE_BYTES)
    monkeypatch.setattr(figures, "_storage_bytes", lambda: meter)
    monkeypatch.setattr(figures, "ray_is_up", lambda: False)
    count_bytes("read", "/disk", 10)
    assert page.values == {}
    monkeypatch.setattr(figures, "ray_is_up", lambda: True)
    count_bytes("read", "/disk", 10)
    count_bytes("read", "/disk", 0)
    count_bytes("written", "s3://bucket/key", 5)
    assert {dict(labels)["place"]: value for (_, labels), value in page.values.items()} == {"disk": 10, "s3": 5}
