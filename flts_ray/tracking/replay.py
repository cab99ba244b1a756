"""Delivers a journal: in order, each operation with the effect of having been sent once, none of them lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from logging import WARNING

from flts_ray.errors import IntegrityError, TrackingError
from flts_ray.telemetry.logging import event
from flts_ray.tracking.client import METRICS_PER_BATCH, error_code, is_refusal
from flts_ray.tracking.delivery import Delivery, UnknownRunError
from flts_ray.tracking.journal import Cursor, Journal, Line, Op


@dataclass
class Replay:
    """Delivers what a journal still holds. Only for the process that holds it: see :meth:`Journal.held`.

    Attributes:
        journal: What to deliver.
        delivery: To where.
        until: Offset to stop at; None: the end, as it grows.
        cursor: How far it got.
        rejected: Operations given up on.
    """

    journal: Journal
    delivery: Delivery
    until: int | None = None
    cursor: Cursor = field(init=False)
    rejected: int = 0
    _lines: deque[Line] = field(default_factory=deque)
    _alone: int = 0
    _rewound: bool = False
    _told: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        store, noted = self.delivery.gateway.store, self.journal.sent()
        # What another store was sent, this one has not got: it is told everything from the beginning.
        self.cursor = noted if noted.store == store else Cursor(store=store)

    def step(self) -> bool:
        """Deliver the next operation, or as many metrics as go into one call.

        Returns:
            Whether there was one.

        Raises:
            TrackingError: If the store did not answer; the next step tries the same again.
        """
        if not self._lines:
            lines = self.journal.read(self.cursor.bytes)
            self._lines.extend(line for line in lines if self.until is None or line.end <= self.until)
        if not self._lines:
            return False
        group = self._next_group()
        try:
            self.delivery.deliver([Op.parse(line.text) for line in group], self.journal.folder)
        except (IntegrityError, TrackingError) as error:
            if _unknown(error) and not self._rewound:
                self._rewind(str(error))
                return True
            if not isinstance(error, IntegrityError) and not is_refusal(error):
                self.delivery.forget()
                raise
            if len(group) > 1:  # a refusal of the batch must not cost the others
                self._alone = len(group)
                return True
            self._reject(group[0], str(error))
        self._advance(group)
        return True

    def _next_group(self) -> list[Line]:
        """The next line, with the metrics that follow it if it holds metrics too."""
        group = [self._lines[0]]
        if self._alone:
            self._alone -= 1
            return group
        points = _points(group[0])
        for line in list(self._lines)[1:] if points else []:
            more = _points(line)
            if not more or points + more > METRICS_PER_BATCH:
                break
            points += more
            group.append(line)
        return group

    def _rewind(self, reason: str) -> None:
        """Tell the store everything again: it has lost what it was told, or was replaced by another."""
        event("tracking_replayed", level=WARNING, journal=str(self.journal.file), reason=reason)
        self._rewound = True
        self._alone = 0
        self._lines.clear()
        self.delivery.forget()
        self.cursor = Cursor(store=self.cursor.store)

    def _reject(self, line: Line, reason: str) -> None:
        self.rejected += 1
        try:
            self.journal.reject(line.text, reason)
        except OSError as error:
            reason = f"{reason} (and it could not be put aside: {error})"
        try:
            op = Op.parse(line.text)
            run, kind = op.run, op.kind
        except IntegrityError:
            run, kind = "", "damaged"
        if (kind, reason) not in self._told:
            self._told.add((kind, reason))
            event("tracking_rejected", level=WARNING, run=run, op=kind, reason=reason)

    def _advance(self, group: Sequence[Line]) -> None:
        for _ in group:
            self._lines.popleft()
        self.cursor = Cursor(self.cursor.ops + len(group), group[-1].end, self.cursor.store)
        try:
            self.journal.save_sent(self.cursor)
        except OSError as error:  # sent again after a restart, which changes nothing
            if ("sent", "") not in self._told:
                self._told.add(("sent", ""))
                event("tracking_sent_unsaved", level=WARNING, journal=str(self.journal.file), reason=str(error))


def _points(line: Line) -> int:
    """Metric points in a line; 0 if it holds something else."""
    try:
        op = Op.parse(line.text)
        return len(op.body["values"]) if op.kind == "metrics" else 0
    except (IntegrityError, KeyError, TypeError):
        return 0


def _unknown(error: Exception) -> bool:
    return isinstance(error, UnknownRunError) or error_code(error) == "RESOURCE_DOES_NOT_EXIST"
