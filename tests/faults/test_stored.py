"""What was stored is damaged: it is noticed before anyone uses it, made anew, and the result is the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.desk import Desk
from tests.faults.conftest import assert_same, train_plainly
from tests.faults.here import Event, captured, named, run_here
from tests.faults.table import Records

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Desk:
    """A home where everything has been done."""
    desk = Desk(tmp_path_factory.mktemp("finished"))
    with pytest.MonkeyPatch.context() as patch:
        train_plainly(patch)
        run_here(desk)
    return desk


@pytest.fixture
def desk(finished: Desk, tmp_path: Path) -> Desk:
    """A copy of it, to be spoilt."""
    shutil.copytree(finished.folder, tmp_path / "copy")
    return Desk(tmp_path / "copy")


def only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    assert found, pattern
    return found[0]


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def edit(file: Path) -> None:
    claim = json.loads(file.read_text())
    claim["series"][0]["train"]["rows"] -= 1
    file.write_text(json.dumps(claim))


def noticed(desk: Desk, undisturbed: dict[str, Any]) -> tuple[list[Event], float]:
    """Run again; the events, and the seconds that the repair took."""
    with captured() as events:
        result = run_here(desk)
    document = result.document()
    # The champion of the copied registry is this very candidate.
    assert document["verdict"]["state"] == "kept"
    assert_same({**document, "verdict": {**document["verdict"], "state": "promoted"}}, undisturbed)
    return events, events[-1]["at_s"] - events[0]["at_s"]


@pytest.mark.parametrize(
    ("key", "pattern", "damage"),
    [
        ("parquet_corrupted", "datasets/*/train/*.parquet", flip),
        ("parquet_truncated", "datasets/*/test/*.parquet", truncate),
        ("claim_edited", "datasets/*/claim.json", edit),
    ],
)
def test_a_damaged_dataset_is_made_anew(
    key: str, pattern: str, damage: Callable[[Path], None], desk: Desk, undisturbed: dict[str, Any], faults: Records
) -> None:
    damage(only(desk.home, pattern))
    events, took_s = noticed(desk, undisturbed)
    (repair,) = named(events, "preprocess_repairing")
    assert named(events, "preprocess_done")
    assert named(events, "candidate_reused")
    faults.add(key, repair["reason"].partition(":")[0].replace(repair["dataset_id"], "…"), took_s)


def test_a_truncated_bundle_is_fitted_anew(
    desk: Desk, plain_training: None, undisturbed: dict[str, Any], faults: Records
) -> None:
    truncate(only(desk.home, "models/gru-*/weights.safetensors"))
    events, took_s = noticed(desk, undisturbed)
    assert named(events, "candidate_damaged")
    assert named(events, "fit_done", candidate="gru")
    faults.add("bundle_damaged", "size and digest differ: fitted anew", took_s)
