"""How long a stage may take: an exception in its midst when the time is over, and the end of the process if that fails.

A thread keeps the time and signals the main thread alone, so Ray and every other thread go on undisturbed.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from flts_ray.errors import DeadlineError
from flts_ray.telemetry.logging import LOGGER, event

GRACE_S = 30.0
"""After a deadline the main thread has this long to come out of native code, then the process ends."""


@contextmanager
def deadline(stage: str, seconds: float, *, grace_s: float = GRACE_S) -> Iterator[None]:
    """Let what happens inside take so long and no longer.

    May be nested: whichever comes first counts. Off the main thread, which alone can be interrupted, the time is only
    looked at when all is done.

    Args:
        stage: For the message.
        seconds: From now.
        grace_s: See :data:`GRACE_S`.

    Raises:
        DeadlineError: When the time is over, in the main thread and wherever that is.
    """
    if threading.current_thread() is not threading.main_thread():
        started = time.monotonic()
        yield
        if time.monotonic() - started > seconds:
            _exceeded(stage, seconds)
        return
    alarm = _Alarm(stage, seconds, grace_s)
    with alarm:
        yield


class _Alarm:
    """One deadline of the main thread."""

    def __init__(self, stage: str, seconds: float, grace_s: float) -> None:
        self._stage, self._seconds, self._grace_s = stage, seconds, grace_s
        self._lock = threading.Lock()
        self._over = False
        self._sent = False
        self._heard = threading.Event()
        self._left = threading.Event()

    def __enter__(self) -> None:
        self._before = signal.getsignal(signal.SIGALRM)
        signal.signal(signal.SIGALRM, self._hear)
        threading.Thread(target=self._wait, name=f"deadline-{self._stage}", daemon=True).start()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._over = True
        self._left.set()
        while self._sent and not self._heard.is_set():
            time.sleep(0.001)  # the signal is on its way: it must find this handler, not the one before
        signal.signal(signal.SIGALRM, self._before)

    def _wait(self) -> None:
        if self._left.wait(self._seconds):
            return
        with self._lock:
            if self._over:
                return
            self._sent = True
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
        if self._heard.wait(self._grace_s) or self._left.is_set():
            return
        event(
            "deadline_exceeded",
            level=logging.CRITICAL,
            stage=self._stage,
            seconds=self._seconds,
            reason=f"the main thread did not come out of native code within {self._grace_s:g} s: the process ends",
            stacks=driver_stacks(),
        )
        for handler in LOGGER.handlers:
            handler.flush()
        os._exit(DeadlineError.exit_code)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        """Answer the signal, which two deadlines may share and others may use too."""
        alarm, due = self, [self] if self._take() else []
        while isinstance(outer := getattr(alarm._before, "__self__", None), _Alarm):
            alarm, due = outer, [outer, *due] if outer._take() else due
        if due:
            _exceeded(due[0]._stage, due[0]._seconds)
        if callable(alarm._before):
            alarm._before(number, frame)

    def _take(self) -> bool:
        """Whether the signal is this deadline's, said once."""
        mine = self._sent and not self._heard.is_set()
        if mine:
            self._heard.set()
        return mine


def driver_stacks() -> str:
    """The stacks of all threads of this process, by name."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in sys._current_frames().items():
        lines = "".join(traceback.format_stack(frame)).rstrip()
        parts.append(f"Thread {names.get(ident, ident)}:\n{lines}")
    return "\n\n".join(parts)


def _exceeded(stage: str, seconds: float) -> NoReturn:
    event("deadline_exceeded", level=logging.ERROR, stage=stage, seconds=seconds, stacks=driver_stacks())
    raise DeadlineError(
        f"stage {stage} did not end within {seconds:g} s: see the stacks in the event 'deadline_exceeded', or raise "
        f"watchdog.{stage}_deadline_s"
    )
