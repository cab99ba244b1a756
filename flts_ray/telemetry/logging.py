"""Events as JSON lines on stderr (and in the run's own file), each with what is known of its place.

The place (build, job, run, dataset, node, worker) is a property of the process, as the handlers are: it is kept as
filters of the logger, so that every thread's lines carry it. An event's own fields go before it.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any, TextIO

from flts_ray.build import build_id
from flts_ray.redaction import redacted

WARNING, ERROR = logging.WARNING, logging.ERROR
EARLY_EVENTS = 10_000
"""Events kept for the file that is not known yet."""

LOGGER = logging.getLogger("flts_ray")


class Place(logging.Filter):
    """Adds fields to every event; those of the event itself go before them."""

    def __init__(self, fields: dict[str, Any]) -> None:
        """Take the first fields; what is None or empty is not known."""
        super().__init__()
        self.fields: dict[str, Any] = {}
        self.add(fields)

    def add(self, fields: dict[str, Any]) -> None:
        """Take more fields."""
        self.fields = {**self.fields, **{name: value for name, value in fields.items() if value not in (None, "")}}

    def filter(self, record: logging.LogRecord) -> bool:
        """Complete a record; none is held back."""
        record.place = {**getattr(record, "place", {}), **self.fields}
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``ts``, ``level``, ``event``, then its place and the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        fields: dict[str, Any] = {
            "ts": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "place", {}),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return redacted(json.dumps(fields, default=str, ensure_ascii=False))  # the last chance to keep a secret


def configure(*, quiet: bool = False, stream: TextIO | None = None) -> None:
    """Send events to stderr, and keep them until :func:`events_to`. Called once, by the entry point.

    Args:
        quiet: Only warnings and errors on stderr.
        stream: Where to send them instead.
    """
    reset()
    _send_to(stream or sys.stderr, logging.WARNING if quiet else logging.INFO)
    LOGGER.addHandler(MemoryHandler(capacity=EARLY_EVENTS, flushLevel=logging.CRITICAL + 1, flushOnClose=False))


def reset() -> None:
    """Send events nowhere, as before :func:`configure`."""
    for handler in LOGGER.handlers[:]:
        LOGGER.removeHandler(handler)
        handler.close()
    LOGGER.propagate = True


def configure_worker() -> None:
    """Send the events of a process that Ray started to its stderr, which Ray keeps as its log; once is enough."""
    if not LOGGER.handlers:
        _send_to(sys.stderr, logging.INFO)


def _send_to(stream: TextIO, level: int) -> None:
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    handler = logging.StreamHandler(stream)
    handler.setLevel(level)
    handler.setFormatter(JsonFormatter())
    LOGGER.addHandler(handler)


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Inside, every event of this process also has these fields, whichever thread it comes from."""
    place = Place({"host": socket.gethostname(), "build": build_id(), **fields})
    LOGGER.addFilter(place)
    try:
        yield
    finally:
        LOGGER.removeFilter(place)


def bind(**fields: Any) -> None:
    """From now on, until the innermost :func:`bound` is left, every event has these fields too."""
    if places := _places():
        places[-1].add(fields)


def whereabouts() -> dict[str, Any]:
    """The fields that every event has just now."""
    return {name: value for place in _places() for name, value in place.fields.items()}


def _places() -> list[Place]:
    return [found for found in LOGGER.filters if isinstance(found, Place)]


@contextmanager
def events_to(file: Path) -> Iterator[None]:
    """Inside, every event is also added to ``file``, those that came before it was known included."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(JsonFormatter())
    for early in [h for h in LOGGER.handlers if isinstance(h, MemoryHandler)]:
        for record in early.buffer:
            for place in _places():
                place.filter(record)  # what came before its place was known
        early.setTarget(handler)
        early.flush()
        LOGGER.removeHandler(early)
    LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        handler.close()


def event(name: str, /, *, level: int = logging.INFO, **fields: Any) -> None:
    """Log one event with its fields."""
    LOGGER.log(level, name, extra={"fields": fields})
