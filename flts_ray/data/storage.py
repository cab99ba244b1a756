"""The one door to files: a local folder or an ``s3://bucket/prefix``, behind the same few methods.

Bytes are always complete before a write begins, and every write is one atomic step: an interrupted writer leaves
the old content or none, never a truncated object. (Open S3 streams publish what they have when an exception
passes through them, so no stream is ever offered for writing.) While a server is down or overloaded, operations are
tried again until ``storage.deadline_s``; what it refuses is an error at once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from flts_ray.config import Settings, StorageSettings
from flts_ray.data.addresses import absolute_uri, checked_path, reason_of, split_s3
from flts_ray.data.retries import OutageError, answer_of, is_failure, persistently
from flts_ray.data.storage_backends import Backend, LocalBackend, S3Backend
from flts_ray.errors import FltsError, SourceNotFoundError, StorageError
from flts_ray.redaction import redacted
from flts_ray.telemetry.figures import count_bytes
from flts_ray.telemetry.logging import event

SOURCE_SUFFIXES = (".csv", ".parquet", ".pq")
"""What counts as a source file when a folder is given."""

SOURCE_BLOCK = 1 << 22

_T = TypeVar("_T")


@dataclass(frozen=True)
class Store:
    """A place that holds files, addressed by relative paths that cannot leave it.

    Attributes:
        uri: A folder, or ``s3://bucket/prefix``. Local folders are made absolute at once, so that a store means
            the same place in a worker process with another working directory.
        settings: Endpoint, region and patience with the S3 server. Credentials come from the environment
            (``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_SESSION_TOKEN``) where the store is used.

    Every method raises StorageError, naming the place, if the disk or the server refuses, if it was still down after
    ``settings.deadline_s``, or if a path would leave the store. A store holds no connection and can be pickled.
    """

    uri: str
    settings: StorageSettings = field(default_factory=StorageSettings)

    def __post_init__(self) -> None:
        """Bring the place into one notation."""
        object.__setattr__(self, "uri", absolute_uri(self.uri))

    def uri_of(self, path: str = "") -> str:
        """The full address of a relative path, or of the store itself."""
        return f"{self.uri}/{checked_path(path)}" if path else self.uri

    def child(self, path: str) -> Store:
        """The store of everything below ``path``."""
        return Store(self.uri_of(path), self.settings)

    def prepare(self) -> None:
        """Make sure that the store can be used: its folder made, its bucket there.

        A bucket that does not exist is created if ``storage.create_bucket`` allows it. (Some servers create it
        silently on the first write, so a mistyped name has to be found out before that.)
        """
        try:
            if not self.uri.startswith("s3://"):
                self._tried("make the folder", lambda backend, uri: backend.make_root(uri))
            self._tried("use", lambda backend, uri: backend.probe(uri))
        except NoBucketError:
            if not self.settings.create_bucket:
                raise
            self._tried("create the bucket of", lambda backend, uri: backend.make_root(uri))
            self._tried("use", lambda backend, uri: backend.probe(uri))
            event("bucket_created", bucket=split_s3(self.uri)[0])

    def wait_until_up(self, deadline_s: float | None = None) -> None:
        """Return as soon as the store answers.

        Args:
            deadline_s: How long to wait; ``settings.deadline_s`` if not given.

        Raises:
            StorageError: If it did not answer in time, or answered with a refusal.
        """
        patience = self.settings
        if deadline_s is not None:
            patience = patience.model_copy(update={"deadline_s": max(deadline_s, 0.001)})
        Store(self.uri, patience)._tried("reach", lambda backend, uri: backend.probe(uri))

    def read_bytes(self, path: str) -> bytes:
        """The whole content of one file."""
        data = self._tried("read", lambda backend, uri: backend.read(uri), self._file(path))
        count_bytes("read", self.uri, len(data))
        return data

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write one file atomically: readers see the old content or the new, never a part."""
        self._tried("write", lambda backend, uri: backend.write(uri, data), self._file(path))
        count_bytes("written", self.uri, len(data))

    def create(self, path: str, data: bytes) -> bool:
        """Write one file atomically, unless it exists; of several writers at once exactly one succeeds.

        Returns:
            Whether it was written; False if there was a file before.
        """
        attempts = 0

        def attempt(backend: Backend, uri: str) -> bool:
            nonlocal attempts
            attempts += 1
            # After a try whose answer was lost, what is there may be ours.
            return backend.create(uri, data) or (attempts > 1 and backend.read(uri) == data)

        created = self._tried("create", attempt, self._file(path))
        count_bytes("written", self.uri, len(data) if created else 0)
        return created

    def exists(self, path: str) -> bool:
        """Whether there is a file at ``path``."""
        return self._size(path) is not None

    def size(self, path: str) -> int:
        """Bytes of one file."""
        size = self._size(path)
        if size is None:
            raise StorageError(f"{redacted(self.uri_of(path))} does not exist: check the path")
        return size

    def list(self, prefix: str = "", *, hidden: bool = False) -> list[str]:
        """Every file below ``prefix``, sorted, as paths relative to the store; empty if there is nothing.

        Args:
            prefix: A folder; empty for the whole store.
            hidden: Also what lies below it in folders and files with a leading dot, such as unfinished output.
        """
        names = self._tried("list", lambda backend, uri: backend.walk(uri), self.uri_of(prefix))
        return sorted(f"{prefix}/{name}" if prefix else name for name in names if hidden or not _is_hidden(name))

    def temporary_files(self, older_than_s: float) -> tuple[str, ...]:
        """What writers began at least so many seconds ago and never finished, sorted."""
        return tuple(sorted(self._tried("list", lambda backend, uri: backend.temporary(uri, older_than_s))))

    def move(self, source: str, target: str) -> None:
        """Give one file another path within the store, replacing what is there (S3: server-side copy, delete)."""
        uri = self._file(source)
        for step in _backend(uri, self.settings).moving(uri, self._file(target)):
            attempt(step, action="move", uri=uri, settings=self.settings)

    def delete(self, prefix: str) -> None:
        """Remove one file, or everything below ``prefix``; nothing there is fine. The store itself stays."""
        self._tried("delete", lambda backend, uri: backend.delete(uri), self._file(prefix))

    def _file(self, path: str) -> str:
        return f"{self.uri}/{checked_path(path)}"

    def _size(self, path: str) -> int | None:
        return self._tried("look up", lambda backend, uri: backend.size(uri), self._file(path))

    def _tried(self, action: str, call: Callable[[Backend, str], _T], uri: str = "") -> _T:
        place = uri or self.uri
        backend = _backend(place, self.settings)
        return attempt(lambda: call(backend, place), action=action, uri=place, settings=self.settings)


