"""How a local disk and an S3 server do what :mod:`flts_ray.data.storage` asks; errors pass through untouched."""

from __future__ import annotations

import base64
import errno
import glob as globbing
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from flts_ray.config import StorageSettings
from flts_ray.data.addresses import split_s3
from flts_ray.data.retries import answer_of
from flts_ray.data.s3 import request_timeout_s, s3fs_client

SLOWEST_UPLOAD_BYTES_PER_S = 100_000
LARGEST_PUT_BYTES = 100 << 20
DELETED_AT_ONCE = 1000
"""Keys in one request (an S3 limit)."""


class Backend(Protocol):
    """What a place must be able to do; paths are absolute in the place's own notation."""

    def open(self, path: str) -> BinaryIO:
        """Open for reading."""

    def read(self, path: str) -> bytes:
        """The whole content."""

    def write(self, path: str, data: bytes) -> None:
        """Replace the content, atomically."""

    def create(self, path: str, data: bytes) -> bool:
        """Write what is not there yet, atomically; False if it is."""

    def size(self, path: str) -> int | None:
        """Bytes, or None where there is no such file."""

    def walk(self, path: str) -> list[str]:
        """Every file below the path, as paths relative to it."""

    def temporary(self, path: str, older_than_s: float) -> list[str]:
        """Files below the path that a killed writer left, as paths relative to it."""

    def glob(self, pattern: str) -> list[str]:
        """Files that match a pattern, as absolute paths."""

    def moving(self, source: str, target: str) -> list[Callable[[], None]]:
        """Steps, each of which may be repeated, that give a file another path, replacing what is there."""

    def delete(self, path: str) -> None:
        """Remove a file or everything below a path; nothing there is fine."""

    def probe(self, path: str) -> None:
        """Answer, or raise what is in the way."""

    def make_root(self, path: str) -> None:
        """Make the folder, or the bucket, that holds the path; there already is fine."""


