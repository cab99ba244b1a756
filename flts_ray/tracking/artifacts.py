"""Copies of what a run stores as artifacts, in its own folder, until and after they are delivered.

They are named by their content: logging something again under the same name leaves what was recorded before intact.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from flts_ray.errors import StorageError

ARTIFACTS = "artifacts"


def keep_bytes(folder: Path, name: str, data: bytes) -> tuple[str, str]:
    """Write data into a run's folder.

    Args:
        folder: The run's folder.
        name: File name.
        data: Content.

    Returns:
        Path relative to ``folder``, and SHA-256.

    Raises:
        StorageError: If the disk refuses.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    kept = f"{ARTIFACTS}/{sha256[:16]}/{name}"
    temporary = folder / f"{ARTIFACTS}/{sha256[:16]}/.{name}.tmp"
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(folder / kept)
    except OSError as error:
        raise StorageError(f"{folder / kept} cannot be written ({error}): make room on the disk") from error
    return kept, sha256


def keep_folder(folder: Path, source: Path) -> tuple[str, dict[str, str]]:
    """Keep another folder's files in a run's folder: as hard links, which take no room, where the disk allows.

    Args:
        folder: The run's folder.
        source: Whose files to keep.

    Returns:
        Path relative to ``folder``, and SHA-256 of every file by its path in it.

    Raises:
        StorageError: If the disk refuses.
    """
    try:
        files = {}
        for file in sorted(path for path in source.rglob("*") if path.is_file()):
            files[file.relative_to(source).as_posix()] = hashlib.sha256(file.read_bytes()).hexdigest()
        digest = hashlib.sha256("\n".join(f"{sha} {name}" for name, sha in files.items()).encode()).hexdigest()
        kept = f"{ARTIFACTS}/{digest[:16]}"
        for name in files:
            target = folder / kept / name
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(source / name, target)
    except OSError as error:
        raise StorageError(f"{source} cannot be kept in {folder} ({error}): make room on the disk") from error
    return kept, files


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without links
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        shutil.copyfile(source, temporary)
        temporary.replace(target)