class NoBucketError(StorageError):
    """The bucket does not exist."""


def open_store(settings: Settings) -> Store:
    """Where datasets, models, checkpoints and predictions of these settings lie."""
    return Store(settings.storage.root or settings.run.home, settings.storage)


def attempt(call: Callable[[], _T], *, action: str, uri: str, settings: StorageSettings) -> _T:
    """Call until it succeeds, while the store is down again and again.

    Raises:
        StorageError: If the store refuses or does not come back; the message names ``action``, ``uri`` and the reason.
    """
    with _translated(lambda error: _storage_error(error, action, uri), uri, settings):
        return persistently(call, place=uri, settings=settings)


def read_source(uri: str, settings: StorageSettings) -> bytes:
    """The whole content of an input file.

    Raises:
        SourceNotFoundError: If it does not exist or may not be read.
        StorageError: If its server was down for longer than ``settings.deadline_s``.
    """
    uri = absolute_uri(uri)
    data = _read_source(lambda: _backend(uri, settings).read(uri), uri, settings)
    count_bytes("read", uri, len(data))
    return data


def source_digest(uri: str, settings: StorageSettings) -> tuple[str, int]:
    """SHA-256 (hex) and number of bytes of an input file, read in pieces.

    Raises:
        SourceNotFoundError: If it does not exist or may not be read.
        StorageError: If its server was down for longer than ``settings.deadline_s``.
    """
    uri = absolute_uri(uri)
    digest, size = hashlib.sha256(), 0
    with closing(_read_source(lambda: _backend(uri, settings).open(uri), uri, settings)) as stream:
        while block := _read_source(lambda: stream.read(SOURCE_BLOCK), uri, settings):
            digest.update(block)
            size += len(block)
    count_bytes("read", uri, size)
    return digest.hexdigest(), size


