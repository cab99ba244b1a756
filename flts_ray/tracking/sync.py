"""Delivers what earlier runs left behind: the journals of runs whose process is gone."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

from pydantic import BaseModel

from flts_ray import runs
from flts_ray.config import TrackingSettings
from flts_ray.errors import TrackingError
from flts_ray.telemetry.logging import event
from flts_ray.tracking.client import Gateway
from flts_ray.tracking.delivery import Delivery
from flts_ray.tracking.journal import JOURNAL_FILE, Journal, JournalWriter
from flts_ray.tracking.replay import Replay

RETRY_S = 0.5


class SyncReport(BaseModel):
    """What a sync did.

    Attributes:
        delivered: Operations that reached the store.
        rejected: Operations that it refused for good; they lie in ``tracking.rejected.jsonl`` of their run.
        pending: Operations that are still to be delivered.
        synced: Runs whose journal is delivered now and was not before.
        closed: Runs that a killed process had left open, now ended as KILLED.
        reason: Why something is still pending; empty if nothing is.
    """

    delivered: int = 0
    rejected: int = 0
    pending: int = 0
    synced: list[str] = []
    closed: list[str] = []
    reason: str = ""

    def sentence(self) -> str:
        """The outcome in words."""
        told = [f"{self.delivered} records of {len(self.synced)} runs delivered"]
        if self.closed:
            told.append(f"ended as KILLED: {', '.join(self.closed)}")
        if self.rejected:
            told.append(f"{self.rejected} refused for good (see tracking.rejected.jsonl of the run)")
        if self.pending:
            told.append(f"{self.pending} still to be delivered ({self.reason or 'another process is at it'})")
        return "; ".join(told)


def sync(settings: TrackingSettings, home: Path) -> SyncReport:
    """Deliver every journal under ``home`` whose run is not at work, in the order in which the runs began.

    A run whose process died without ending it is ended as KILLED, at the time of its last record. Journals go to the
    store of these settings, whatever store they were meant for.

    Raises:
        ConfigError: If the store's URI cannot be used.
    """
    report = SyncReport()
    delivery = Delivery(Gateway(settings, home))
    with closing(leftovers(home, report=report)) as journals:
        for journal in journals:
            replay = Replay(journal, delivery, until=journal.size())
            before = replay.cursor.ops
            if not report.reason:
                report.reason = _drain(replay, settings.breaker_failures)
            report.delivered += max(0, replay.cursor.ops - before) - replay.rejected
            report.rejected += replay.rejected
            if replay.cursor.bytes < journal.size():
                report.pending += journal.summary().ops - replay.cursor.ops
            else:
                report.synced.append(journal.folder.name)
    event("tracking_synced", delivered=report.delivered, rejected=report.rejected, pending=report.pending)
    return report


def _drain(replay: Replay, failures: int) -> str:
    """Deliver everything; the reason if the store fails ``failures`` times in a row."""
    failed = 0
    while True:
        try:
            if not replay.step():
                return ""
            failed = 0
        except TrackingError as error:
            failed += 1
            if failed >= failures:
                return str(error)
            time.sleep(RETRY_S)


def leftovers(
    home: Path, *, store: str | None = None, report: SyncReport | None = None
) -> Generator[Journal, None, None]:
    """Journals of dead runs that are not settled, oldest first; each is held until the next is asked for.

    Args:
        home: The home folder.
        store: Only those meant for this store; None: all.
        report: Told which runs were closed.
    """
    found = [Journal(file.parent) for file in (home / runs.RUNS).glob(f"*/{JOURNAL_FILE}")]
    unsettled = [journal for journal in found if not journal.settled() and not runs.is_alive(journal.folder)]
    told = {journal: journal.summary() for journal in unsettled}
    for journal in sorted(unsettled, key=lambda journal: told[journal].first_ms):
        if store is not None and told[journal].store != store:
            continue
        with journal.held() as held:
            if held and not journal.settled():
                if close_dead(journal) and report is not None:
                    report.closed.append(journal.folder.name)
                if not runs.is_alive(journal.folder):
                    yield journal


def close_dead(journal: Journal) -> bool:
    """Record the end of every run that a dead process left open: KILLED, at the time of its last record.

    Returns:
        Whether there was one. A run that is at work is left alone.
    """
    with (journal.folder / runs.LOCK_FILE).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        writer = JournalWriter(journal)
        try:
            told = writer.told
            left = list(told.open_runs.items())
            for run, token in reversed(left):  # children before their parent
                writer.append(run, "end", told.last_ms, {"status": "KILLED", "start": token})
        finally:
            writer.close()
    return bool(left)
