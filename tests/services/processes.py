"""A server process with its children: started, watched, frozen, and ended without leaving anything behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

FROZEN_LIMIT_S = 10.0


class ServerProcess:
    """One command that serves until it is stopped; its output goes to a log.

    Args:
        name: What it is, for errors.
        log: File of its output, appended to.
    """

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        cwd: Path | None = None,
        ready: Callable[[], bool],
        timeout_s: float = 90.0,
    ) -> None:
        """Start it and wait until it is ready.

        Raises:
            RuntimeError: If it ended or was not ready in time; it is stopped then. Ends with the end of the log.
        """
        assert not self.running, f"{self.name} runs already"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                list(command),
                env=None if env is None else dict(env),
                cwd=cwd or self.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
                start_new_session=True,  # Ctrl-C in the terminal is for whoever started it
            )
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.running or time.monotonic() > deadline:
                self.kill()
                tail = self.log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self.name} did not start:\n{tail}")
            time.sleep(0.1)

    def stop(self, how: signal.Signals = signal.SIGTERM, timeout_s: float = 20.0) -> None:
        """End it politely, and by force what is left after the time limit."""
        if self._process is None:
            return
        members = self._tree()
        self._signal(members, signal.SIGCONT)
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        self._end(members)

    def kill(self) -> None:
        """End it and its children at once."""
        self._end(self._tree())

    def pause(self) -> None:
        """Freeze all of it: connections are accepted by the kernel, and nobody answers."""
        members = self._tree()
        self._signal(members, signal.SIGSTOP)
        deadline = time.monotonic() + FROZEN_LIMIT_S
        while any(_status(member) not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, "") for member in members):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not freeze")
            time.sleep(0.01)

    def resume(self) -> None:
        self._signal(self._tree(), signal.SIGCONT)

    def _tree(self) -> list[psutil.Process]:
        if self._process is None or self._process.poll() is not None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        return []

    def _end(self, members: list[psutil.Process]) -> None:
        self._signal(members, signal.SIGKILL)
        psutil.wait_procs(members[1:], timeout=10)
        if self._process is not None:
            self._process.wait(10)
            self._process = None

    def _signal(self, members: list[psutil.Process], number: signal.Signals) -> None:
        for member in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.send_signal(number)


def _status(member: psutil.Process) -> str:
    try:
        return str(member.status())
    except psutil.NoSuchProcess:
        return ""


def quiet_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This environment without what configures clients of the servers, and with ``extra``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PG", "AWS_"))}
    return {**kept, **extra}