def expand(patterns: Sequence[str], settings: StorageSettings) -> tuple[str, ...]:
    """The input files that files, folders and globs stand for, in order, each once.

    A folder stands for the CSV and Parquet files directly in it, sorted by name; hidden files are left out.

    Raises:
        SourceNotFoundError: If a pattern stands for no file, naming it.
        StorageError: If the server was down for longer than ``settings.deadline_s``.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        uri = absolute_uri(pattern)
        files = _read_source(lambda uri=uri: _expand_one(uri, settings), uri, settings)  # type: ignore[misc]
        if not files:
            raise SourceNotFoundError(
                f"the source {redacted(uri)} does not exist or holds no CSV or Parquet file: check the path"
            )
        found.update(dict.fromkeys(files))
    return tuple(found)


def _expand_one(uri: str, settings: StorageSettings) -> list[str]:
    backend = _backend(uri, settings)
    if backend.size(uri) is not None:  # first, so that a name with [ or * in it still means that file
        return [uri]
    if re.search(r"[*?\[]", uri):
        return sorted(path for path in backend.glob(uri) if _is_source(path.rsplit("/", 1)[-1]))
    return sorted(f"{uri}/{name}" for name in backend.walk(uri) if "/" not in name and _is_source(name))


def _is_source(name: str) -> bool:
    return name.lower().endswith(SOURCE_SUFFIXES) and not name.startswith((".", "_"))


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _backend(uri: str, settings: StorageSettings) -> Backend:
    return S3Backend(settings) if uri.startswith("s3://") else LocalBackend()


def _read_source(call: Callable[[], _T], uri: str, settings: StorageSettings) -> _T:
    def describe(error: Exception) -> SourceNotFoundError:
        return SourceNotFoundError(
            f"the source {redacted(uri)} cannot be read ({reason_of(error)}): check the path and the access rights"
        )

    with _translated(describe, uri, settings):
        return persistently(call, place=uri, settings=settings)


@contextmanager
def _translated(describe: Callable[[Exception], FltsError], uri: str, settings: StorageSettings) -> Iterator[None]:
    """Turn what a disk or an S3 client raises into the program's own error, and let everything else pass."""
    try:
        yield
    except OutageError as outage:
        cause = outage.__cause__ or outage
        server = f"the server {redacted(settings.endpoint_url)}" if settings.endpoint_url else "its server"
        found, check = (
            ("kept failing", "has room and works") if answer_of(cause)[0] else ("could not be reached", "is up")
        )
        raise StorageError(
            f"{redacted(uri)} {found} for {outage.seconds:.1f} s ({reason_of(cause)}): check that {server} {check}, "
            "or raise storage.deadline_s"
        ) from cause
    except Exception as error:
        if not is_failure(error):
            raise
        raise describe(error) from error


def _storage_error(error: Exception, action: str, uri: str) -> StorageError:
    if answer_of(error)[1] == "NoSuchBucket":
        return NoBucketError(
            f"could not {action} {redacted(uri)}: the bucket '{split_s3(uri)[0]}' does not exist; correct its name in "
            "storage.root, create it, or set storage.create_bucket"
        )
    if isinstance(error, FileNotFoundError):
        return StorageError(f"could not {action} {redacted(uri)}: it does not exist")
    if not uri.startswith("s3://"):
        return StorageError(
            f"could not {action} {redacted(uri)} ({reason_of(error)}): check the disk and its access rights"
        )
    return StorageError(
        f"could not {action} {redacted(uri)} ({reason_of(error)}): check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, the "
        "rights that they give, and the storage settings"
    )
