"""One at a time: locks by name in a store, which the death of their holder ends.

On a disk a lock is a file that the operating system locks while the holder lives. In a bucket it is a lease: an
object that only one writer can create (``If-None-Match``), that its holder renews, and that another may take over
(``If-Match``) when it has not been renewed for its time to live. Ages are told by the server's own clock, so the
clocks of the machines do not matter.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

from flts_ray.data.addresses import file_name
from flts_ray.data.storage import Store, attempt
from flts_ray.data.storage_backends import S3Backend, Version
from flts_ray.errors import BusyError, StorageError
from flts_ray.redaction import redacted
from flts_ray.telemetry.logging import event

_T = TypeVar("_T")

LOCKS = ".locks"
TTL_S = 30.0
"""Seconds that a lease stays valid without a renewal."""

LOCAL_POLL_S = 0.2
LEASE_POLL_S = 2.0
RELEASE_DEADLINE_S = 10.0
"""Seconds to try to give a lease back; it ends by itself otherwise."""


class Lock(Protocol):
    """A lock that may be held."""

    name: str
    poll_s: float

    def take(self) -> str | None:
        """Try once; None if it is ours now, else who has it."""

    def holder(self) -> str | None:
        """Who has it now; None if nobody has."""

    def release(self) -> None:
        """Let go of what was taken."""

    def lost(self) -> str | None:
        """Who took it from us, if anybody did."""


class Held:
    """A lock while it is held."""

    def __init__(self, lock: Lock) -> None:
        """Take the lock."""
        self._lock = lock

    def check(self) -> None:
        """Make sure that the lock is still held: a machine that stood still for long may have lost it.

        Raises:
            BusyError: If somebody else has it now.
        """
        if (other := self._lock.lost()) is not None:
            raise BusyError(f"the lock '{self._lock.name}' went to {other} while this process stood still: run again")


@contextmanager
def hold(
    store: Store,
    name: str,
    *,
    owner: str,
    wait_s: float,
    on_wait: Callable[[str], None] = lambda holder: None,
    ttl_s: float = TTL_S,
) -> Iterator[Held]:
    """Hold the lock ``name`` of a store; everybody else who asks for it waits meanwhile.

    Args:
        store: Whose lock it is.
        name: Any text.
        owner: Who holds it, for messages. A lease in a bucket that its own owner left behind is taken over at once,
            so one owner must not ask for one name twice at a time. Empty: nobody in particular.
        wait_s: How long to wait for it; 0: not at all.
        on_wait: Told once, before waiting begins, who holds it.
        ttl_s: Seconds after which a lease in a bucket whose holder died is free.

    Raises:
        BusyError: If another had it all that time, naming it.
        StorageError: If the store does not answer.
    """
    lock = _lock(store, name, owner, ttl_s)
    deadline_s, waiting = time.monotonic() + wait_s, False
    while (holder := lock.take()) is not None:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise BusyError(
                f"{holder} holds the lock '{name}' of {redacted(store.uri)} and has not let go within {wait_s:g} s: "
                "wait for it, or end it"
            )
        if not waiting:
            waiting = True
            on_wait(holder)
        time.sleep(min(lock.poll_s, left_s))
    try:
        yield Held(lock)
    finally:
        lock.release()


def holder_of(store: Store, name: str) -> str | None:
    """Who holds the lock ``name`` just now; None if nobody does.

    Raises:
        StorageError: If the store does not answer.
    """
    return _lock(store, name, "", TTL_S).holder()


def _lock(store: Store, name: str, owner: str, ttl_s: float) -> Lock:
    if store.uri.startswith("s3://"):
        return _Lease(store, name, owner, ttl_s)
    return _FileLock(Path(store.uri_of(f"{LOCKS}/{file_name(name)}")), name, owner)


def _record(owner: str, **more: Any) -> dict[str, Any]:
    return {"owner": owner, "pid": os.getpid(), "host": socket.gethostname(), **more}


def _parsed(content: bytes) -> dict[str, Any]:
    """A lock's record; empty if it was cut off or altered."""
    with suppress(ValueError):
        found = json.loads(content)
        return found if isinstance(found, dict) else {}
    return {}


def _described(record: dict[str, Any]) -> str:
    who = f"run {record['owner']}" if record.get("owner") else "another process"
    return f"{who} (process {record.get('pid', '?')} on {record.get('host', 'an unknown host')})"


