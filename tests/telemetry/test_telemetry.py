"""Signs of life: events as JSON lines, heartbeats to every listener, memory that is real, bars that never crash."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from flts_ray.telemetry import logging as log
from flts_ray.telemetry.heartbeat import Beat, Beats, Pulse
from flts_ray.telemetry.memory import rss_mb
from flts_ray.telemetry.origin import joined, origin
from flts_ray.telemetry.progress import ProgressBars

pytestmark = pytest.mark.unit


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What has been written to stderr since the last look."""
    yield lambda: capsys.readouterr().err
    log.reset()


def parsed(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_an_event_is_one_json_line_with_its_fields(stderr: Callable[[], str]) -> None:
    log.configure()
    log.event("sampling_applied", before=10, after=5, path=Path("a/b"), station="Montjuïc")
    (line,) = parsed(stderr())
    assert line["event"] == "sampling_applied"
    assert (line["level"], line["before"], line["after"]) == ("info", 10, 5)
    assert (line["path"], line["station"]) == ("a/b", "Montjuïc")
    assert str(line["ts"]).endswith("Z")


def test_an_exception_stays_on_one_line(stderr: Callable[[], str]) -> None:
    log.configure()
    try:
        raise ValueError("no\nsuch thing")
    except ValueError:
        log.LOGGER.exception("failed")
    (line,) = parsed(stderr())
    assert "ValueError" in str(line["traceback"])


def test_quiet_keeps_errors_on_the_terminal_and_everything_in_the_file(
    stderr: Callable[[], str], tmp_path: Path
) -> None:
    log.configure(quiet=True)
    log.event("early")
    with log.events_to(tmp_path / "runs" / "events.jsonl"):
        log.event("late")
        log.event("refused", level=logging.ERROR)
    log.event("after the run")
    assert [line["event"] for line in parsed(stderr())] == ["refused"]
    kept = parsed((tmp_path / "runs" / "events.jsonl").read_text(encoding="utf-8"))
    assert [line["event"] for line in kept] == ["early", "late", "refused"]


def test_configuring_again_does_not_double_the_lines(stderr: Callable[[], str]) -> None:
    log.configure()
    log.configure()
    log.event("once")
    assert len(parsed(stderr())) == 1


def test_every_line_names_its_place_whichever_thread_it_comes_from(stderr: Callable[[], str]) -> None:
    log.configure()
    with log.bound(job=None, run="r-1", dataset=""):
        log.event("before")
        log.bind(dataset="d-1")
        thread = threading.Thread(target=lambda: log.event("elsewhere", run="own"))
        thread.start()
        thread.join()
        with log.bound(run="inner", rank=0):
            log.bind(more=1)
            log.event("inside")
        log.event("again")
        assert log.whereabouts() == {"host": socket.gethostname(), "run": "r-1", "dataset": "d-1"}
    log.event("after")
    lines = parsed(stderr())
    assert {line.pop("host", "") for line in lines[:4]} == {socket.gethostname()}
    assert [{name: value for name, value in line.items() if name not in ("ts", "level")} for line in lines] == [
        {"event": "before", "run": "r-1"},
        {"event": "elsewhere", "run": "own", "dataset": "d-1"},  # what an event says itself goes before its place
        {"event": "inside", "run": "inner", "dataset": "d-1", "rank": 0, "more": 1},
        {"event": "again", "run": "r-1", "dataset": "d-1"},
        {"event": "after"},
    ]


def test_early_events_learn_their_place_when_the_run_is_known(stderr: Callable[[], str], tmp_path: Path) -> None:
    log.configure()
    log.event("early")
    with log.bound(job="raysubmit_1", run="r-1"), log.events_to(tmp_path / "events.jsonl"):
        log.event("late")
    assert [line.get("run") for line in parsed(stderr())] == [None, "r-1"]
    kept = parsed((tmp_path / "events.jsonl").read_text(encoding="utf-8"))
    assert [(line["event"], line["job"], line["run"]) for line in kept] == [
        ("early", "raysubmit_1", "r-1"),
        ("late", "raysubmit_1", "r-1"),
    ]


def test_binding_outside_of_everything_changes_nothing(stderr: Callable[[], str]) -> None:
    log.configure()
    log.bind(run="r-1")
    log.event("plain")
    assert set(parsed(stderr())[0]) == {"ts", "level", "event"}


def test_a_worker_writes_lines_that_name_whose_work_it_does_and_itself(stderr: Callable[[], str]) -> None:
    with log.bound(job="j-1", run="r-1", rank=9, pid=1, node_id="of the driver"):
        sent = origin()
    assert sent.fields == {"job": "j-1", "run": "r-1"}
    with joined(sent, "train.worker", node_id="n-1", rank=0):
        log.event("checkpoint_damaged", epoch=2)
    with joined(sent, "prophet.worker", node_id="n-1"):
        log.event("again")  # the same process, another task
    lines = parsed(stderr())
    assert [line["event"] for line in lines if "work" in line] == ["work_started", "work_done"] * 2
    first, second = (line for line in lines if "work" not in line)
    place = {"job": "j-1", "run": "r-1", "node_id": "n-1", "host": socket.gethostname(), "pid": os.getpid()}
    assert first.items() >= {**place, "event": "checkpoint_damaged", "rank": 0, "epoch": 2}.items()
    assert second.items() >= {**place, "event": "again"}.items()
    assert "rank" not in second


def test_every_listener_gets_every_beat_one_at_a_time() -> None:
    seen: list[Beat] = []
    inside = threading.Lock()

    def alone(beat: Beat) -> None:
        assert inside.acquire(blocking=False), "two beats at once"
        seen.append(beat)
        inside.release()

    pulse = Pulse([alone])
    late: list[Beat] = []
    pulse.listeners.append(late.append)
    threads = [
        threading.Thread(target=lambda k=k: [pulse.beat({"candidate": k, "stage": "training"}) for _ in range(200)])
        for k in ("gru", "lstm", "prophet")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == len(late) == 600


def test_a_beat_that_repeats_is_heard_but_is_no_progress() -> None:
    now = 10.0
    pulse = Pulse(clock=lambda: now)
    worker: Beat = {"candidate": "gru", "rank": 1, "pid": 7, "stage": "training", "step": 3}
    pulse.beat(worker)
    for news, moved in (
        ({"windows_per_s": 5.0, "time_ms": 1}, False),
        ({"step": 4}, True),
        ({"step": 4, "rss_mb": 9.0}, False),
        ({"step": 4, "stage": "epoch", "epoch": 1}, True),
        ({"step": 4, "stage": "epoch", "epoch": 1, "pid": 8}, True),
    ):
        now += 1.0
        before = pulse.signs("gru")[1].progress_s
        pulse.beat({**worker, **news})
        sign = pulse.signs("gru")[1]
        assert sign.beat == {**worker, **news}
        assert sign.progress_s == (now if moved else before), news


def test_signs_are_kept_by_candidate_and_rank_until_forgotten() -> None:
    pulse = Pulse()
    pulse.beat({"candidate": "gru", "stage": "starting"})
    for candidate, rank in (("gru", 0), ("gru", 1), ("lstm", 0)):
        pulse.beat({"candidate": candidate, "rank": rank, "stage": "loading"})
    assert set(pulse.signs("gru")) == {0, 1}
    pulse.forget("gru", 0, 5)
    assert set(pulse.signs("gru")) == {1}
    assert set(pulse.signs("lstm")) == {0}


def test_beats_name_their_sender_and_come_once_a_second_unless_forced() -> None:
    sent: list[Beat] = []
    beats = Beats(sent.append, candidate="gru", rank=1, node_id="n")
    assert beats.due
    for step in range(100):
        beats("training", step=step)
    assert [beat["step"] for beat in sent] == [0]
    assert not beats.due
    beats("epoch", epoch=1, force=True)
    assert {name: sent[1][name] for name in ("candidate", "rank", "node_id", "stage", "epoch", "pid")} == {
        "candidate": "gru",
        "rank": 1,
        "node_id": "n",
        "stage": "epoch",
        "epoch": 1,
        "pid": os.getpid(),
    }
    assert abs(sent[1]["time_ms"] / 1000 - time.time()) < 60


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system only tells the peak")
def test_memory_grows_by_what_is_allocated() -> None:
    before = rss_mb()
    block = np.ones(20_000_000, dtype=np.float64)
    assert 140 < rss_mb() - before < 260
    assert block[-1] == 1
    assert before > 10


EPOCH = {"stage": "epoch", "epoch": 2, "val_rmse_scaled": 0.0345, "windows_per_s": 51_234.0}
BEATS: list[Beat] = [
    {"candidate": "gru", "stage": "starting"},
    {"candidate": "gru", "stage": "loading", "rss_mb": 100.0},
    {"candidate": "gru", "stage": "training", "step": 3},
    {"candidate": "gru", **EPOCH},
    {"candidate": "prophet", "stage": "training", "done": 1, "failed": 0, "total": 4},
    {"candidate": "prophet", "stage": "fitted", "fit_s": 1.5},
]


def test_bars_show_epochs_speed_and_counts_on_a_terminal() -> None:
    stream = io.StringIO()
    with ProgressBars(Console(file=stream, force_terminal=True, width=120), epochs=8) as bars:
        for beat in BEATS:
            bars.beat(beat)
    shown = stream.getvalue()
    for text in ("gru", "epoch 2/8", "0.03450", "51,234 windows/s", "prophet", "fitted in 1.5 s"):
        assert text in shown


def test_bars_draw_nothing_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    with ProgressBars(Console(file=stream), epochs=8) as bars:
        for beat in BEATS:
            bars.beat(beat)
    assert stream.getvalue() == ""