class LocalBackend:
    """Files on this machine."""

    def open(self, path: str) -> BinaryIO:
        """Open for reading."""
        return Path(path).open("rb")

    def read(self, path: str) -> bytes:
        """The whole content."""
        return Path(path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        """Write beside the target, flush to disk, then rename over it: the rename is the one visible step."""
        with _written_beside(Path(path), data) as temporary:
            temporary.replace(path)

    def create(self, path: str, data: bytes) -> bool:
        """Write beside the target, flush to disk, then link, which fails where something is."""
        with _written_beside(Path(path), data) as temporary:
            try:
                Path(path).hardlink_to(temporary)
            except FileExistsError:
                return False
        return True

    def size(self, path: str) -> int | None:
        """Bytes, or None where there is no such file."""
        try:
            return Path(path).stat().st_size if Path(path).is_file() else None
        except FileNotFoundError:
            return None

    def walk(self, path: str) -> list[str]:
        """Every file below the path, unfinished ones left out."""
        return [name for name in self._files(path) if not _is_temporary(name)]

    def temporary(self, path: str, older_than_s: float) -> list[str]:
        """Files that a write began long ago and did not finish."""
        limit = time.time() - older_than_s
        found = []
        for name in filter(_is_temporary, self._files(path)):
            with suppress(FileNotFoundError):
                if (Path(path) / name).stat().st_mtime < limit:
                    found.append(name)
        return found

    def glob(self, pattern: str) -> list[str]:
        """Files that match a pattern (``**`` crosses folders)."""
        return [path for path in globbing.glob(pattern, recursive=True) if Path(path).is_file()]  # noqa: PTH207

    def moving(self, source: str, target: str) -> list[Callable[[], None]]:
        """One step: a rename."""

        def rename() -> None:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            Path(source).replace(target)
            _sync_folder(Path(target).parent)

        return [rename]

    def delete(self, path: str) -> None:
        """Remove a file or a folder."""
        target = Path(path)
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    def probe(self, path: str) -> None:
        """A folder that is there must take files; one that is not there is made by the first write."""
        if Path(path).exists() and not os.access(path, os.W_OK | os.X_OK):
            code = errno.EROFS if os.statvfs(path).f_flag & os.ST_RDONLY else errno.EACCES
            raise OSError(code, os.strerror(code), path)

    def make_root(self, path: str) -> None:
        """Make the folder."""
        Path(path).mkdir(parents=True, exist_ok=True)

    def _files(self, path: str) -> Iterator[str]:
        root = Path(path)
        if root.is_dir():
            for folder, _, names in os.walk(root, onerror=_raise):
                yield from ((Path(folder) / name).relative_to(root).as_posix() for name in names)


@contextmanager
def _written_beside(target: Path, data: bytes) -> Iterator[Path]:
    """A temporary file with the data, safely on disk, in the target's folder; gone afterwards unless renamed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{target.name[:100]}.{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(target.parent)


def _is_temporary(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.startswith(".") and name.endswith(".tmp")


def _raise(error: OSError) -> None:
    raise error


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot sync folders; the rename itself succeeded
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Version:
    """An object as it was at one moment.

    Attributes:
        data: Its content.
        tag: Name of this version, for conditional writes.
        age_s: Seconds since it was written, by the server's own clock.
    """

    data: bytes
    tag: str
    age_s: float


@dataclass(frozen=True)
class S3Backend:
    """Objects on an S3 server, by s3fs. Connections are shared per process and made on first use."""

    settings: StorageSettings

    def filesystem(self) -> Any:
        """The s3fs file system of these settings."""
        return s3fs_client(self.settings)

    def open(self, path: str) -> BinaryIO:
        """Open for reading, in large sequential pieces."""
        return cast(BinaryIO, self.filesystem().open(path, "rb", block_size=1 << 24, cache_type="readahead"))

    def read(self, path: str) -> bytes:
        """The whole object."""
        return bytes(self.filesystem().cat_file(path))

    def write(self, path: str, data: bytes) -> None:
        """One put, or one multipart upload that is completed, or aborted, as a whole."""
        self._put(path, data)

    def create(self, path: str, data: bytes) -> bool:
        """One put that the server takes only where no object is (``If-None-Match: *``)."""
        return self._conditional(lambda: self._put(path, data, IfNoneMatch="*"))

    def size(self, path: str) -> int | None:
        """Bytes, or None where there is no such object; a bucket that does not exist is an error."""
        try:
            info = self.filesystem().info(path)
        except FileNotFoundError as error:
            if answer_of(error)[1] == "NoSuchBucket":
                raise
            return None
        return int(info["size"]) if info["type"] == "file" else None

    def walk(self, path: str) -> list[str]:
        """Every object below the path; not the empty ones that some programs leave to stand for folders."""
        root = path.removeprefix("s3://").rstrip("/") + "/"
        names = [key.removeprefix(root) for key in self.filesystem().find(path) if key.startswith(root)]
        return [name for name in names if name and not name.endswith("/")]

    def temporary(self, path: str, older_than_s: float) -> list[str]:
        """None: an object appears when it is complete."""
        return []

    def glob(self, pattern: str) -> list[str]:
        """Objects that match a pattern (``**`` crosses folders)."""
        return [f"s3://{key}" for key in self.filesystem().glob(pattern)]

    def moving(self, source: str, target: str) -> list[Callable[[], None]]:
        """Two steps: copy on the server, then delete."""
        return [lambda: self.filesystem().cp_file(source, target), lambda: self.filesystem().rm_file(source)]

    def delete(self, path: str) -> None:
        """Remove an object, or all below the path."""
        bucket = split_s3(path)[0]
        keys = [key.removeprefix(f"{bucket}/") for key in self.filesystem().find(path)]
        for start in range(0, len(keys), DELETED_AT_ONCE):
            batch = [{"Key": key} for key in keys[start : start + DELETED_AT_ONCE]]
            answer = self._call("delete_objects", Bucket=bucket, Delete={"Objects": batch, "Quiet": True})
            if refused := answer.get("Errors"):  # the request as a whole succeeded all the same
                raise PermissionError(errno.EACCES, f"{refused[0].get('Code')} for {refused[0].get('Key')}")

    def probe(self, path: str) -> None:
        """List one key: that names what is in the way, where asking for the bucket itself answers a bare number."""
        bucket, key = split_s3(path)
        self._call("list_objects_v2", Bucket=bucket, Prefix=f"{key}/" if key else "", MaxKeys=1)

    def make_root(self, path: str) -> None:
        """Make the bucket."""
        region = self.settings.region
        place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        try:
            self._call("create_bucket", Bucket=split_s3(path)[0], **place)
        except FileExistsError:
            return  # another writer was faster; the probe tells whether it is ours to use

    def version(self, path: str) -> Version | None:
        """An object with what it takes to replace just this version of it; None where there is none."""
        from fsspec.asyn import sync

        bucket, key = split_s3(path)
        try:
            answer = self._call("get_object", Bucket=bucket, Key=key)
        except FileNotFoundError as error:
            if answer_of(error)[1] == "NoSuchBucket":
                raise
            return None
        data = bytes(sync(self.filesystem().loop, answer["Body"].read))
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return Version(data, answer["ETag"], (now - answer["LastModified"]).total_seconds())

    def swap(self, path: str, data: bytes, tag: str) -> bool:
        """Replace one version of a small object; False if another stands there now, or none."""
        return self._conditional(lambda: self._put(path, data, IfMatch=tag))

    def delete_version(self, path: str, tag: str) -> bool:
        """Remove one version of an object; False if another stands there now."""
        bucket, key = split_s3(path)
        try:
            return self._conditional(lambda: self._call("delete_object", Bucket=bucket, Key=key, IfMatch=tag))
        except OSError as error:
            if answer_of(error)[1] != "NotImplemented":
                raise
        found = self.version(path)
        if found is None or found.tag != tag:
            return False
        self.filesystem().rm_file(path)
        return True

    def _call(self, method: str, **arguments: Any) -> dict[str, Any]:
        return cast(dict[str, Any], self.filesystem().call_s3(method, **arguments))

    def _put(self, path: str, data: bytes, **condition: str) -> None:
        """Write an object, with a limit for the whole upload.

        While a server neither asks for the body nor reads it, no other limit counts. And by their digest servers
        refuse bodies that were cut off on the way; without it, SeaweedFS keeps what it got.
        """
        timeout_s = request_timeout_s(self.settings) + len(data) / SLOWEST_UPLOAD_BYTES_PER_S
        if len(data) > LARGEST_PUT_BYTES:  # every part is acknowledged before the whole is put together
            mode = "create" if "IfNoneMatch" in condition else "overwrite"
            self.filesystem().pipe_file(path, data, mode=mode, chunksize=LARGEST_PUT_BYTES // 2, timeout=timeout_s)
            return
        bucket, key = split_s3(path)
        digest = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        self._call("put_object", Bucket=bucket, Key=key, Body=data, ContentMD5=digest, timeout=timeout_s, **condition)

    def _conditional(self, put: Callable[[], Any]) -> bool:
        """Whether the server found the condition met."""
        try:
            put()
        except FileExistsError:
            return False
        except OSError as error:
            status, code = answer_of(error)
            if status != HTTPStatus.PRECONDITION_FAILED and code != "NoSuchKey":
                raise
            return False
        return True