class _FileLock:
    """A file that the operating system locks; it stays when the lock ends, since removing it would split waiters."""

    poll_s = LOCAL_POLL_S

    def __init__(self, path: Path, name: str, owner: str) -> None:
        self.name = name
        self._path = path
        self._owner = owner
        self._file: IO[bytes] | None = None

    def take(self) -> str | None:
        with self._errors():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = self._path.open("a+b")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with file:
                    return self._named(file)
            file.truncate(0)
            file.write(json.dumps(_record(self._owner)).encode())
            file.flush()
            self._file = file
        return None

    def holder(self) -> str | None:
        with self._errors(), suppress(FileNotFoundError), self._path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return self._named(file)
        return None

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def lost(self) -> str | None:
        return None

    def _named(self, file: IO[bytes]) -> str:
        file.seek(0)
        return _described(_parsed(file.read()))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"could not lock {self._path} ({error.strerror}): check the disk and its access rights"
            ) from error


class _Lease:
    """An object that its holder keeps young."""

    def __init__(self, store: Store, name: str, owner: str, ttl_s: float) -> None:
        self.name = name
        self.poll_s = min(LEASE_POLL_S, ttl_s / 5)
        self._uri = store.uri_of(f"{LOCKS}/{file_name(name)}.json")
        self._settings = store.settings
        self._owner = owner
        self._ttl_s = ttl_s
        self._token = secrets.token_hex(16)
        self._count = 0
        self._tag = ""
        self._lost: str | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> str | None:
        found = self._read()
        if found is not None and not self._is_free(found):
            return _described(_parsed(found.data))
        if not self._put(found.tag if found else ""):
            now = self._read()  # somebody was faster, or has gone again already
            return _described(_parsed(now.data)) if now else "another process"
        self._thread = threading.Thread(target=self._renew, name=f"lease {self.name}", daemon=True)
        self._thread.start()
        return None

    def holder(self) -> str | None:
        found = self._read()
        return None if found is None or self._is_free(found) else _described(_parsed(found.data))

    def release(self) -> None:
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        if self._lost is not None:
            return
        backend = self._backend(RELEASE_DEADLINE_S)
        try:
            if not self._call("release", backend, lambda: backend.delete_version(self._uri, self._tag)):
                found = self._call("release", backend, lambda: backend.version(self._uri))
                if found is not None and self._is_ours(found):  # renewed by a put whose answer was lost
                    self._call("release", backend, lambda: backend.delete_version(self._uri, found.tag))
        except StorageError as error:
            event("lock_not_released", level=logging.WARNING, lock=self.name, reason=str(error), ends_in_s=self._ttl_s)

    def lost(self) -> str | None:
        return self._lost

    def _renew(self) -> None:
        while not self._stop.wait(self._ttl_s / 3):
            try:
                if self._put(self._tag, deadline_s=self._ttl_s / 3):
                    continue
                found = self._read()
            except StorageError:
                continue  # logged already; as long as the store is down, nobody can take the lease either
            self._lost = _described(_parsed(found.data)) if found else "nobody: its record is gone"
            event("lock_lost", level=logging.WARNING, lock=self.name, holder=self._lost)
            return

    def _put(self, tag: str, deadline_s: float | None = None) -> bool:
        """Write our record in place of the version ``tag``, or where none is; whether it stands there now."""
        self._count += 1  # so that no two versions are equal, nor their tags
        record = _record(self._owner, token=self._token, ttl_s=self._ttl_s, renewal=self._count)
        data = json.dumps(record).encode()
        backend = self._backend(deadline_s)
        if tag:
            self._call("renew", backend, lambda: backend.swap(self._uri, data, tag))
        else:
            self._call("take", backend, lambda: backend.create(self._uri, data))
        # Read it back either way: that gives the tag, and tells a put that succeeded although its answer was lost.
        found = self._read(deadline_s)
        if found is None or not self._is_ours(found):
            return False
        self._tag = found.tag
        return True

    def _read(self, deadline_s: float | None = None) -> Version | None:
        backend = self._backend(deadline_s)
        return self._call("read", backend, lambda: backend.version(self._uri))

    def _is_free(self, found: Version) -> bool:
        record = _parsed(found.data)
        try:
            ttl_s = float(record.get("ttl_s", TTL_S))
        except (TypeError, ValueError):
            ttl_s = TTL_S
        return found.age_s > ttl_s or bool(self._owner and record.get("owner") == self._owner)

    def _is_ours(self, found: Version) -> bool:
        return _parsed(found.data).get("token") == self._token

    def _backend(self, deadline_s: float | None = None) -> S3Backend:
        if deadline_s is None:
            return S3Backend(self._settings)
        limit = {"deadline_s": min(deadline_s, self._settings.deadline_s)}
        return S3Backend(self._settings.model_copy(update=limit))

    def _call(self, action: str, backend: S3Backend, call: Callable[[], _T]) -> _T:
        return attempt(call, action=f"{action} the lock", uri=self._uri, settings=backend.settings)
