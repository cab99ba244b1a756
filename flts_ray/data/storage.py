"""The one door to files: a local folder or an ``s3://bucket/prefix``, behind the same few methods.

Bytes are always complete before a write begins, and every write is one atomic step: an interrupted writer leaves
the old content or none, never a truncated object. (Open S3 streams publish what they have when an exception
passes through them, so no stream is ever offered for writing.)
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from flts_ray.config import StorageSettings
from flts_ray.data.storage_backends import LocalBackend, S3Backend
from flts_ray.errors import FltsError, SourceNotFoundError, StorageError

SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")
SOURCE_SUFFIXES = (".csv", ".parquet", ".pq")
"""What counts as a source file when a folder is given."""


class Backend(Protocol):
    """What a place must be able to do; paths are absolute in the place's own notation."""

    def open(self, path: str) -> BinaryIO:
        """Open for reading."""

    def read(self, path: str) -> bytes:
        """The whole content."""

    def write(self, path: str, data: bytes) -> None:
        """Replace the content, atomically."""

    def size(self, path: str) -> int | None:
        """Bytes, or None where there is no such file."""

    def walk(self, path: str) -> list[str]:
        """Every file below the path, as paths relative to it."""

    def glob(self, pattern: str) -> list[str]:
        """Files that match a pattern, as absolute paths."""

    def move(self, source: str, target: str) -> None:
        """Give a file another path, replacing what is there."""

    def delete(self, path: str) -> None:
        """Remove a file or everything below a path; nothing there is fine."""


