"""Runs in the home folder: opened by one process at a time, continued after a kill, read back when finished."""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from flts_ray.errors import BusyError, ConfigError, IntegrityError

RUNS = "runs"
START_FILE = "started.json"
RUN_FILE = "run.json"
LOCK_FILE = ".lock"
GLANCE_S = 0.5
WITHOUT_VERDICT = ("train", "backtest")
"""Commands whose runs promote nothing."""


@dataclass(kw_only=True)
class RunFolder:
    """The folder of a run that this process carries on. Use as a context manager: leaving lets go of it.

    While it is held, a lock of the operating system on it says so; the lock ends with the process, however that dies.

    Attributes:
        run_id: Name of the run and of its folder.
        folder: Where its files lie.
        attempt: 1, and one more each time the run was taken up again.
    """

    run_id: str
    folder: Path
    attempt: int
    _lock: IO[bytes]

    @property
    def resumed(self) -> bool:
        """Whether an earlier process began this run."""
        return self.attempt > 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()

    def discard(self) -> None:
        """Remove the folder of a run that never got anywhere, such as one whose input was refused."""
        shutil.rmtree(self.folder, ignore_errors=True)


def open_run(home: Path, settings_digest: str, submission_id: str | None = None) -> RunFolder:
    """Take up the run that these settings began and did not finish, or begin a new one.

    Args:
        home: The home folder.
        settings_digest: Digest of every setting: the same command in the same place has the same.
        submission_id: Name of the job, if a cluster gave it one; it is the run's identity then.

    Raises:
        BusyError: If another process works under this submission id.
    """
    if submission_id is not None:
        name = re.sub(r"[^\w.-]", "_", submission_id, flags=re.ASCII)[:200]
        found = _take(home / RUNS / name, name, settings_digest)
        if found is None:
            raise BusyError(f"run {submission_id} is at work in another process: wait for it, or stop it first")
        return found
    for name in reversed(unfinished_runs(home)):
        if _started(home / RUNS / name).get("settings_digest") == settings_digest:
            found = _take(home / RUNS / name, name, settings_digest)
            if found is not None:
                return found
    name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
    fresh = _take(home / RUNS / name, name, settings_digest)
    if fresh is None:
        raise BusyError(f"run {name} was taken by another process: try again")
    return fresh


def _take(folder: Path, run_id: str, settings_digest: str) -> RunFolder | None:
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / LOCK_FILE).open("ab")
    if not _locked(lock):
        lock.close()
        return None
    attempt = int(_started(folder).get("attempt", 0)) + 1
    record = {
        "run_id": run_id,
        "settings_digest": settings_digest,
        "attempt": attempt,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    temporary = folder / f".{START_FILE}.tmp"
    temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
    temporary.replace(folder / START_FILE)
    return RunFolder(run_id=run_id, folder=folder, attempt=attempt, _lock=lock)


def _locked(lock: IO[bytes]) -> bool:
    """Take the lock; others hold it for an instant when they look whether the run is at work, and longer if it is."""
    until = time.monotonic() + GLANCE_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.02)


def is_alive(folder: Path) -> bool:
    """Whether a process holds this run's folder just now (on this machine, or on a file system with shared locks)."""
    with suppress(FileNotFoundError), (folder / LOCK_FILE).open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def begun_runs(home: Path) -> list[str]:
    """Ids of all runs, the one whose last attempt began first before the others."""
    files = sorted((home / RUNS).glob(f"*/{START_FILE}"), key=lambda file: file.stat().st_mtime_ns)
    return [file.parent.name for file in files]


def unfinished_runs(home: Path) -> list[str]:
    """Ids of the runs that began and have no verdict, oldest first; those at work now included."""
    return [name for name in begun_runs(home) if not (home / RUNS / name / RUN_FILE).exists()]


def finished_runs(home: Path) -> list[str]:
    """Ids of the runs that ended with a verdict, oldest first."""
    files = sorted((home / RUNS).glob(f"*/{RUN_FILE}"), key=lambda file: file.stat().st_mtime_ns)
    return [file.parent.name for file in files]


def read_run(home: Path, run_id: str | None) -> dict[str, Any]:
    """The document of a finished run, as ``flts run --json`` printed it.

    Args:
        home: The home folder.
        run_id: Which run; None: the latest that has a verdict (``train`` ends without one).

    Raises:
        ConfigError: If there is no such run.
        IntegrityError: If its file cannot be read.
    """
    known = finished_runs(home)
    if not known:
        raise ConfigError(f"there is no finished run in {home}: start one with `flts run`, or name another --home")
    if run_id is not None and run_id not in known:
        raise ConfigError(f"there is no finished run '{run_id}' in {home}: the latest is {known[-1]}")
    if run_id is not None:
        return _document(home, run_id)
    for name in reversed(known):
        document = _document(home, name)
        if document.get("command") not in WITHOUT_VERDICT:
            return document
    raise ConfigError(f"no run in {home} has come to a verdict yet: start one with `flts run` or `flts evaluate`")


def _document(home: Path, run_id: str) -> dict[str, Any]:
    file = home / RUNS / run_id / RUN_FILE
    try:
        document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{file} cannot be read ({error}): run again") from error
    return document


def _started(folder: Path) -> dict[str, Any]:
    """What an earlier attempt left behind; nothing if it was cut off before it could."""
    try:
        found = json.loads((folder / START_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
