"""Work on many series: every job gets an outcome, in order; what fails spoils no other."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flts_ray.errors import StalledError, TooFewRowsError, TrainingError
from flts_ray.training import series_tasks
from flts_ray.training.outcomes import Failure, in_this_process
from flts_ray.training.series_tasks import HUNG, Chunk, Tasks, as_tasks, chunks, where_it_pays


@dataclass(frozen=True)
class Letter:
    """Work on one series."""

    series: str
    rows: int = series_tasks.CHUNK_ROWS

    @property
    def names(self) -> dict[str, str]:
        return {"series": self.series}


def shout(job: Letter, marker: Path | None = None) -> str:
    """Upper case; ``short`` is too short, ``odd`` fails while there is a marker, ``dead`` then dies."""
    if job.series == "short":
        raise TooFewRowsError("series 'short' has 3 rows")
    if job.series in ("odd", "dead") and marker is not None and marker.exists():
        marker.unlink()
        if job.series == "dead":
            os._exit(1)
        raise RuntimeError("not today")
    if job.series == "slow":
        time.sleep(60)
    return job.series.upper()


JOBS = [Letter(name) for name in ("a", "short", "odd", "b")]


@pytest.mark.unit
@given(sizes=st.lists(st.integers(1, 50), max_size=30), limit=st.integers(1, 60))
def test_chunks_cut_all_jobs_in_order_and_stay_within_the_limit(sizes: list[int], limit: int) -> None:
    found = list(chunks(sizes, limit))
    assert [i for chunk in found for i in chunk] == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in chunk) <= limit or len(chunk) == 1 for chunk in found)


@pytest.mark.unit
def test_here_what_our_errors_say_is_final_and_anything_else_is_tried_twice(tmp_path: Path) -> None:
    marker, seen = tmp_path / "odd", list[tuple[int, int]]()
    marker.touch()
    found = in_this_process(partial(shout, marker=marker), JOBS, lambda *counts: seen.append(counts))
    failure = Failure("TooFewRowsError: series 'short' has 3 rows", TooFewRowsError)
    assert found == ["A", failure, "ODD", "B"]
    assert seen == [(1, 0), (2, 1), (3, 1), (4, 1)]


@pytest.mark.unit
def test_what_hangs_again_in_a_fresh_process_has_stalled_and_spoils_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "wait", lambda refs, timeout: (refs[:1], refs[1:]))
    monkeypatch.setattr(ray, "get", lambda ref: ["fine"])
    cancelled: list[object] = []
    monkeypatch.setattr(ray, "cancel", lambda ref, force: cancelled.append((ref, force)))
    sent = list[tuple[int, ...]]()

    def submit(chunk: Chunk) -> str:
        sent.append(chunk.jobs)
        return f"task-{chunk.rank}"

    half = series_tasks.CHUNK_ROWS // 2
    work: Tasks[Letter, str] = Tasks("test", [Letter("a", half), Letter("b", half), Letter("c")], submit, [HUNG] * 3)
    work.send(1)
    assert work.running() == [0]
    work.give_up([0])
    work.collect(0)
    assert (work.done, work.failed) == (0, 0)
    work.send(1)
    work.collect(0)
    work.send(1)
    assert work.running() == [2]
    work.give_up([2])
    work.collect(0)
    assert not work.unfinished
    assert sent == [(0, 1), (2,), (0, 1)], "the chunk that hung waits for its second try behind the others"
    assert cancelled == [("task-0", True), ("task-2", True)]
    assert (work.done, work.failed) == (3, 2)
    assert work.outcomes == [HUNG, HUNG, "fine"]
    assert HUNG.kind is StalledError


@pytest.mark.ray
def test_tasks_give_what_this_process_gives_and_a_process_that_dies_costs_only_time(
    local_ray: None, tmp_path: Path
) -> None:
    marker = tmp_path / "odd"
    marker.touch()
    local = in_this_process(shout, JOBS)
    assert as_tasks(partial(shout, marker=marker), JOBS, candidate="test") == local
    assert not marker.exists(), "the job that fails once has not run"
    marker.touch()
    assert as_tasks(partial(shout, marker=marker), [Letter("dead"), Letter("b")], candidate="test") == ["DEAD", "B"]
    assert not marker.exists()


@pytest.mark.ray
def test_what_is_not_done_in_time_says_so_and_may_work_the_next_time(
    local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(series_tasks, "HEARTBEAT_S", 0.05)
    (found,) = as_tasks(shout, [Letter("slow")], candidate="test", timeout_s=0.01)
    assert found == Failure("not done within 0.01 s", TrainingError, again=True)


@pytest.mark.unit
def test_nothing_is_sent_or_cancelled_when_whoever_asked_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from flts_ray.training.relay import Relay

    sent: list[str] = []
    relay = Relay(lambda beat: None)
    relay.mailbox = None

    class Task:
        def remote(self, work: object, jobs: list[Letter], *more: object) -> str:
            sent.append(jobs[0].series)
            return jobs[0].series

    def leave(refs: list[str], timeout: float) -> tuple[list[str], list[str]]:
        relay._stop.set()
        return refs[:1], refs[1:]

    def gone(ref: str, **more: object) -> None:
        raise ray.exceptions.RaySystemError("Ray has not been started yet")

    monkeypatch.setattr(ray, "remote", lambda **options: lambda function: Task())
    monkeypatch.setattr(ray, "wait", leave)
    monkeypatch.setattr(ray, "get", gone)
    monkeypatch.setattr(ray, "cancel", gone)
    found = as_tasks(shout, [Letter("a"), Letter("b")], candidate="test", relay=relay, parallel=lambda: 1)
    assert sent == ["a"], "what Ray lost as it ended was sent again"
    assert [isinstance(outcome, Failure) and outcome.again for outcome in found] == [True, True]


@pytest.mark.ray
def test_little_work_stays_here_and_much_goes_to_ray(local_ray: None) -> None:
    here = [os.getpid()]

    def where(job: Letter) -> int:
        return os.getpid()

    assert where_it_pays(where, [Letter("a")]) == here
    much: list[Any] = [Letter("a", series_tasks.PAYS_FROM_ROWS), Letter("b", series_tasks.PAYS_FROM_ROWS)]
    assert not set(where_it_pays(where, much)) & set(here)
