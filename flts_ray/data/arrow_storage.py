"""A store as pyarrow sees it, for Ray Train's checkpoints: the same place, endpoint and credentials."""

from __future__ import annotations

from pyarrow import fs

from flts_ray.data.s3 import arrow_client
from flts_ray.data.storage import Store


def arrow_place(store: Store) -> tuple[str, fs.FileSystem]:
    """Path and filesystem of a store.

    Returns:
        A local folder or ``bucket/prefix``, and the filesystem that reads and writes there.
    """
    if not store.uri.startswith("s3://"):
        return store.uri, fs.LocalFileSystem()
    return store.uri.removeprefix("s3://"), arrow_client(store.settings)
