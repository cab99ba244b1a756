"""Where things lie: addresses in one notation, names that cannot lead astray, and texts fit for messages."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from flts_ray.errors import StorageError
from flts_ray.redaction import redacted


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
        raise StorageError(f"{redacted(uri)} is not an address this program knows: use a folder or s3://bucket/prefix")
    return "s3://" + "/".join(parts)


def split_s3(uri: str) -> tuple[str, str]:
    """Bucket and key of an ``s3://`` address; the key may be empty."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def checked_path(path: str) -> str:
    """A path within a store, as it is; such names may come from data.

    Raises:
        StorageError: If it would leave the store.
    """
    parts = path.split("/")
    if any(part in {"", ".", ".."} for part in parts) or "\\" in path or "\0" in path or "://" in path:
        raise StorageError(f"{path!r} is not a path within a store: it must be relative, without '..' or empty parts")
    return path


def file_name(name: str) -> str:
    """A name for files that no station or run name can lead astray; two names never share one."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        return name
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:60]
    return f"{readable or 'series'}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def reason_of(error: BaseException) -> str:
    """What an error says, on one line, fit for messages."""
    silence = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
    text = getattr(error, "strerror", None) or str(error) or silence
    return redacted(" ".join(str(text).split())).rstrip(".")
