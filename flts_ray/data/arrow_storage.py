"""A store as pyarrow sees it, for Ray Train's checkpoints: the same place, endpoint and credentials."""

from __future__ import annotations

from pyarrow import fs

from flts_ray.data.storage import Store


def arrow_place(store: Store) -> tuple[str, fs.FileSystem]:
    """Path and filesystem of a store.

    Returns:
        A local folder or ``bucket/prefix``, and the filesystem that reads and writes there.
    """
    if not store.uri.startswith("s3://"):
        return store.uri, fs.LocalFileSystem()
    scheme, _, host = store.settings.endpoint_url.rpartition("://")
    filesystem = fs.S3FileSystem(
        endpoint_override=host or None,
        scheme=scheme or "https",
        region=store.settings.region,
        force_virtual_addressing=store.settings.addressing_style == "virtual",
        connect_timeout=min(5.0, store.settings.timeout_s),
        request_timeout=store.settings.timeout_s,
    )
    return store.uri.removeprefix("s3://"), filesystem
