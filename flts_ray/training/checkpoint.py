"""Training checkpoints in the store: JSON for what is named, safetensors for the arrays. Nothing is pickled.

Ray Train is told of every checkpoint and removes old ones; bytes go through the store, with its retries and its
deadline, so that a worker outlives a store that is away for a while. The arrays are written first and the JSON with
their digest last: a checkpoint is whole or it is none.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from flts_ray.data.storage import Store
from flts_ray.errors import IntegrityError
from flts_ray.training.loop_state import LoopState

META = "loop.json"
ARRAYS = "loop.safetensors"
_NAME = re.compile(r"epoch_(\d{5,})_[0-9a-f]+")


def checkpoint_name(epoch: int) -> str:
    """A name that no earlier attempt at the same epoch has used."""
    return f"epoch_{epoch:05d}_{time.time_ns():016x}"


def write_checkpoint(state: LoopState, store: Store, name: str) -> None:
    """Write a state into a folder of the store.

    Raises:
        StorageError: If the store refuses, or does not answer within its deadline.
    """
    arrays = save_arrays(state.arrays)
    meta = {"sha256": _digest(state.meta, arrays), "loop": state.meta}
    store.write_bytes(f"{name}/{ARRAYS}", arrays)
    store.write_bytes(f"{name}/{META}", json.dumps(meta, allow_nan=False).encode())


def read_checkpoint(store: Store, name: str) -> LoopState:
    """Read what :func:`write_checkpoint` wrote.

    Raises:
        IntegrityError: If it is truncated or altered.
        StorageError: If the store refuses, or does not answer within its deadline.
    """
    content, arrays = store.read_bytes(f"{name}/{META}"), store.read_bytes(f"{name}/{ARRAYS}")
    try:
        meta = json.loads(content)
        digest = _digest(meta["loop"], arrays)
        if digest != meta["sha256"]:
            raise IntegrityError(
                f"checkpoint {name} is damaged: its content has sha256 {digest[:12]}, {meta['sha256'][:12]} was "
                "written; an earlier one has to do"
            )
        return LoopState(meta["loop"], load_arrays(arrays))
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise IntegrityError(
            f"checkpoint {name} cannot be read ({type(error).__name__}: {error}): an earlier one has to do"
        ) from error


def newest_checkpoint(
    store: Store, *, on_damaged: Callable[[str, str], None] = lambda name, reason: None
) -> tuple[str, LoopState] | None:
    """Name and content of the newest checkpoint that is whole; none if there is none.

    Args:
        store: Holds one folder a checkpoint.
        on_damaged: Told the name of each that is not whole, and why.

    Raises:
        StorageError: If the store refuses, or does not answer within its deadline.
    """
    files = store.list()
    for name in sorted({file.partition("/")[0] for file in files if _NAME.match(file)}, reverse=True):
        if f"{name}/{META}" not in files:
            continue  # its writer died first, or Ray Train has begun to remove it
        if f"{name}/{ARRAYS}" not in files:
            on_damaged(name, f"checkpoint {name} is damaged: its arrays are missing; an earlier one has to do")
            continue
        try:
            return name, read_checkpoint(store, name)
        except IntegrityError as error:
            on_damaged(name, str(error))
    return None


def _digest(meta: dict[str, Any], arrays: bytes) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode() + arrays).hexdigest()
