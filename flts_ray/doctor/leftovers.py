"""What dead runs left behind: datasets that are not what they claim, half-written files, runs that never end."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flts_ray import runs
from flts_ray.candidates import SUMMARY_FILE
from flts_ray.config import Settings
from flts_ray.data.claims import CLAIM_FILE, DATASETS, dataset_store, read_claim, verify_files
from flts_ray.data.leftovers import leftovers, remove_leftovers
from flts_ray.data.locks import hold, holder_of
from flts_ray.data.storage import Store
from flts_ray.doctor.findings import Check, Report
from flts_ray.doctor.storage import store_of
from flts_ray.doctor.tracking import hasty
from flts_ray.errors import BusyError, FltsError, IntegrityError
from flts_ray.tracking.client import Gateway
from flts_ray.tracking.journal import JOURNAL_FILE, REJECTED_FILE, Journal
from flts_ray.tracking.stale import end_stale, stale_runs
from flts_ray.tracking.sync import sync

LOOK_S, WORK_S = 15.0, 3600.0
"""Time limits of a look, and of repairs and reading everything; each request has limits of its own."""

OLD_RUN_S = 7 * 86_400.0
REPAIR = "flts doctor --fix"
SHOWN = 5
_CHECKPOINTS = re.compile(r"checkpoints/(?P<folder>(?P<candidate>[a-z]+-[0-9a-f]{12})(-\d+)?)/")


def store_leftovers(settings: Settings, *, fix: bool, deep: bool) -> list[Check]:
    """What to look at in the store of datasets and models."""
    store = store_of(settings)
    place = store.uri
    return [
        Check(name="datasets", place=place, run=_Datasets(store, deep=deep), limit_s=WORK_S if deep else LOOK_S),
        Check(name="half-written files", place=place, run=_HalfWritten(store, fix=fix), limit_s=_limit(fix)),
        Check(name="old checkpoints", place=place, run=_Checkpoints(store, fix=fix), limit_s=_limit(fix)),
    ]


def tracker_leftovers(settings: Settings, *, fix: bool) -> list[Check]:
    """What to look at in the tracker, and in the records meant for it."""
    home, experiment, limit_s = Path(settings.run.home).absolute(), settings.tracking.experiment, _limit(fix)
    journals, stale = _Journals(settings, home, fix=fix), _Stale(settings, home, fix=fix)
    return [
        Check(name="undelivered records", place=str(home), run=journals, limit_s=limit_s, always=True),
        Check(name="runs that never end", place=experiment, run=stale, limit_s=limit_s),
    ]


def home_leftovers(settings: Settings, *, fix: bool) -> list[Check]:
    """What to look at in the home folder."""
    home = Path(settings.run.home).absolute()
    checks = [Check(name="unfinished runs", place=str(home), run=_Unfinished(home))]
    if settings.storage.root and Store(settings.storage.root).uri != str(home):
        half_written = _HalfWritten(Store(str(home)), fix=fix)
        checks.append(Check(name="half-written files", place=str(home), run=half_written, limit_s=_limit(fix)))
    return checks


def _limit(fix: bool) -> float:
    return WORK_S if fix else LOOK_S


@dataclass(frozen=True, slots=True)
class _Datasets:
    """Whether every claim follows its format and its files are there, of the right size; all bytes if ``deep``."""

    store: Store
    deep: bool

    def __call__(self, report: Report) -> None:
        listed = self.store.list(DATASETS)
        ids = [path.split("/")[1] for path in listed if path.count("/") == 2 and path.endswith(f"/{CLAIM_FILE}")]
        files = 0
        for dataset_id in ids:
            try:
                files += self._verify(dataset_id, frozenset(listed))
            except FltsError as error:
                report.trouble(str(error), "preprocess it again with --force", place=f"{DATASETS}/{dataset_id}")
        if not report.troubled:
            what = "every byte as claimed" if self.deep else "sizes as claimed"
            report.ok(f"{len(ids)} datasets, {files} files, {what}" if ids else "none yet")

    def _verify(self, dataset_id: str, listed: frozenset[str]) -> int:
        claim = read_claim(self.store, dataset_id)
        place = dataset_store(self.store, dataset_id)
        if self.deep:
            verify_files(self.store, claim)
        for split in claim.files():
            if f"{DATASETS}/{dataset_id}/{split.path}" not in listed:
                raise IntegrityError(f"{split.path} is gone although its claim records {split.bytes} bytes")
            if (size := place.size(split.path)) != split.bytes:
                raise IntegrityError(f"{split.path} has {size} bytes where its claim records {split.bytes}")
        return len(claim.files())


@dataclass(frozen=True, slots=True)
class _HalfWritten:
    """What writers that died left in a store."""

    store: Store
    fix: bool

    def __call__(self, report: Report) -> None:
        _report(report, leftovers(self.store), (lambda: remove_leftovers(self.store)) if self.fix else None)


@dataclass(frozen=True, slots=True)
class _Checkpoints:
    """Checkpoints of candidates that are fitted: nobody will read them."""

    store: Store
    fix: bool

    def __call__(self, report: Report) -> None:
        _report(report, self._needless(), self._remove if self.fix else None)

    def _needless(self) -> list[str]:
        matches = [_CHECKPOINTS.match(path) for path in self.store.list("checkpoints")]
        found = {match["folder"]: match["candidate"] for match in matches if match}
        return [f"checkpoints/{folder}" for folder, name in sorted(found.items()) if self._is_done(name)]

    def _is_done(self, candidate: str) -> bool:
        fitted = self.store.exists(f"models/{candidate}/{SUMMARY_FILE}")
        return fitted and holder_of(self.store, f"candidate-{candidate}") is None

    def _remove(self) -> list[str]:
        removed = []
        for folder in self._needless():
            match = _CHECKPOINTS.match(f"{folder}/")
            assert match is not None
            try:
                with hold(self.store, f"candidate-{match['candidate']}", owner="", wait_s=0):
                    self.store.delete(folder)
            except BusyError:
                continue  # a run works on it just now
            removed.append(folder)
        return removed


def _report(report: Report, found: list[str], remove: Callable[[], list[str]] | None) -> None:
    if not found:
        report.ok("none")
    elif remove is None:
        report.trouble(_some(found), REPAIR)
    else:
        report.fixed(f"removed {_some(remove())}")


@dataclass(frozen=True, slots=True)
class _Journals:
    """Records of dead runs that never reached the tracker, and those that it refused."""

    settings: Settings
    home: Path
    fix: bool

    def __call__(self, report: Report) -> None:
        folders = sorted(file.parent for file in (self.home / runs.RUNS).glob(f"*/{JOURNAL_FILE}"))
        waiting = [folder.name for folder in folders if not Journal(folder).settled() and not runs.is_alive(folder)]
        refused = [folder.name for folder in folders if (folder / REJECTED_FILE).exists()]
        if refused:
            report.warning(f"the tracker refused records of {_some(refused)}", f"see {REJECTED_FILE} in their folders")
        if not waiting:
            report.ok("none")
        elif not self.fix or report.closed:
            first = " once the tracker answers" if report.closed else ""
            report.trouble(f"of {_some(waiting)}", f"{REPAIR}{first}, or flts sync")
        else:
            done = sync(hasty(self.settings.tracking), self.home)
            if done.pending:
                report.trouble(f"{done.pending} records are left: {done.reason}", "flts sync, once the tracker answers")
            if done.synced:
                report.fixed(f"delivered {done.delivered} records of {_some(done.synced)}")


@dataclass(frozen=True, slots=True)
class _Stale:
    """Runs that MLflow shows as RUNNING while nobody works on them."""

    settings: Settings
    home: Path
    fix: bool

    def __call__(self, report: Report) -> None:
        tracking = hasty(self.settings.tracking)
        gateway = Gateway(tracking, self.home)
        name = tracking.experiment
        if gateway.call(f"look up experiment '{name}'", "get_experiment_by_name", name) is None:
            report.ok("none")  # asking for its runs would make it
            return
        found = stale_runs(tracking, self.home)
        keys = [run.run_key for run in found]
        if not found:
            report.ok("none")
        elif self.fix:
            end_stale(tracking, self.home, found)
            report.fixed(f"ended {_some(keys)} as KILLED")
        else:
            report.trouble(f"RUNNING without a process: {_some(keys)}", REPAIR)


@dataclass(frozen=True, slots=True)
class _Unfinished:
    """Runs that were cut off and that nobody took up again."""

    home: Path

    def __call__(self, report: Report) -> None:
        folders = [self.home / runs.RUNS / name for name in runs.unfinished_runs(self.home)]
        dead = [folder for folder in folders if not runs.is_alive(folder)]
        limit = time.time() - OLD_RUN_S
        old = [folder.name for folder in dead if (folder / runs.START_FILE).stat().st_mtime < limit]
        if old:
            report.warning(
                f"older than a week: {_some(old)}",
                "give the same command to finish one, or remove its folder if nobody will",
            )
        else:
            report.ok(f"{len(dead)} cut off lately: the same command goes on with it" if dead else "none")


def _some(names: list[str]) -> str:
    """Names, the first few of many."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
