"""What killed runs left in a store: found, and removed where nobody works on it any more."""

from __future__ import annotations

from flts_ray.data.claims import CLAIM_FILE, DATASETS, dataset_store, has_claim, read_claim
from flts_ray.data.locks import hold, holder_of
from flts_ray.data.storage import Store
from flts_ray.errors import BusyError, IntegrityError

STAGING = f"{DATASETS}/.unfinished-"
STALE_S = 3600.0
"""Age at which a temporary file has no writer any more."""


def staging_of(dataset_id: str) -> str:
    """Where a dataset lies until it is published; the same for every run, so that the next one finds it."""
    return f"{STAGING}{dataset_id}"


def lock_of(dataset_id: str) -> str:
    """The lock that preprocessing of a dataset holds."""
    return f"preprocess-{dataset_id}"


def sweep(store: Store, dataset_id: str) -> list[str]:
    """Remove unfinished output of one dataset, and files of it that no claim names. Hold its lock meanwhile.

    Returns:
        What was there.
    """
    place = dataset_store(store, dataset_id)
    named = {CLAIM_FILE, *_claimed(store, dataset_id)}
    unclaimed = [path for path in place.list(hidden=True) if path not in named]
    unfinished = store.list(staging_of(dataset_id), hidden=True)
    for path in unclaimed:
        place.delete(path)
    if unfinished:
        store.delete(staging_of(dataset_id))
    return sorted([*unfinished, *(f"{DATASETS}/{dataset_id}/{path}" for path in unclaimed)])


def leftovers(store: Store) -> list[str]:
    """Unfinished datasets that nobody works on, and old temporary files, as paths relative to the store.

    Raises:
        StorageError: If the store does not answer.
    """
    free = [dataset_id for dataset_id in _unfinished(store) if holder_of(store, lock_of(dataset_id)) is None]
    return sorted([*(path for i in free for path in _remains(store, i)), *store.temporary_files(STALE_S)])


def remove_leftovers(store: Store) -> list[str]:
    """Remove what :func:`leftovers` finds, unless somebody takes up the work on it first.

    Returns:
        What was removed.

    Raises:
        StorageError: If the store does not answer.
    """
    removed = []
    for dataset_id in _unfinished(store):
        try:
            with hold(store, lock_of(dataset_id), owner="", wait_s=0):
                removed += _remains(store, dataset_id)
                sweep(store, dataset_id)
        except BusyError:
            continue
    for path in store.temporary_files(STALE_S):
        store.delete(path)
        removed.append(path)
    return sorted(removed)


def _unfinished(store: Store) -> list[str]:
    """Ids of the datasets of which there is a staging folder, or a folder without a claim."""
    files = store.list(DATASETS, hidden=True)
    finished = {path.split("/")[1] for path in files if path.endswith(f"/{CLAIM_FILE}")}
    found = set()
    for path in files:
        name = path.split("/")[1]
        if path.startswith(STAGING):
            found.add(name.removeprefix(STAGING.rpartition("/")[2]))
        elif name not in finished and path.count("/") > 1:
            found.add(name)
    return sorted(found)


def _remains(store: Store, dataset_id: str) -> list[str]:
    """The folders that hold unfinished output of a dataset."""
    folders = [staging_of(dataset_id)] if store.list(staging_of(dataset_id), hidden=True) else []
    place = f"{DATASETS}/{dataset_id}"
    if not has_claim(store, dataset_id) and store.list(place, hidden=True):
        folders.append(place)
    return folders


def _claimed(store: Store, dataset_id: str) -> list[str]:
    if not has_claim(store, dataset_id):
        return []
    try:
        return [split.path for split in read_claim(store, dataset_id).files()]
    except IntegrityError:
        return []  # nobody can read a dataset through a damaged claim
