"""Clients that ask all the time and remember every answer."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from flts_ray.data.frame import RawFrame
from flts_ray.data.source import read_rows
from tests.stages import Bench


def raw_rows(bench: Bench) -> RawFrame:
    """All test rows of the first station as reported."""
    file = next(Path(bench.settings.data.test[0]).glob("*.csv"))
    return read_rows(file.read_bytes(), str(file), bench.settings.data, series=file.stem).frames[0]


def history(bench: Bench, rows: int = 60) -> dict[str, Any]:
    """The last rows of a station in columns form."""
    frame = raw_rows(bench)
    times = [str(moment) for moment in frame.time[-rows:].astype("datetime64[s]")]
    columns = {name: frame.values[-rows:, i].tolist() for i, name in enumerate(frame.columns)}
    return {"columns": {"time": times, **columns}}


@dataclass(frozen=True)
class Reply:
    """What came back, and how long it took; ``status`` 0: the connection broke."""

    status: int
    version: str
    body: bytes
    seconds: float
    at: float


def ask(port: int, body: bytes, *, path: str = "/v1/forecast", timeout_s: float = 30) -> Reply:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        return _exchange(connection, body, path)
    finally:
        connection.close()


def get(port: int, path: str) -> tuple[int, dict[str, Any]]:
    """Status and document of a GET."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def _exchange(connection: http.client.HTTPConnection, body: bytes, path: str) -> Reply:
    started = time.monotonic()
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException):
        connection.close()
        return Reply(0, "", b"", time.monotonic() - started, started)
    version = answer.getheader("X-Model-Version", "")
    return Reply(answer.status, version, content, time.monotonic() - started, started)


@dataclass
class Customers:
    """Several clients, each asking again as soon as it has been answered, until the block ends."""

    port: int
    body: bytes
    clients: int = 4
    pause_s: float = 0.0
    replies: list[Reply] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._ask_on) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _ask_on(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        while not self._stopped.is_set():
            self.replies.append(_exchange(connection, self.body, "/v1/forecast"))
            time.sleep(self.pause_s)
        connection.close()

    @property
    def statuses(self) -> Counter[int]:
        """How often each status came."""
        return Counter(reply.status for reply in list(self.replies))

    @property
    def versions(self) -> list[str]:
        """Versions that answered, in the order of the requests."""
        return [reply.version for reply in sorted(self.replies, key=lambda r: r.at) if reply.status == 200]
