"""What a run tells the tracker, on disk before anything is sent: one operation a line, in order, never rewritten.

Beside the journal lie ``tracking.sent`` (how far it was delivered, and to which store) and ``tracking.rejected.jsonl``
(what the store refused for good, with the reason). Files that operations refer to lie in ``artifacts/`` of the same
folder, so that a run's folder can be delivered from anywhere.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from logging import ERROR
from pathlib import Path
from typing import Any, NamedTuple

from flts_ray.errors import IntegrityError, StorageError
from flts_ray.telemetry.logging import event

JOURNAL_FILE, SENT_FILE = "tracking.jsonl", "tracking.sent"
REJECTED_FILE, LOCK_FILE = "tracking.rejected.jsonl", "tracking.lock"
KINDS = frozenset({"start", "params", "metrics", "tags", "dataset", "file", "folder", "end"})
MAX_UNWRITTEN = 10_000
"""Lines kept in memory while the disk refuses them."""


@dataclass(frozen=True, slots=True)
class Op:
    """One operation on one run.

    Attributes:
        run: Key of the run.
        kind: One of ``KINDS``.
        at_ms: When it was recorded, in milliseconds since 1970.
        body: Its own fields.
    """

    run: str
    kind: str
    at_ms: int
    body: dict[str, Any]

    def line(self) -> bytes:
        """The operation as one line of JSON, without NaN and infinity (they become null)."""
        fields = {"at_ms": self.at_ms, "run": self.run, "op": self.kind, **self.body}
        return json.dumps(fields, ensure_ascii=False, allow_nan=False).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> Op:
        """The operation that a line holds.

        Raises:
            IntegrityError: If the line is damaged.
        """
        try:
            fields = json.loads(line)
            run, kind, at_ms = str(fields.pop("run")), str(fields.pop("op")), int(fields.pop("at_ms"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"the line is damaged ({type(error).__name__}: {error})") from error
        if kind not in KINDS:
            raise IntegrityError(f"the operation '{kind[:50]}' is unknown")
        return cls(run, kind, at_ms, fields)


class Line(NamedTuple):
    """A whole line of a journal, and the offset behind it."""

    text: bytes
    end: int


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a journal was delivered, and to which store.

    Attributes:
        ops: Lines delivered or rejected.
        bytes: Offset behind the last of them.
        store: Name of the store.
    """

    ops: int = 0
    bytes: int = 0
    store: str = ""


@dataclass(slots=True)
class Summary:
    """What a journal says, read once from its beginning.

    Attributes:
        ops: Whole lines, damaged ones included.
        open_runs: Token of the last start of every run that has not ended, in order of start.
        metrics: Last value of every run, metric and step.
        first_ms: Time of the first operation; 0 if there is none.
        last_ms: Time of the last operation.
        store: Store that the last start was meant for.
    """

    ops: int
    open_runs: dict[str, str]
    metrics: dict[tuple[str, str, int], float | None]
    first_ms: int = 0
    last_ms: int = 0
    store: str = ""

    def take(self, op: Op) -> None:
        """Follow one more operation."""
        self.first_ms = self.first_ms or op.at_ms
        self.last_ms = max(self.last_ms, op.at_ms)
        if op.kind == "start":
            self.open_runs[op.run] = str(op.body.get("id", ""))
            self.store = str(op.body.get("store", ""))
        elif op.kind == "end":
            self.open_runs.pop(op.run, None)
        elif op.kind == "metrics":
            for name, value in op.body.get("values", {}).items():
                self.metrics[op.run, name, op.body.get("step", 0)] = value


