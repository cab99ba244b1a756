"""A process shows its stacks whatever it does, unless it is stopped; nobody without a badge is touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flts_ray.training import stacks
from tests.helpers import REPOSITORY

pytestmark = [pytest.mark.unit, pytest.mark.skipif(not Path("/proc").exists(), reason="the system has no /proc")]

LISTENS = """
import sys, threading, time
from flts_ray.training import stacks
threading.Thread(target=stacks.listen).start()
stacks.listen()
def stuck_in_python():
    print("ready", flush=True)
    time.sleep(600)
def stuck_in_c():
    print("ready", flush=True)
    pow(3, 10**9)
"""


@contextmanager
def process(code: str) -> Iterator[int]:
    """Its id, once it has printed a line."""
    with subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            yield child.pid
        finally:
            child.kill()


@pytest.mark.parametrize("function", ["stuck_in_python", "stuck_in_c"])
def test_a_process_shows_what_all_its_threads_do(function: str) -> None:
    with process(f"{LISTENS}\nthreading.Thread(target=time.sleep, args=(600,)).start()\n{function}()") as pid:
        found = stacks.look(pid)
        assert found.alive
        assert f"in {function}" in found.stacks
        assert found.stacks.count("most recent call first") == 2
        assert stacks.look(pid).stacks.count(f"in {function}") == 1, "the second look shows the first one too"
        assert stacks.kill(pid)
    assert stacks.look(pid) == stacks.Look(False, f"no stacks: process {pid} is gone")
    assert not stacks.kill(pid)


SLOW_TO_REGISTER = """
import faulthandler, threading
from flts_ray.training import stacks
register, reached, go_on = faulthandler.register, threading.Event(), threading.Event()
def slow(*args, **options):
    if threading.current_thread().name == "first":
        reached.set()
        go_on.wait(0.5)
    register(*args, **options)
faulthandler.register = slow
threading.Thread(target=stacks.listen, name="first").start()
reached.wait()
stacks.listen()
print("ready", flush=True)
pow(3, 10**9)
"""


def test_who_listens_while_another_thread_begins_to_shows_its_stacks() -> None:
    with process(SLOW_TO_REGISTER) as pid:
        assert "most recent call first" in stacks.look(pid).stacks


def test_a_stopped_process_has_no_stacks_and_is_ended_all_the_same() -> None:
    with process(f"{LISTENS}\nstuck_in_python()") as pid:
        os.kill(pid, signal.SIGSTOP)
        while stacks._state(pid) != "T":
            time.sleep(0.01)
        found = stacks.look(pid)
        assert found.alive
        assert "is stopped (state T)" in found.stacks
        assert stacks.kill(pid)


def test_a_process_of_somebody_else_is_left_alone() -> None:
    with process("import time; print('ready', flush=True); time.sleep(600)") as pid:
        assert not stacks.look(pid).alive
        assert not stacks.kill(pid)
        os.kill(pid, 0)
