"""Is the place of datasets and models there, does it let us in, and does it keep what it promises?"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flts_ray.config import Settings, StorageSettings
from flts_ray.data.storage import NoBucketError, Store
from flts_ray.doctor.clock import Greeting, greet, report_skew
from flts_ray.doctor.findings import Check, Report
from flts_ray.errors import InfrastructureError, StorageError

PATIENCE_S = 5.0
PROBES = ".flts-doctor"


def hasty(settings: StorageSettings) -> StorageSettings:
    """The same server, with less patience and no licence to make buckets."""
    return settings.model_copy(
        update={
            "timeout_s": min(settings.timeout_s, PATIENCE_S),
            "deadline_s": min(settings.deadline_s, PATIENCE_S),
            "create_bucket": False,
        }
    )


def store_of(settings: Settings) -> Store:
    """The store of these settings, hasty."""
    return Store(settings.storage.root or settings.run.home, hasty(settings.storage))


def storage_checks(settings: Settings) -> list[Check]:
    """What to look at, in order."""
    store = store_of(settings)
    if not store.uri.startswith("s3://"):
        return [Check(name="store", place=store.uri, run=_Folder(Path(store.uri)), gate=True)]
    server = _Server(settings.storage)
    return [
        Check(name="store: server", place=server.url, run=server.reachable, gate=True),
        Check(name="store: clock", place=server.url, run=server.clock),
        Check(name="store: bucket", place=store.uri, run=_Bucket(store, settings.storage.create_bucket), gate=True),
        Check(name="store: rights", place=store.uri, run=Rights(store), limit_s=15),
    ]


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder on this machine: it need not exist yet."""

    folder: Path

    def __call__(self, report: Report) -> None:
        nearest = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        if not nearest.is_dir():
            report.trouble(f"{nearest} is a file", "set storage.root or run.home to a folder")
        elif not os.access(nearest, os.R_OK | os.W_OK | os.X_OK):
            report.trouble(f"{nearest} may not be read and written", "correct its owner or mode, or set run.home")
        elif nearest == self.folder:
            report.ok("a folder of this machine that can be read and written")
        else:
            report.not_yet()


class _Server:
    """An S3 server as anyone sees it, without credentials."""

    def __init__(self, settings: StorageSettings) -> None:
        self.url = settings.endpoint_url or f"https://s3.{settings.region}.amazonaws.com"
        self._timeout_s = min(settings.timeout_s, PATIENCE_S)
        self._greeting: Greeting | None = None

    def reachable(self, report: Report) -> None:
        try:
            self._greeting = greet(self.url, method="HEAD", timeout_s=self._timeout_s)
        except InfrastructureError as error:
            report.trouble(str(error), "start it, or correct storage.endpoint_url")
            return
        if self._greeting.status >= 500 and self._greeting.status != 501:
            report.trouble(f"answers {self._greeting.status} to everything", "see the server's log")
        else:
            report.ok("answers")

    def clock(self, report: Report) -> None:
        assert self._greeting is not None
        report_skew(report, self._greeting)


@dataclass(frozen=True, slots=True)
class _Bucket:
    """Whether the credentials are taken and the bucket is there."""

    store: Store
    may_create: bool

    def __call__(self, report: Report) -> None:
        if not _has_credentials():
            report.trouble(
                "there are no credentials in the environment", "export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
            return
        try:
            self.store.prepare()
        except NoBucketError as error:
            if self.may_create:
                report.not_yet()
            else:
                report.trouble(str(error), "make it, correct storage.root, or set storage.create_bucket")
        else:
            report.ok("the credentials are taken and the bucket is there")


def _has_credentials() -> bool:
    import botocore.session

    return botocore.session.get_session().get_credentials() is not None


@dataclass(frozen=True, slots=True)
class Rights:
    """Whether an object can be made, made only once, read, replaced, listed and removed."""

    store: Store

    def __call__(self, report: Report) -> None:
        """Try each on a small object, which is gone afterwards."""
        folder = f"{PROBES}/{secrets.token_hex(8)}"
        name, first, second = f"{folder}/probe", b"first", b"second"
        steps: list[tuple[str, str, Callable[[], bool]]] = [
            ("create", "what was written is refused", lambda: self.store.create(name, first)),
            (
                "create only once",
                "a conditional put (If-None-Match) replaces what is there, so two runs can overwrite each other",
                lambda: not self.store.create(name, second),
            ),
            ("read", "what was written is not what is read", lambda: self.store.read_bytes(name) == first),
            ("replace", "an object cannot be replaced", lambda: self._replace(name, second)),
            ("list", "what was written is not listed", lambda: self.store.list(folder) == [name]),
            ("delete", "what was deleted is still there", lambda: self._delete(name)),
        ]
        worked: list[str] = []
        for right, complaint, step in steps:
            try:
                reason = "" if step() else complaint
            except StorageError as error:
                reason = str(error)
            if reason:
                report.trouble(f"cannot {right}: {reason}", "give the credentials this right, or use a server that can")
            else:
                worked.append(right)
        if len(worked) == len(steps):
            report.ok(f"can {', '.join(worked)}")

    def _replace(self, name: str, data: bytes) -> bool:
        self.store.write_bytes(name, data)
        return self.store.read_bytes(name) == data

    def _delete(self, name: str) -> bool:
        self.store.delete(name)
        return not self.store.exists(name)