class Journal:
    """The journal in one run's folder, as a reader sees it. Reading never changes anything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / JOURNAL_FILE

    def read(self, offset: int = 0, limit: int = 500) -> list[Line]:
        """Whole lines from ``offset``, ``limit`` at most. A last line without its end is not there yet."""
        lines: list[Line] = []
        try:
            stream = self.file.open("rb")
        except FileNotFoundError:
            return lines
        with stream:
            stream.seek(offset)
            while len(lines) < limit and (text := stream.readline()).endswith(b"\n"):
                offset += len(text)
                lines.append(Line(text, offset))
        return lines

    def size(self) -> int:
        """Bytes so far."""
        return self.file.stat().st_size if self.file.exists() else 0

    def lines(self) -> Iterator[Line]:
        """Every whole line, read piece by piece."""
        offset = 0
        while found := self.read(offset):
            yield from found
            offset = found[-1].end

    def summary(self) -> Summary:
        """Read the journal through, past damaged lines."""
        told = Summary(0, {}, {})
        for line in self.lines():
            told.ops += 1
            try:
                told.take(Op.parse(line.text))
            except (IntegrityError, AttributeError, TypeError):  # the delivery reports it
                continue
        return told

    def sent(self) -> Cursor:
        """How far it was delivered; if the note is missing or damaged, nothing: sending twice is harmless."""
        try:
            noted = Cursor(**json.loads((self.folder / SENT_FILE).read_text(encoding="utf-8")))
            return noted if noted.bytes <= self.file.stat().st_size else Cursor()
        except (OSError, ValueError, TypeError):
            return Cursor()

    def save_sent(self, cursor: Cursor) -> None:
        """Note how far it was delivered."""
        temporary = self.folder / f".{SENT_FILE}.tmp"
        temporary.write_text(json.dumps(asdict(cursor)), encoding="utf-8")
        temporary.replace(self.folder / SENT_FILE)

    def reject(self, line: bytes, reason: str) -> None:
        """Keep what will never be delivered, with the reason."""
        record = {"reason": reason, "line": line.decode(errors="replace").rstrip("\n")}
        with (self.folder / REJECTED_FILE).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")

    def settled(self) -> bool:
        """Whether everything was delivered and every run in it has ended; told from the last line alone."""
        try:
            size = self.file.stat().st_size
        except FileNotFoundError:
            return True
        if size and self.sent().bytes == size:
            with self.file.open("rb") as stream:
                stream.seek(max(0, size - 4096))
                last = stream.read().rstrip(b"\n").rpartition(b"\n")[2]
            try:
                return Op.parse(last).body.get("open") == 0
            except IntegrityError:
                return False
        return False

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Whether this process may deliver the journal; while inside, nobody else may."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOCK_FILE).open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True


class JournalWriter:
    """Appends to a run's journal, from any thread. Never waits for anything but the disk.

    A disk that refuses does not stop the run: lines wait in memory and go out with the next that can be written.

    Attributes:
        told: What the journal says so far, earlier attempts included.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._lock = threading.Lock()
        self._unwritten: list[bytes] = []
        journal.folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(journal.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        whole = 0
        for line in journal.lines():
            whole = line.end
        os.ftruncate(self._file, whole)  # what a kill cut off in the middle of a line
        self.told = journal.summary()

    def append(self, run: str, kind: str, at_ms: int, body: dict[str, Any]) -> None:
        """Record one operation. Metrics that the run has recorded with the same value for the same step are left out.

        Raises:
            StorageError: If the disk refuses for so long that memory is no place to keep more.
        """
        with self._lock:
            if kind == "metrics":
                body["values"] = self._news(run, body["values"], body["step"])
                if not body["values"]:
                    return
            op = Op(run, kind, at_ms, body)
            self.told.take(op)
            if kind == "end":
                op.body["open"] = len(self.told.open_runs)
            self._unwritten.append(op.line())
            self.told.ops += 1
            self._write()

    def flush(self) -> bool:
        """Try again to write what the disk refused; whether nothing is left."""
        with self._lock:
            if self._unwritten:
                self._write()
            return not self._unwritten

    def close(self) -> None:
        """Let go of the file, its content on the disk."""
        self.flush()
        with self._lock:
            os.fsync(self._file)
            os.close(self._file)

    def _news(self, run: str, values: dict[str, float | None], step: int) -> dict[str, float | None]:
        known = self.told.metrics
        return {name: value for name, value in values.items() if known.get((run, name, step), math.inf) != value}

    def _write(self) -> None:
        end = os.fstat(self._file).st_size
        data = memoryview(b"".join(self._unwritten))
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            os.ftruncate(self._file, end)  # never half a line
            if len(self._unwritten) == 1:
                event("tracking_journal_refused", level=ERROR, file=str(self.journal.file), reason=str(error))
            if len(self._unwritten) > MAX_UNWRITTEN:
                raise StorageError(f"{self.journal.file} cannot be written ({error}): make room on the disk") from error
        else:
            self._unwritten.clear()
