"""What the service answered and what it saw, written down beside the request path.

A request appends to a bounded buffer and goes on; a thread turns the buffer into Parquet segments, each one object
that is created once and never touched again:
``predictions/<identifier>/date=YYYY-MM-DD/<replica>-<utc time>-<number>.parquet``, the date being that of writing.
While the store is away rows wait; beyond ``buffer_rows`` the oldest that are not on their way are dropped and counted,
so that at any time ``recorded == written + pending + lost``. What a segment holds:
:mod:`flts_ray.inference.prediction_rows`.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from flts_ray.config_serving import PredictionLogSettings
from flts_ray.data.storage import Store
from flts_ray.errors import StorageError
from flts_ray.inference.prediction_rows import Answer, encode, folder_of
from flts_ray.inference.queries import Forecast, Query
from flts_ray.telemetry.logging import event

STORE_PATIENCE_S = 10.0
"""How long one attempt to write waits for a store that is away; the next attempt comes with the next flush."""


@dataclass(frozen=True, slots=True)
class _Segment:
    """Bytes on their way to one object: tried again unchanged, so that a lost answer cannot write rows twice."""

    path: str
    content: bytes
    rows: int


class PredictionLog:
    """The log of one replica.

    Args:
        store: Where segments go; a store that is away is given ``STORE_PATIENCE_S`` an attempt.
        settings: How often and how much.
        identifier: What the models forecast, such as ``PobleSec``.
        replica: Name of this replica; no two may write at the same time under one name.
        on_lost: Told how many rows were lost, from the writer's thread.
    """

    def __init__(
        self,
        store: Store,
        settings: PredictionLogSettings,
        *,
        identifier: str,
        replica: str,
        on_lost: Callable[[int], None] = lambda rows: None,
    ) -> None:
        patience_s = min(store.settings.deadline_s, STORE_PATIENCE_S)
        self._store = Store(store.uri, store.settings.model_copy(update={"deadline_s": patience_s}))
        self._settings, self._on_lost = settings, on_lost
        self._folder, self._replica = folder_of(identifier), re.sub(r"[^\w-]+", "_", replica, flags=re.ASCII)
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._answers: deque[Answer] = deque()
        self._segment: _Segment | None = None
        self._buffered = self._in_flight = self._written = self._lost = self._told = self._number = 0
        self._closed = self._given_up = self._away = self._warned = False
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    @property
    def written(self) -> int:
        """Rows in the store."""
        return self._written

    @property
    def pending(self) -> int:
        """Rows that wait, or are on their way; never more than ``buffer_rows``."""
        with self._lock:
            return self._buffered + self._in_flight

    @property
    def lost(self) -> int:
        """Rows that were dropped."""
        return self._lost

    def record(self, request_id: str, model_name: str, version: str, query: Query, forecast: Forecast) -> None:
        """Note an answer; takes microseconds, whatever the store does.

        Args:
            request_id: Of the request.
            model_name: Registered model.
            version: Its version.
            query: What was asked; of its history the last row is kept.
            forecast: What was answered, intervals of the first level.
        """
        answer = Answer(
            logged_ns=time.time_ns(),
            request_id=request_id,
            model=model_name,
            version=version,
            columns=query.history.columns,
            reported=query.history.values[-1:].copy(),  # a view would keep the whole history
            forecast=forecast,
        )
        with self._lock:
            if self._closed:
                self._lost += answer.rows
                return
            self._answers.append(answer)
            self._buffered += answer.rows
            while self._answers and self._buffered + self._in_flight > self._settings.buffer_rows:
                dropped = self._answers.popleft().rows
                self._buffered -= dropped
                self._lost += dropped
            full = self._buffered >= self._settings.segment_rows
        if full and not self._away:
            self._wake.set()

    def close(self, timeout_s: float) -> None:
        """Write what waits and end; what cannot be written in time is lost and counted. Nothing is recorded after."""
        with self._lock:
            self._closed = True
        self._wake.set()
        self._thread.join(timeout_s)
        with self._lock:
            self._given_up = True
            self._lost += self._buffered + self._in_flight
            self._buffered = self._in_flight = 0
            self._answers.clear()
        self._tell()

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait(self._settings.flush_s)
            self._wake.clear()
            self._flush()
            self._tell()
        self._flush()

    def _flush(self) -> None:
        """Write segments until nothing waits or the store fails."""
        while (segment := self._segment or self._next_segment()) is not None:
            self._segment = segment
            try:
                # An earlier attempt may have written it and lost the answer.
                written = self._store.create(segment.path, segment.content) or (
                    self._store.read_bytes(segment.path) == segment.content
                )
            except StorageError as error:
                if not self._away:
                    event("prediction_log_waits", level=logging.WARNING, pending=self.pending, reason=str(error))
                self._away = True
                return
            self._segment = None
            self._settle(segment.rows, written=written)
            if not written:
                event("prediction_log_name_taken", level=logging.ERROR, path=segment.path, rows=segment.rows)
        if self._away:
            event("prediction_log_goes_on", written=self._written, lost=self._lost)
        self._away = self._warned = False

    def _next_segment(self) -> _Segment | None:
        """Take the oldest answers out of the buffer: ``segment_rows`` rows, or what the last answer has beyond them."""
        while True:
            taken: list[Answer] = []
            rows = 0
            with self._lock:
                while self._answers and rows < self._settings.segment_rows:
                    taken.append(self._answers.popleft())
                    rows += taken[-1].rows
                self._buffered -= rows
                self._in_flight = rows
            if not taken:
                return None
            try:
                content = encode(taken)
            except (TypeError, ValueError) as error:  # Arrow's own errors are of these kinds
                event("prediction_log_unwritable", level=logging.ERROR, rows=rows, reason=str(error))
                self._settle(rows, written=False)
                continue
            self._number += 1
            now = datetime.now(UTC)
            name = f"{self._replica}-{now:%Y%m%dT%H%M%S.%fZ}-{self._number:06d}.parquet"
            return _Segment(f"{self._folder}/date={now:%Y-%m-%d}/{name}", content, rows)

    def _settle(self, rows: int, *, written: bool) -> None:
        """Count what was on its way, unless :meth:`close` has counted it as lost already."""
        with self._lock:
            if not self._given_up:
                self._written += rows if written else 0
                self._lost += 0 if written else rows
                self._in_flight = 0

    def _tell(self) -> None:
        """Report new losses; one event an outage."""
        new = self._lost - self._told
        if new == 0:
            return
        if not self._warned:
            event("prediction_log_lost_rows", level=logging.WARNING, rows=new, pending=self.pending)
        self._warned = self._away
        self._told += new
        self._on_lost(new)
