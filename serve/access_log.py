"""The access log: one JSON line a request, written many at a time by a thread, off the event loop.

The program's own events go through ``logging`` one by one, each searched for secrets: 0.14 ms, which a forecast cannot
spare. Here a request costs the appending of a dictionary, and a batch is searched once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

from flts_ray.redaction import redacted
from flts_ray.telemetry.logging import LOGGER
from serve.exchange import Exchange

FLUSH_S = 0.5
MOST_WAITING = 10_000
"""Lines kept while the writer is held up; more are lost and counted."""

SILENT = frozenset({"/healthz", "/readyz"})
"""Paths that are asked every few seconds and say nothing."""


def to_stderr(text: str) -> None:
    """Write where the program's other events go."""
    sys.stderr.write(text)
    sys.stderr.flush()


class AccessLog:
    """Collects the requests of an event loop and writes them every half second.

    Args:
        write: Takes whole lines; called in a thread.
    """

    def __init__(self, write: Callable[[str], None] = to_stderr) -> None:
        self._write = write
        self._waiting: list[tuple[float, dict[str, Any]]] = []
        self._lost = 0
        self._timer: asyncio.TimerHandle | None = None

    def note(self, exchange: Exchange) -> None:
        """Take down a request that has ended."""
        if exchange.path in SILENT or not LOGGER.isEnabledFor(logging.INFO):
            return
        if len(self._waiting) >= MOST_WAITING:
            self._lost += 1
            return
        self._waiting.append((time.time(), exchange.fields()))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._start_flush)

    def flush(self) -> None:
        """Write what waits, here and now."""
        waiting, self._waiting = self._waiting, []
        lost, self._lost = self._lost, 0
        lines = [_line(at, "info", "request", fields) for at, fields in waiting]
        if lost:
            lines.append(_line(time.time(), "warning", "access_log_lost", {"requests": lost}))
        if lines:
            self._write(redacted("".join(lines)))

    def _start_flush(self) -> None:
        loop = asyncio.get_running_loop()
        loop.run_in_executor(None, self.flush).add_done_callback(self._flushed)

    def _flushed(self, done: asyncio.Future[None]) -> None:
        self._timer = None
        if not done.cancelled() and (error := done.exception()) is not None:
            LOGGER.error("access_log_failed", extra={"fields": {"reason": str(error)}})


def _line(at: float, level: str, event: str, fields: dict[str, Any]) -> str:
    """As :class:`flts_ray.telemetry.logging.JsonFormatter` writes it."""
    stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(at))}.{int(at * 1000) % 1000:03d}Z"
    return json.dumps({"ts": stamp, "level": level, "event": event, **fields}, ensure_ascii=False) + "\n"
