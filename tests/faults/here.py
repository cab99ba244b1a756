"""Whole runs in this process, on the Ray of the test session: for faults that leave the driver alive."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flts_ray.config_layers import load_settings
from flts_ray.pipeline import run_pipeline
from flts_ray.results import RunResult
from flts_ray.telemetry.logging import LOGGER
from tests.desk import NETWORK, Desk
from tests.faults.conftest import FAULT_SETTINGS

Event = dict[str, Any]


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.events: list[Event] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.events.append({"event": record.getMessage(), "at_s": record.created, **getattr(record, "fields", {})})


@contextmanager
def captured() -> Iterator[list[Event]]:
    """Every event logged inside, each with ``at_s`` in seconds since 1970."""
    collector = _Collector()
    with _listening(collector):
        yield collector.events


@contextmanager
def when(act: Callable[[Event], None], name: str, **fields: Any) -> Iterator[None]:
    """Inside, do something the first time that an event of this name with these fields is logged, on its thread."""
    with _listening(_Trigger(act, name, fields)):
        yield


@contextmanager
def _listening(handler: logging.Handler) -> Iterator[None]:
    level = LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)


class _Trigger(logging.Handler):
    def __init__(self, act: Callable[[Event], None], name: str, fields: dict[str, Any]) -> None:
        super().__init__(logging.INFO)
        self.act: Callable[[Event], None] | None = act
        self.wanted, self.fields = name, fields

    def emit(self, record: logging.LogRecord) -> None:
        found = getattr(record, "fields", {})
        if record.getMessage() == self.wanted and all(found.get(key) == value for key, value in self.fields.items()):
            act, self.act = self.act, None
            if act is not None:
                act(found)


def named(events: list[Event], name: str, **fields: Any) -> list[Event]:
    """Events of one name with these fields."""
    return [e for e in events if e["event"] == name and all(e.get(key) == value for key, value in fields.items())]


def run_here(desk: Desk, **settings: Any) -> RunResult:
    """``flts run`` on the desk's sources and home, without a process of its own."""
    chosen = {key.replace("__", "."): value for key, value in {**FAULT_SETTINGS, **settings}.items()}
    values = {**NETWORK, **chosen}
    train, test = desk.sources[1], desk.sources[3]
    resolved = load_settings(
        assignments=[f"{key}={value}" for key, value in values.items()],
        options={"data.train": (train,), "data.test": (test,), "run.home": str(desk.home)},
        environ={},
    )
    return run_pipeline(resolved)
