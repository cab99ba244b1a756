"""A stage that takes too long is interrupted, or the process ends; what is in time notices nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from flts_ray.deadlines import deadline
from flts_ray.errors import DeadlineError
from tests.helpers import REPOSITORY

pytestmark = pytest.mark.unit


def test_what_is_in_time_notices_nothing() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with deadline("train", 60):
        done = True
    assert done
    assert signal.getsignal(signal.SIGALRM) is before


@pytest.mark.parametrize("wait", [lambda: time.sleep(60), threading.Event().wait, threading.Lock().__enter__])
def test_what_waits_is_interrupted_where_it_waits(wait: Callable[[], object]) -> None:
    before = signal.getsignal(signal.SIGALRM)
    if wait.__name__ == "__enter__":
        wait()  # taken: the next one waits for ever
    sentence = r"^stage train did not end within 0\.05 s: .* watchdog\.train_deadline_s$"
    with pytest.raises(DeadlineError, match=sentence), deadline("train", 0.05):
        wait()
    assert signal.getsignal(signal.SIGALRM) is before


@pytest.mark.parametrize(("outer_s", "inner_s", "named"), [(0.05, 60, "outer"), (60, 0.05, "inner"), (0.05, 0.05, "")])
def test_of_nested_deadlines_the_first_counts(outer_s: float, inner_s: float, named: str) -> None:
    with (
        pytest.raises(DeadlineError, match=f"stage {named}"),
        deadline("outer", outer_s),
        deadline("inner", inner_s),
    ):
        time.sleep(60)


def test_the_deadline_around_still_counts_after_one_inside_was_met() -> None:
    with pytest.raises(DeadlineError, match="stage outer"), deadline("outer", 0.1):
        with deadline("inner", 0.02), pytest.raises(DeadlineError, match="stage inner"):
            time.sleep(60)
        time.sleep(60)


def test_off_the_main_thread_it_is_noticed_at_the_end() -> None:
    caught: list[BaseException] = []

    def work() -> None:
        try:
            with deadline("report", 0.01):
                time.sleep(0.05)
        except DeadlineError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "stage report" in str(caught[0])


def test_somebody_elses_alarm_reaches_them() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: heard.append(number))
    try:
        with deadline("train", 60):
            signal.raise_signal(signal.SIGALRM)
        assert heard == [signal.SIGALRM]
        with pytest.raises(DeadlineError), deadline("train", 0.01):
            time.sleep(60)
        assert heard == [signal.SIGALRM]
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_main_thread_that_stays_in_native_code_ends_the_process_with_the_stacks() -> None:
    code = """
from flts_ray.deadlines import deadline
from flts_ray.telemetry import logging
logging.configure()
def deep_in_native_code():
    import ctypes
    ctypes.CDLL(None).sleep.restype = None
    import time, signal
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    ctypes.CDLL(None).sleep(60)
with deadline("evaluate", 0.05, grace_s=0.2):
    deep_in_native_code()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == DeadlineError.exit_code
    assert "did not come out of native code" in done.stderr
    assert "in deep_in_native_code" in done.stderr
