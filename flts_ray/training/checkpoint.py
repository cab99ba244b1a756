"""A training checkpoint as two files: JSON for what is named, safetensors for the arrays. Nothing is pickled."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from flts_ray.errors import IntegrityError
from flts_ray.training.loop_state import LoopState

META = "loop.json"
ARRAYS = "loop.safetensors"


def write_checkpoint(state: LoopState, folder: Path) -> None:
    """Write a state into an existing, empty folder."""
    arrays = save_arrays(state.arrays)
    meta = {"sha256": hashlib.sha256(arrays).hexdigest(), "loop": state.meta}
    (folder / ARRAYS).write_bytes(arrays)
    (folder / META).write_text(json.dumps(meta, allow_nan=False), encoding="utf-8")


def read_checkpoint(folder: Path) -> LoopState:
    """Read what :func:`write_checkpoint` wrote.

    Raises:
        IntegrityError: If a file is missing, truncated or altered.
    """
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        content = (folder / ARRAYS).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if digest != meta["sha256"]:
            raise IntegrityError(
                f"checkpoint {folder.name} is damaged: its arrays have sha256 {digest[:12]}, {meta['sha256'][:12]} was "
                "written; training has to start anew"
            )
        return LoopState(meta["loop"], load_arrays(content))
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise IntegrityError(
            f"checkpoint {folder.name} cannot be read ({error}): training has to start anew"
        ) from error