@dataclass(frozen=True)
class Store:
    """A place that holds files, addressed by relative paths that cannot leave it.

    Attributes:
        uri: A folder, or ``s3://bucket/prefix``. Local folders are made absolute at once, so that a store means
            the same place in a worker process with another working directory.
        settings: Endpoint, region and time-outs of the S3 server. Credentials come from the environment
            (``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_SESSION_TOKEN``) where the store is used.

    Every method raises StorageError, naming the place, if the disk or the server refuses or does not answer, or
    if a path would leave the store. A store holds no connection and can be pickled.
    """

    uri: str
    settings: StorageSettings = field(default_factory=StorageSettings)

    def __post_init__(self) -> None:
        """Bring the place into one notation."""
        object.__setattr__(self, "uri", absolute_uri(self.uri))

    def uri_of(self, path: str = "") -> str:
        """The full address of a relative path, or of the store itself."""
        return self._file(path) if path else self.uri

    def child(self, path: str) -> Store:
        """The store of everything below ``path``."""
        return Store(self.uri_of(path), self.settings)

    def read_bytes(self, path: str) -> bytes:
        """The whole content of one file."""
        uri = self._file(path)
        with _storage_errors("read", uri):
            return _backend(uri, self.settings).read(uri)

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write one file atomically: readers see the old content or the new, never a part."""
        uri = self._file(path)
        with _storage_errors("write", uri):
            _backend(uri, self.settings).write(uri, data)

    def exists(self, path: str) -> bool:
        """Whether there is a file at ``path``."""
        return self._size(path) is not None

    def size(self, path: str) -> int:
        """Bytes of one file."""
        size = self._size(path)
        if size is None:
            raise StorageError(f"{display(self.uri_of(path))} does not exist: check the path")
        return size

    def list(self, prefix: str = "") -> list[str]:
        """Every file below ``prefix``, sorted, as paths relative to the store; empty if there is nothing."""
        uri = self.uri_of(prefix)
        with _storage_errors("list", uri):
            names = _backend(uri, self.settings).walk(uri)
        return sorted(f"{prefix}/{name}" if prefix else name for name in names)

    def move(self, source: str, target: str) -> None:
        """Give one file another path within the store, replacing what is there (S3: server-side copy, delete)."""
        uri = self._file(source)
        with _storage_errors("move", uri):
            _backend(uri, self.settings).move(uri, self._file(target))

    def delete(self, prefix: str) -> None:
        """Remove one file, or everything below ``prefix``; nothing there is fine. The store itself stays."""
        uri = self._file(prefix)
        with _storage_errors("delete", uri):
            _backend(uri, self.settings).delete(uri)

    def _file(self, path: str) -> str:
        return f"{self.uri}/{_checked(path)}"

    def _size(self, path: str) -> int | None:
        uri = self._file(path)
        with _storage_errors("look up", uri):
            return _backend(uri, self.settings).size(uri)


def open_source(uri: str, settings: StorageSettings) -> BinaryIO:
    """Open an input file for reading; close it after use.

    Raises:
        SourceNotFoundError: If it does not exist or cannot be reached.
    """
    uri = absolute_uri(uri)
    with _source_errors(uri):
        return _backend(uri, settings).open(uri)


def read_source(uri: str, settings: StorageSettings) -> bytes:
    """The whole content of an input file.

    Raises:
        SourceNotFoundError: If it does not exist or cannot be reached.
    """
    uri = absolute_uri(uri)
    with _source_errors(uri):
        return _backend(uri, settings).read(uri)


def source_digest(uri: str, settings: StorageSettings) -> tuple[str, int]:
    """SHA-256 (hex) and number of bytes of an input file, read in pieces.

    Raises:
        SourceNotFoundError: If it does not exist or cannot be reached.
    """
    with open_source(uri, settings) as stream, _source_errors(uri):
        digest, size = hashlib.sha256(), 0
        while block := stream.read(1 << 22):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size


def expand(patterns: Sequence[str], settings: StorageSettings) -> tuple[str, ...]:
    """The input files that files, folders and globs stand for, in order, each once.

    A folder stands for the CSV and Parquet files directly in it, sorted by name; hidden files are left out.

    Raises:
        SourceNotFoundError: If a pattern stands for no file, naming it.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        uri = absolute_uri(pattern)
        with _source_errors(uri):
            files = _expand_one(uri, settings)
        if not files:
            raise SourceNotFoundError(
                f"the source {display(uri)} does not exist or holds no CSV or Parquet file: check the path"
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


def absolute_uri(uri: str) -> str:
    """``s3://bucket/key`` without doubled slashes, or an absolute local path (``file://`` and ``~`` understood).

    Raises:
        StorageError: If the address is empty, names no bucket, or has a scheme other than ``s3`` or ``file``.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        if not uri:
            raise StorageError("an address is empty: give a folder or s3://bucket/prefix")
        return str(Path(os.path.abspath(Path(uri).expanduser())))  # noqa: PTH100 - resolve() would follow links
    if scheme == "file":
        return absolute_uri(rest)
    parts = [part for part in rest.split("/") if part]
    if scheme != "s3" or not parts:
        raise StorageError(f"{display(uri)} is not an address this program knows: use a folder or s3://bucket/prefix")
    return "s3://" + "/".join(parts)


def display(text: object) -> str:
    """A text fit for messages: without credentials, whether from a URL or from the environment."""
    shown = re.sub(r"(?<=://)[^/@\s]+@", "***@", str(text))
    for name in SECRET_VARIABLES:
        if len(value := os.environ.get(name, "")) > 3:
            shown = shown.replace(value, "***")
    return shown


def _checked(path: str) -> str:
    """Refuse a path that would leave the store; such names may come from data."""
    parts = path.split("/")
    if any(part in {"", ".", ".."} for part in parts) or "\\" in path or "\0" in path or "://" in path:
        raise StorageError(f"{path!r} is not a path within a store: it must be relative, without '..' or empty parts")
    return path


def _backend(uri: str, settings: StorageSettings) -> Backend:
    return S3Backend(settings) if uri.startswith("s3://") else LocalBackend()


def _is_failure(error: Exception) -> bool:
    if isinstance(error, OSError):  # TimeoutError is one too
        return True
    from botocore.exceptions import BotoCoreError, ClientError

    return isinstance(error, (BotoCoreError, ClientError))


@contextmanager
def _translated(describe: Callable[[Exception], FltsError]) -> Iterator[None]:
    """Turn what a disk or an S3 client raises into the program's own error, and let everything else pass."""
    try:
        yield
    except Exception as error:
        if not _is_failure(error):
            raise
        raise describe(error) from error


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return display(" ".join(str(text).split())).rstrip(".")


def _storage_errors(action: str, uri: str) -> AbstractContextManager[None]:
    def describe(error: Exception) -> StorageError:
        if isinstance(error, FileNotFoundError):
            return StorageError(f"could not {action} {display(uri)}: it does not exist")
        return StorageError(
            f"could not {action} {display(uri)} ({_reason(error)}): check the place, its access rights and the AWS_* "
            "credentials"
        )

    return _translated(describe)


def _source_errors(uri: str) -> AbstractContextManager[None]:
    def describe(error: Exception) -> SourceNotFoundError:
        return SourceNotFoundError(
            f"the source {display(uri)} cannot be read ({_reason(error)}): check the path and the access rights"
        )

    return _translated(describe)
