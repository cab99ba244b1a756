"""A checkpoint comes back as it was written, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from flts_ray.errors import IntegrityError
from flts_ray.training.checkpoint import ARRAYS, META, read_checkpoint, write_checkpoint
from flts_ray.training.loop_state import LoopState

pytestmark = pytest.mark.unit

STATE = LoopState(
    {"version": 1, "spec": {"epochs": 4}, "shape": {"cell": "gru"}, "step": 7, "history": []},
    {"weights/head.bias": np.array([1.5, np.nan, -0.0], dtype=np.float32), "best/head.bias": np.zeros((2, 3))},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_checkpoint(STATE, tmp_path)
    return tmp_path


def test_a_state_comes_back_to_the_bit(folder: Path) -> None:
    found = read_checkpoint(folder)
    assert found.meta == STATE.meta
    assert {name: (a.dtype, a.shape, a.tobytes()) for name, a in found.arrays.items()} == {
        name: (a.dtype, a.shape, a.tobytes()) for name, a in STATE.arrays.items()
    }


def test_nothing_but_json_and_safetensors_is_written(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [META, ARRAYS]
    json.loads((folder / META).read_text())


@pytest.mark.parametrize("name", [META, ARRAYS])
def test_a_missing_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(IntegrityError, match=r"cannot be read .* training has to start anew"):
        read_checkpoint(folder)


@pytest.mark.parametrize("position", [0, 12, -1])
def test_one_altered_byte_is_refused(folder: Path, position: int) -> None:
    content = bytearray((folder / ARRAYS).read_bytes())
    content[position] ^= 1
    (folder / ARRAYS).write_bytes(content)
    with pytest.raises(IntegrityError, match="is damaged: its arrays have sha256"):
        read_checkpoint(folder)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"sha256": 1}', "null"])
def test_a_damaged_description_is_refused(folder: Path, text: str) -> None:
    (folder / META).write_text(text)
    with pytest.raises(IntegrityError):
        read_checkpoint(folder)
