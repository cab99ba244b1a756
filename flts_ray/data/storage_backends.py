"""How a local disk and an S3 server do what :mod:`flts_ray.data.storage` asks; errors pass through untouched."""

from __future__ import annotations

import glob as globbing
import os
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from flts_ray.config import StorageSettings

S3_ATTEMPTS = 3
"""Times one S3 request is tried before it is given up."""


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
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f".{target.name[:100]}.{secrets.token_hex(8)}.tmp"
        try:
            with temporary.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)

    def size(self, path: str) -> int | None:
        """Bytes, or None where there is no such file."""
        try:
            return Path(path).stat().st_size if Path(path).is_file() else None
        except FileNotFoundError:
            return None

    def walk(self, path: str) -> list[str]:
        """Every file below the path, unfinished ones left out."""
        root = Path(path)
        if not root.is_dir():
            return []
        return [
            (Path(folder) / name).relative_to(root).as_posix()
            for folder, _, names in os.walk(root, onerror=_raise)
            for name in names
            if not (name.startswith(".") and name.endswith(".tmp"))
        ]

    def glob(self, pattern: str) -> list[str]:
        """Files that match a pattern (``**`` crosses folders)."""
        return [path for path in globbing.glob(pattern, recursive=True) if Path(path).is_file()]  # noqa: PTH207

    def move(self, source: str, target: str) -> None:
        """Rename."""
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(source).replace(target)
        _sync_folder(Path(target).parent)

    def delete(self, path: str) -> None:
        """Remove a file or a folder."""
        target = Path(path)
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


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


@dataclass(frozen=True)
class S3Backend:
    """Objects on an S3 server, by s3fs. Connections are shared per process and made on first use."""

    settings: StorageSettings

    def filesystem(self) -> Any:
        """The s3fs file system of these settings; fsspec keeps one instance for equal arguments."""
        import s3fs

        settings = self.settings
        filesystem = s3fs.S3FileSystem(
            endpoint_url=settings.endpoint_url or None,
            client_kwargs={"region_name": settings.region},
            config_kwargs={
                "connect_timeout": min(settings.timeout_s, 10.0),
                "read_timeout": settings.timeout_s,
                "retries": {"mode": "standard", "total_max_attempts": S3_ATTEMPTS},
                "s3": {"addressing_style": settings.addressing_style},
                # Checksum trailers, botocore's default, are refused by older S3-compatible servers.
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
            },
            use_listings_cache=False,
        )
        filesystem.retries = 1  # s3fs would multiply botocore's own attempts
        return filesystem

    def open(self, path: str) -> BinaryIO:
        """Open for reading, in large sequential pieces."""
        return cast(BinaryIO, self.filesystem().open(path, "rb", block_size=1 << 24, cache_type="readahead"))

    def read(self, path: str) -> bytes:
        """The whole object."""
        return bytes(self.filesystem().cat_file(path))

    def write(self, path: str, data: bytes) -> None:
        """One put; above 100 MB s3fs makes it a multipart upload that is completed, or aborted, as a whole."""
        self.filesystem().pipe_file(path, data)

    def size(self, path: str) -> int | None:
        """Bytes, or None where there is no such object."""
        try:
            info = self.filesystem().info(path)
        except FileNotFoundError:
            return None
        return int(info["size"]) if info["type"] == "file" else None

    def walk(self, path: str) -> list[str]:
        """Every object below the path; not the empty ones that some programs leave to stand for folders."""
        root = path.removeprefix("s3://").rstrip("/") + "/"
        names = [key.removeprefix(root) for key in self._find(path) if key.startswith(root)]
        return [name for name in names if name and not name.endswith("/")]

    def glob(self, pattern: str) -> list[str]:
        """Objects that match a pattern (``**`` crosses folders)."""
        return [f"s3://{key}" for key in self.filesystem().glob(pattern)]

    def move(self, source: str, target: str) -> None:
        """Copy on the server, then delete."""
        filesystem = self.filesystem()
        filesystem.cp_file(source, target)
        filesystem.rm_file(source)

    def delete(self, path: str) -> None:
        """Remove an object, or all below the path."""
        if keys := self._find(path):
            self.filesystem().rm(keys)

    def _find(self, path: str) -> list[str]:
        """Keys at or below the path; none in a bucket that does not exist (yet)."""
        try:
            return list(self.filesystem().find(path))
        except FileNotFoundError:
            return []
