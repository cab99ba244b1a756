"""Python stacks out of another process, without a debugger: it writes them itself when a signal comes.

A process that :func:`listen` was called in answers SIGUSR1, in C and from whatever it is doing, by writing the stacks
of all its threads into an anonymous file of its own, which others of the same user read under ``/proc``. The file is
also its badge: no process without it is ever signalled. Where there is no ``/proc`` (macOS) there are no stacks.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

BADGE = "flts-stacks"
ANSWER_S = 3.0
POLL_S = 0.05
PROC = Path("/proc")
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True, slots=True)
class Look:
    """A look at a process.

    Attributes:
        alive: Whether it is there.
        stacks: The stacks of its threads, or why there are none.
    """

    alive: bool
    stacks: str


def listen() -> None:
    """Let others see this process's stacks from now on. Calling it again changes nothing; any thread may."""
    with _ONE_AT_A_TIME:  # a badge shows before its file is written to: of two, others would read the wrong one
        if hasattr(os, "memfd_create") and _badge(os.getpid()) is None:
            file = os.fdopen(os.memfd_create(BADGE), "w")
            faulthandler.register(signal.SIGUSR1, file=file, all_threads=True)  # keeps the file open


def look(pid: int) -> Look:
    """The stacks of a process of this machine that listens."""
    if not PROC.exists():
        return Look(_exists(pid), "no stacks: this system has no /proc")
    badge = _badge(pid)
    if badge is None:
        return Look(False, f"no stacks: process {pid} is gone")
    state = _state(pid)
    if state in ("T", "t"):
        return Look(True, f"no stacks: process {pid} is stopped (state {state}), so it answers no signal")
    try:
        start = len(badge.read_bytes())
        os.kill(pid, signal.SIGUSR1)
        written = _answer(badge, start)
    except (ProcessLookupError, FileNotFoundError):
        return Look(False, f"no stacks: process {pid} ended just now")
    return Look(True, written or f"no stacks: process {pid} (state {_state(pid)}) did not answer within {ANSWER_S} s")


def kill(pid: int) -> bool:
    """SIGKILL a process of this machine that listens.

    Returns:
        Whether there was one.
    """
    if PROC.exists() and _badge(pid) is None:
        return False
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def _answer(badge: Path, start: int) -> str:
    """What a process writes behind ``start``: read once it has stopped growing."""
    until, before = time.monotonic() + ANSWER_S, b""
    while time.monotonic() < until:
        time.sleep(POLL_S)
        found = badge.read_bytes()[start:]
        if found and found == before:
            return found.decode("utf-8", "replace").strip()
        before = found
    return before.decode("utf-8", "replace").strip()


def _badge(pid: int) -> Path | None:
    with suppress(OSError):
        for entry in (PROC / str(pid) / "fd").iterdir():
            with suppress(OSError):
                if str(entry.readlink()).startswith(f"/memfd:{BADGE}"):
                    return entry
    return None


def _state(pid: int) -> str:
    """The letter that the kernel gives: R running, S sleeping, D waiting for a device, T stopped, Z ended."""
    with suppress(OSError):
        return (PROC / str(pid) / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    return "?"


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
