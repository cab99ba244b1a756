"""Jobs share CPUs: side by side where there is room, one after another where not, failures as results."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flts_ray.training.capacity import Job, run_jobs

pytestmark = pytest.mark.unit

WAIT_S = 10.0
"""How long a test waits for what should come at once, before it fails."""


class Meter:
    """Counts the CPUs held at any time and the order in which jobs start."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.held = 0.0
        self.peak = 0.0
        self.started: list[str] = []

    def job(self, name: str, cpus: float, body=lambda: None) -> Job[str]:  # type: ignore[no-untyped-def]
        def run() -> str:
            with self.lock:
                self.started.append(name)
                self.held += cpus
                self.peak = max(self.peak, self.held)
            try:
                body()
            finally:
                with self.lock:
                    self.held -= cpus
            return name.upper()

        return Job(name, cpus, run)


def test_jobs_that_fit_run_side_by_side() -> None:
    meter, together = Meter(), threading.Barrier(3)
    jobs = [meter.job(name, 1, lambda: together.wait(WAIT_S)) for name in ("gru", "lstm", "prophet")]
    assert run_jobs(jobs, 3) == {"gru": "GRU", "lstm": "LSTM", "prophet": "PROPHET"}


def test_jobs_that_do_not_fit_run_one_after_another_in_the_order_given() -> None:
    meter = Meter()
    run_jobs([meter.job(name, 2, lambda: time.sleep(0.02)) for name in ("gru", "lstm", "prophet")], 2)
    assert meter.started == ["gru", "lstm", "prophet"]
    assert meter.peak == 2


def test_a_small_job_overtakes_one_that_waits_for_room() -> None:
    meter, small_ran = Meter(), threading.Event()
    jobs = [
        meter.job("first", 1, lambda: small_ran.wait(WAIT_S)),
        meter.job("wide", 2),
        meter.job("small", 1, small_ran.set),
    ]
    assert list(run_jobs(jobs, 2)) == ["first", "wide", "small"]
    assert meter.started == ["first", "small", "wide"]
    assert small_ran.is_set()


def test_a_job_larger_than_the_cluster_runs_alone() -> None:
    meter = Meter()
    results = run_jobs([meter.job("small", 1), meter.job("huge", 8), meter.job("next", 1)], 2)
    assert results == {"small": "SMALL", "huge": "HUGE", "next": "NEXT"}
    assert meter.peak == 8


def test_what_a_job_raises_is_its_result_and_the_others_go_on() -> None:
    def fail() -> None:
        raise ValueError("the loss is not finite")

    meter = Meter()
    results = run_jobs([meter.job("gru", 1, fail), meter.job("lstm", 1)], 1)
    assert isinstance(results["gru"], ValueError)
    assert str(results["gru"]) == "the loss is not finite"
    assert results["lstm"] == "LSTM"


def test_an_interruption_is_raised_and_starts_nothing_more() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    meter = Meter()
    with pytest.raises(KeyboardInterrupt):
        run_jobs([meter.job("gru", 1, interrupt), meter.job("lstm", 1)], 1)
    assert meter.started == ["gru"]


def test_no_jobs_is_no_work() -> None:
    assert run_jobs([], 2) == {}


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.0]), max_size=7), st.sampled_from([1.0, 2.0, 4.0]))
def test_every_job_runs_once_and_never_over_capacity(sizes: list[float], cpus: float) -> None:
    meter = Meter()
    jobs = [meter.job(f"job{i}", size, lambda: time.sleep(0.001)) for i, size in enumerate(sizes)]
    results = run_jobs(jobs, cpus)
    assert list(results) == [job.name for job in jobs]
    assert sorted(meter.started) == sorted(results)
    assert meter.peak <= max([cpus, *sizes]), "jobs held more CPUs than there are"
    if all(size <= cpus for size in sizes):
        assert meter.peak <= cpus


def test_idle_cpus_are_those_that_no_job_holds_or_waits_for() -> None:
    told: list[float] = []
    meter = Meter()
    run_jobs([meter.job("gru", 2), meter.job("lstm", 2), meter.job("prophet", 1)], 3, on_idle=told.append)
    assert told[0] == 0.0, "lstm waits for them"
    assert told[-1] in (1.0, 2.0), "only the last job holds any"
    assert all(cpus >= 0 for cpus in told)
