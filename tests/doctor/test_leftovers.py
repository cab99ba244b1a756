"""What dead runs leave on a disk is found, and removed when asked."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flts_ray.candidates import SUMMARY_FILE
from flts_ray.data.claims import CLAIM_FILE, DATASETS
from flts_ray.data.locks import hold
from flts_ray.data.storage import Store
from flts_ray.doctor.findings import Finding, run_checks
from flts_ray.doctor.leftovers import home_leftovers, store_leftovers, tracker_leftovers
from flts_ray.runs import START_FILE, open_run
from flts_ray.tracking.journal import REJECTED_FILE, Journal, JournalWriter
from tests.doctor.findings import named, publish, resolved

pytestmark = pytest.mark.unit

GRU = "gru-0123456789ab"
WEEK_S = 7 * 86_400


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "home"))


@pytest.fixture
def look(store: Store) -> Callable[..., Finding]:
    """One check of the home folder and the store in it."""

    def find(check: str, *, fix: bool = False, deep: bool = False) -> Finding:
        settings = resolved(run__home=store.uri).settings
        groups = [store_leftovers(settings, fix=fix, deep=deep), home_leftovers(settings, fix=fix)]
        return named(run_checks(groups), check)

    return find


def test_datasets_that_are_what_they_claim(store: Store, tmp_path: Path, look: Callable[..., Finding]) -> None:
    assert look("datasets").detail == "none yet"
    publish(store, tmp_path)
    assert look("datasets").detail == "1 datasets, 2 files, sizes as claimed"
    assert look("datasets", deep=True).detail == "1 datasets, 2 files, every byte as claimed"


def test_datasets_that_are_not(store: Store, tmp_path: Path, look: Callable[..., Finding]) -> None:
    claim = publish(store, tmp_path)
    place = f"{DATASETS}/{claim.dataset_id}"
    path = f"{place}/{claim.files()[0].path}"
    content = store.read_bytes(path)

    store.write_bytes(path, content[:-1] + b"?")
    assert look("datasets").state == "ok", "sizes do not tell"
    deep = look("datasets", deep=True)
    assert (deep.state, deep.place) == ("trouble", place)
    assert "has digest" in deep.detail

    store.write_bytes(path, content[:-1])
    assert f"has {len(content) - 1} bytes where its claim records {len(content)}" in look("datasets").detail
    store.delete(path)
    assert "is gone" in look("datasets").detail
    store.write_bytes(f"{place}/{CLAIM_FILE}", b"{}")
    assert "not readable" in look("datasets", fix=True).detail
    assert store.exists(f"{place}/{CLAIM_FILE}"), "only half-written output is removed"


def test_half_written_datasets(store: Store, tmp_path: Path, look: Callable[..., Finding]) -> None:
    claim = publish(store, tmp_path)
    whole = store.list()
    half = f"{DATASETS}/.unfinished-{'0' * 16}/train/alpha.parquet"
    unclaimed = f"{DATASETS}/{'1' * 16}/train/alpha.parquet"
    for path in (half, unclaimed):
        store.write_bytes(path, b"half")
    found = look("half-written files")
    assert found.state == "trouble"
    assert "0" * 16 in found.detail
    assert "1" * 16 in found.detail
    assert found.remedy == "flts doctor --fix"
    with hold(store, f"preprocess-{'0' * 16}", owner="someone", wait_s=0):
        assert look("half-written files", fix=True).state == "fixed"
        assert store.exists(half), "a run works on it"
    assert look("half-written files", fix=True).state == "fixed"
    assert look("half-written files").state == "ok"
    assert store.list() == whole
    assert claim.dataset_id in str(whole)


def test_checkpoints_of_fitted_candidates(store: Store, look: Callable[..., Finding]) -> None:
    others = [f"checkpoints/{name}/epoch_00001_0/loop.json" for name in ("lstm-0123456789ab", "else")]
    needless = [f"checkpoints/{name}/epoch_00001_0/loop.json" for name in (GRU, f"{GRU}-1700000000000000000")]
    for path in (*others, *needless):
        store.write_bytes(path, b"{}")
    assert look("old checkpoints").state == "ok", "nobody is fitted yet"
    store.write_bytes(f"models/{GRU}/{SUMMARY_FILE}", b"{}")
    assert look("old checkpoints").detail == f"checkpoints/{GRU}, checkpoints/{GRU}-1700000000000000000"
    with hold(store, f"candidate-{GRU}", owner="someone", wait_s=0):
        assert look("old checkpoints", fix=True).state == "ok"
    assert look("old checkpoints", fix=True).state == "fixed"
    assert store.list("checkpoints") == sorted(others)
    assert look("old checkpoints").state == "ok"


def test_runs_that_nobody_took_up_again(store: Store, look: Callable[..., Finding]) -> None:
    home = Path(store.uri)
    assert look("unfinished runs").detail == "none"
    with open_run(home, "digest") as run:
        assert look("unfinished runs").detail == "none", "it is at work"
    assert "1 cut off lately" in look("unfinished runs").detail
    long_ago = time.time() - WEEK_S - 60
    os.utime(run.folder / START_FILE, (long_ago, long_ago))
    found = look("unfinished runs", fix=True)
    assert (found.state, run.run_id in found.detail) == ("warning", True)
    assert run.folder.exists(), "they are listed only"


def test_records_that_never_arrived(store: Store) -> None:
    home = Path(store.uri)
    settings = resolved(run__home=str(home)).settings

    def states() -> list[str]:
        found = run_checks([tracker_leftovers(settings, fix=False)[:1]])
        return [finding.state for finding in found if finding.check == "undelivered records"]

    assert states() == ["ok"]
    with open_run(home, "digest") as run:
        writer = JournalWriter(Journal(run.folder))
        writer.append(run.run_id, "start", 1, {"id": "1", "store": "x", "name": "x", "tags": {}, "parent": None})
        writer.close()
        assert states() == ["ok"], "it is at work"
    assert states() == ["trouble"]
    (run.folder / REJECTED_FILE).write_text(json.dumps({"reason": "no", "line": "x"}) + "\n")
    assert states() == ["warning", "trouble"]
