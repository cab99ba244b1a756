"""A checkpoint comes back as it was written, or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flts_ray.data.storage import Store
from flts_ray.errors import IntegrityError
from flts_ray.training.checkpoint import (
    ARRAYS,
    META,
    checkpoint_name,
    newest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from flts_ray.training.loop_state import LoopState

pytestmark = pytest.mark.unit

STATE = LoopState(
    {"version": 1, "spec": {"epochs": 4}, "shape": {"cell": "gru"}, "step": 7, "history": []},
    {"weights/head.bias": np.array([1.5, np.nan, -0.0], dtype=np.float32), "best/head.bias": np.zeros((2, 3))},
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(str(tmp_path))
    write_checkpoint(STATE, found, "one")
    return found


def test_a_state_comes_back_to_the_bit(store: Store) -> None:
    found = read_checkpoint(store, "one")
    assert found.meta == STATE.meta
    assert {name: (a.dtype, a.shape, a.tobytes()) for name, a in found.arrays.items()} == {
        name: (a.dtype, a.shape, a.tobytes()) for name, a in STATE.arrays.items()
    }


def test_nothing_but_json_and_safetensors_is_written(store: Store) -> None:
    assert store.list() == [f"one/{META}", f"one/{ARRAYS}"]
    json.loads(store.read_bytes(f"one/{META}"))


@pytest.mark.parametrize("position", [0, 12, -1])
def test_one_altered_byte_is_refused(store: Store, position: int) -> None:
    content = bytearray(store.read_bytes(f"one/{ARRAYS}"))
    content[position] ^= 1
    store.write_bytes(f"one/{ARRAYS}", bytes(content))
    with pytest.raises(IntegrityError, match="checkpoint one is damaged: its content has sha256"):
        read_checkpoint(store, "one")


def test_an_edited_description_is_refused(store: Store) -> None:
    content = json.loads(store.read_bytes(f"one/{META}"))
    content["loop"]["step"] += 1
    store.write_bytes(f"one/{META}", json.dumps(content).encode())
    with pytest.raises(IntegrityError, match="is damaged"):
        read_checkpoint(store, "one")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"sha256": 1}', "null"])
def test_a_damaged_description_is_refused(store: Store, text: str) -> None:
    store.write_bytes(f"one/{META}", text.encode())
    with pytest.raises(IntegrityError, match="checkpoint one cannot be read"):
        read_checkpoint(store, "one")


def test_the_newest_checkpoint_that_is_whole_counts(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert newest_checkpoint(store) is None
    names = [checkpoint_name(epoch) for epoch in (1, 2, 2, 3, 4, 5)]
    assert sorted(names) == names
    for step, name in enumerate(names):
        write_checkpoint(replace(STATE, meta={**STATE.meta, "step": step}), store, name)
    store.write_bytes("other/loop.json", b"of somebody else")
    store.delete(f"{names[5]}/{META}")
    store.delete(f"{names[4]}/{ARRAYS}")
    store.write_bytes(f"{names[3]}/{ARRAYS}", store.read_bytes(f"{names[3]}/{ARRAYS}")[:-1])
    damaged: list[tuple[str, str]] = []
    found = newest_checkpoint(store, on_damaged=lambda name, reason: damaged.append((name, reason)))
    assert found is not None
    assert (found[0], found[1].meta["step"]) == (names[2], 2)
    assert [name for name, _ in damaged] == [names[4], names[3]], "one that never was whole is not damaged"
    assert all(name in reason for name, reason in damaged)
    for name in names:
        store.delete(f"{name}/{ARRAYS}")
    assert newest_checkpoint(store) is None
