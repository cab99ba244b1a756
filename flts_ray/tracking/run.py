"""MLflow runs that the driver owns: one parent a job, one child a candidate, none left running, none doubled.

Nothing here waits for MLflow: what a run says is recorded in its folder, and a thread delivers it.
"""

from __future__ import annotations

import json
import math
import re
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import WARNING
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

from flts_ray.config import TrackingSettings
from flts_ray.errors import StorageError, TrackingError
from flts_ray.redaction import redacted
from flts_ray.telemetry.logging import event
from flts_ray.tracking.artifacts import keep_bytes, keep_folder
from flts_ray.tracking.client import BUNDLE, Gateway, now_ms
from flts_ray.tracking.delivery import HOME, HOST, Delivery, UnknownRunError
from flts_ray.tracking.journal import Journal, JournalWriter
from flts_ray.tracking.sender import Sender
from flts_ray.tracking.sync import leftovers

INTERRUPTED_S = 3.0
"""Seconds that delivery gets after Ctrl-C or SIGTERM: what is left is delivered later."""
STOP_S = 1.0
_KEY = re.compile(r"[\w.:/@+-]{1,250}", re.ASCII)


class TrackedRun:
    """One MLflow run. Made by :meth:`Tracker.run` and :meth:`TrackedRun.child`.

    Everything is recorded at once and delivered later; only :attr:`run_id` asks the store.

    Attributes:
        run_key: What makes a retry find this run again.
    """

    def __init__(self, tracker: Tracker, run_key: str) -> None:
        self._tracker = tracker
        self.run_key = run_key

    @property
    def run_id(self) -> str:
        """MLflow's id: see :meth:`Tracker.resolve`."""
        return self._tracker.resolve(self.run_key)

    @contextmanager
    def child(self, candidate: str, *, tags: Mapping[str, str] | None = None) -> Iterator[TrackedRun]:
        """A candidate's run under this one; same rules as :meth:`Tracker.run`.

        Args:
            candidate: Name of the candidate; with the parent's key it makes the child's.
            tags: More tags.
        """
        key = f"{self.run_key}/{candidate}"
        with _recorded(self._tracker, key, candidate, tags or {}, parent=self.run_key) as run:
            yield run

    def log_params(self, settings: Mapping[str, Any]) -> None:
        """Store settings as parameters; nested mappings become dotted names. A changed value is refused by MLflow."""
        self._tracker.record(self.run_key, "params", {"params": _clean(flatten(settings))})

    def log_metrics(self, values: Mapping[str, float], *, step: int = 0, at_ms: int | None = None) -> None:
        """Store metrics of one step. What the run has said before, in this attempt or an earlier one, is left out.

        Args:
            values: Names, unit included (``val_rmse_bits``), and values. What is not finite is stored as NaN.
            step: Epoch or other counter.
            at_ms: When they were measured, in milliseconds since 1970; now if None.
        """
        measured = now_ms() if at_ms is None else at_ms
        numbers = {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        self._tracker.record(self.run_key, "metrics", {"values": numbers, "step": step, "measured_ms": measured})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, replacing older values."""
        self._tracker.record(self.run_key, "tags", {"tags": _clean(tags)})

    def log_dataset(self, *, name: str, digest: str, source: str, context: str = "training") -> None:
        """Name the dataset that the run used, by its digest (the first 36 characters are kept)."""
        entry = _clean({"name": name, "digest": digest, "source": source, "context": context})
        self._tracker.record(self.run_key, "dataset", entry)

    def log_bundle(self, folder: Path) -> None:
        """Store a model bundle's files under ``bundle/``, where the registry looks for them.

        Raises:
            TrackingError: If there is no such folder.
            StorageError: If the disk refuses.
        """
        if not folder.is_dir():
            raise TrackingError(f"The model bundle {folder} is not a folder: write it before logging it.")
        kept, files = keep_folder(self._tracker.folder, folder)
        self._tracker.record(self.run_key, "folder", {"to": BUNDLE, "folder": kept, "files": files})

    def log_bytes(self, path: str, data: bytes) -> None:
        """Store one artifact, such as a plot, at a relative ``path``; an older one is replaced.

        Raises:
            TrackingError: If the path leads out of the run.
            StorageError: If the disk refuses.
        """
        target = PurePosixPath(path)
        if target.is_absolute() or ".." in target.parts or not target.name:
            raise TrackingError(f"The artifact path '{path}' is not a relative path inside the run: correct it.")
        kept, sha256 = keep_bytes(self._tracker.folder, target.name, data)
        to = "" if target.parent == PurePosixPath() else str(target.parent)
        self._tracker.record(self.run_key, "file", {"to": to, "file": kept, "sha256": sha256})

    def log_text(self, path: str, text: str) -> None:
        """Store one text artifact, such as the HTML report, as UTF-8."""
        self.log_bytes(path, text.encode())

    def log_json(self, path: str, value: Any) -> None:
        """Store one JSON artifact, such as the leaderboard; a NaN in it is an error, since JSON has none."""
        self.log_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


class Tracker:
    """The runs of one process. Use as a context manager: inside, a thread delivers what is recorded.

    Leaving waits for the rest, as long as the store takes it and ``tracking.flush_timeout_s`` at most (3 s after Ctrl-C
    or SIGTERM). What is left then stays in the folder, for ``flts sync`` or the next run.

    Args:
        settings: Store, experiment, time limits.
        home: Folder of the embedded store (``mlflow.db``), its artifacts (``mlartifacts``), and of all runs.
        folder: The run's own folder, which this process holds.

    Attributes:
        gateway: For calls that have to be made at once, such as those of the registry.

    Raises:
        ConfigError: If the store's URI cannot be used.
    """

    def __init__(self, settings: TrackingSettings, home: Path, folder: Path) -> None:
        self.gateway = Gateway(settings, home)
        self.folder = folder
        self._settings = settings
        self._home = home
        self._delivery = Delivery(self.gateway)
        self._writer: JournalWriter | None = None
        self._sender: Sender | None = None

    @property
    def uri(self) -> str:
        """The store's address."""
        return self.gateway.uri

    @property
    def pending(self) -> int:
        """Operations that are recorded and not delivered yet."""
        return 0 if self._sender is None else self._sender.pending

    def __enter__(self) -> Self:
        journal = Journal(self.folder)
        writer = JournalWriter(journal)
        self._writer = writer
        self._sender = Sender(
            journal,
            self._delivery,
            self._settings,
            written=lambda: writer.told.ops,
            leftovers=lambda: leftovers(self._home, store=self.gateway.store),
        )
        self._sender.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(INTERRUPTED_S if error is not None and not isinstance(error, Exception) else None)

    @contextmanager
    def run(self, run_key: str, *, name: str = "", tags: Mapping[str, str] | None = None) -> Iterator[TrackedRun]:
        """The run of ``run_key``: continued if an earlier attempt made it, created otherwise, ended in any case.

        It ends ``FINISHED``, ``KILLED`` after KeyboardInterrupt or SystemExit, ``FAILED`` after any other exception.
        Children that still run by then end too: with the same status, or ``KILLED`` if this run finished, since nobody
        is left to end them. Search and creation are two calls, so only one process at a time may use a key.

        Args:
            run_key: What identifies this job over retries, such as the submission id.
            name: Shown in MLflow; the key if empty.
            tags: More tags.

        Raises:
            TrackingError: If the key cannot be searched for.
            StorageError: If the disk refuses. An exception from inside the block is never replaced by it; it carries
                the failure as a note.
        """
        with _recorded(self, run_key, name or run_key, tags or {}, parent=None) as run:
            yield run

    def record(self, run_key: str, kind: str, body: dict[str, Any]) -> None:
        """Record one operation on a run.

        Raises:
            StorageError: If the disk refuses for too long.
        """
        if self._writer is None or self._sender is None:
            raise TrackingError(f"run {run_key} is not tracked any more, or not yet: use the tracker inside its block")
        self._writer.append(run_key, kind, now_ms(), body)
        self._sender.wake()

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until everything recorded so far is delivered, through failures of the store.

        Args:
            timeout_s: Seconds to wait at most; ``tracking.flush_timeout_s`` if None.

        Returns:
            Whether everything is delivered (or refused for good).
        """
        if self._writer is None or self._sender is None:
            return True
        self._writer.flush()
        limit_s = self._settings.flush_timeout_s if timeout_s is None else timeout_s
        return self._sender.wait(limit_s, even_if_down=True)

    def resolve(self, run_key: str) -> str:
        """MLflow's id of a run.

        Raises:
            TrackingError: If the run has not reached the store, or the store does not answer.
        """
        try:
            return self._delivery.run_id(run_key)
        except UnknownRunError as error:
            reason = (self._sender.reason if self._sender else "") or "it is still to be delivered"
            raise TrackingError(f"run {run_key} has not reached the tracking store: {reason}") from error

    def close(self, limit_s: float | None = None) -> None:
        """Wait for delivery while the store takes it, ``limit_s`` at most, and stop. What is left stays recorded."""
        if self._writer is None or self._sender is None:
            return
        writer, sender = self._writer, self._sender
        try:
            writer.flush()
            sender.wait(self._settings.flush_timeout_s if limit_s is None else limit_s, even_if_down=False)
        finally:
            self._writer = self._sender = None
            sender.stop(STOP_S)
            writer.close()
            if sender.pending:
                event(
                    "tracking_pending",
                    level=WARNING,
                    pending=sender.pending,
                    reason=sender.reason,
                    journal=str(writer.journal.file),
                    advice=f"deliver them with `flts sync --home {self._home}`, or let the next run do it",
                )


@contextmanager
def _recorded(
    tracker: Tracker, run_key: str, name: str, tags: Mapping[str, str], *, parent: str | None
) -> Iterator[TrackedRun]:
    if not _KEY.fullmatch(run_key):
        raise TrackingError(
            f"The run key {run_key!r} cannot be searched for: use up to 250 letters, digits and the signs _.:/@+-."
        )
    token = secrets.token_hex(8)
    place = {HOST: socket.gethostname(), HOME: str(tracker.gateway.home)}
    start = {"id": token, "name": name, "tags": _clean({**tags, **place}), "parent": parent}
    tracker.record(run_key, "start", {**start, "store": tracker.gateway.store})
    try:
        yield TrackedRun(tracker, run_key)
    except BaseException as error:
        killed = isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit))
        try:
            tracker.record(run_key, "end", {"status": "KILLED" if killed else "FAILED", "start": token})
        except (StorageError, TrackingError) as failure:
            error.add_note(str(failure))
        raise
    tracker.record(run_key, "end", {"status": "FINISHED", "start": token})


def _clean(texts: Mapping[str, str]) -> dict[str, str]:
    """Texts as a database takes them, without secrets."""
    return {name: redacted(text).replace("\0", "") for name, text in texts.items()}


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names and text: None is empty, a sequence is comma-separated, a flag is lower-case."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = _text(value)
    return flat


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ",".join(_text(item) for item in value)
    return str(value)
