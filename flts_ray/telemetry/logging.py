"""Events as JSON lines on stderr (and in the run's own file)."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any, TextIO

from flts_ray.redaction import redacted

WARNING, ERROR = logging.WARNING, logging.ERROR
EARLY_EVENTS = 10_000
"""Events kept for the file that is not known yet."""

LOGGER = logging.getLogger("flts_ray")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``ts``, ``level``, ``event``, then the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        fields: dict[str, Any] = {
            "ts": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
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
    for handler in LOGGER.handlers[:]:
        LOGGER.removeHandler(handler)
        handler.close()
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setLevel(logging.WARNING if quiet else logging.INFO)
    handler.setFormatter(JsonFormatter())
    LOGGER.addHandler(handler)
    LOGGER.addHandler(MemoryHandler(capacity=EARLY_EVENTS, flushLevel=logging.CRITICAL + 1, flushOnClose=False))


@contextmanager
def events_to(file: Path) -> Iterator[None]:
    """Inside, every event is also added to ``file``, those that came before it was known included."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(JsonFormatter())
    for early in [h for h in LOGGER.handlers if isinstance(h, MemoryHandler)]:
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
