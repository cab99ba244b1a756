"""A user at a desk: sources, a home, commands in the foreground and in the background, and what MLflow says of them."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import psutil

from tests.helpers import FLTS, REPOSITORY, Answer, clean_environment, flts, sets, write_stations

NETWORK = {
    "training.epochs": 6,
    "training.batch_size": 32,
    "training.learning_rate": 0.01,
    "recurrent.hidden_size": 16,
    "run.num_cpus": 2,
}
CLOCKS = ("fit_s", "predict_s")
LISTENING_FLTS = [*FLTS[:-1], f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {FLTS[-1]}"]
"""What runs in the background of a script inherits that Ctrl-C is ignored; these tests are about a terminal."""


@dataclass(frozen=True)
class Desk:
    """A user's folder: sources, a home, and one MLflow store in it."""

    folder: Path
    stations: tuple[str, ...] = ("alpha",)

    @cached_property
    def sources(self) -> list[str]:
        train, test = write_stations(self.folder, self.stations)
        return ["--train", train, "--test", test]

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def run(self, *more: str, env: dict[str, str] | None = None, **settings: Any) -> Answer:
        values = {**NETWORK, **{key.replace("__", "."): value for key, value in settings.items()}}
        return flts(
            "run", "--json", *self.sources, "--home", str(self.home), *sets(values), *more, cwd=self.folder, env=env
        )

    def ask(self, *arguments: str) -> Answer:
        return flts(*arguments, "--home", str(self.home), cwd=self.folder)

    def query(self, sql: str, *values: str) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.home / "mlflow.db") as store:
            rows = store.execute(sql, values).fetchall()
        store.close()
        return rows

    def statuses(self) -> dict[str, list[str]]:
        """Statuses of all MLflow runs, by what they are."""
        found: dict[str, list[str]] = {}
        rows = self.query(
            "SELECT r.status, (SELECT value FROM tags t WHERE t.run_uuid = r.run_uuid AND t.key = 'kind') FROM runs r"
        )
        for status, kind in rows:
            found.setdefault(kind or "parent", []).append(status)
        return found


def scores(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The leaderboard of a run without the times in it."""
    return [{k: v for k, v in row.items() if k not in CLOCKS} for row in document["leaderboard"]]


class Started:
    """A command in the background, whose events can be waited for. Use as a context manager: it is killed at the end.

    Args:
        arguments: Of ``flts``.
        cwd: Where it runs.
        env: More environment variables.
        crash: Python that runs before the command does, with :mod:`tests.faults.crash` at hand.
    """

    def __init__(
        self, arguments: list[str], cwd: Path, env: Mapping[str, str] | None = None, *, crash: str = ""
    ) -> None:
        prelude = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from tests.faults import crash; {crash}; "
        python, option, code = LISTENING_FLTS
        self.process = subprocess.Popen(
            [python, option, prelude + code if crash else code, *arguments],
            cwd=cwd,
            env=clean_environment(env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self.written: list[str] = []
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        # Both pipes are read all the time: a full one would stop the command.
        self.readers = [
            threading.Thread(target=self._read, args=(self.process.stderr, self.lines), daemon=True),
            threading.Thread(target=self._read, args=(self.process.stdout, self.written), daemon=True),
        ]
        for reader in self.readers:
            reader.start()

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.kill()

    @staticmethod
    def _read(stream: IO[str], lines: list[str]) -> None:
        with stream:
            lines.extend(iter(stream.readline, ""))

    def events(self) -> list[dict[str, Any]]:
        """What has been logged so far."""
        return [json.loads(line) for line in list(self.lines) if line.startswith('{"ts"') and line.endswith("\n")]

    def wait_for(
        self, wanted: Callable[[dict[str, Any]], bool], what: str, *, timeout_s: float = 240
    ) -> dict[str, Any]:
        """The first event that is wanted, as soon as it is there."""
        until = time.monotonic() + timeout_s
        while True:
            ended = self.process.poll() is not None
            for found in self.events():
                if wanted(found):
                    return found
            if ended or time.monotonic() > until:
                raise AssertionError(f"no {what}:\n{''.join(self.lines)[-3000:]}")
            time.sleep(0.05)

    def wait_for_epoch(self, epoch: int) -> dict[str, Any]:
        """The end of this epoch or a later one."""
        return self.wait_for(
            lambda e: e["event"] == "heartbeat" and e["stage"] == "epoch" and e["epoch"] >= epoch, f"epoch {epoch}"
        )

    def wait_for_event(self, name: str, **fields: Any) -> dict[str, Any]:
        """An event of this name with these fields."""
        return self.wait_for(
            lambda e: e["event"] == name and all(e.get(key) == value for key, value in fields.items()), name
        )

    def kill(self) -> None:
        """SIGKILL, without any chance to clean up; and wait until what belonged to it is gone too."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()
        psutil.wait_procs(family, timeout=30)

    def end(self, number: signal.Signals) -> tuple[Answer, list[str]]:
        """Send a signal; also the names of descendants that outlive the process."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        assert any("raylet" in (p.name() or "") for p in family), "Ray does not run"
        self.process.send_signal(number)
        answer = self.answer(timeout_s=90)
        _, alive = psutil.wait_procs(family, timeout=30)
        return answer, [p.name() for p in alive]

    def answer(self, *, timeout_s: float = 240) -> Answer:
        """Wait for the end."""
        code = self.process.wait(timeout=timeout_s)
        for reader in self.readers:
            reader.join(timeout=10)
        return Answer(code, "".join(self.written), "".join(self.lines))
