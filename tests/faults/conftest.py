"""What the fault suite shares: the undisturbed run that every result is held against, and the record of the table."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest

from flts_ray.config import Settings
from flts_ray.data.dataset import load_dataset
from flts_ray.data.storage import Store
from flts_ray.models.recurrent import Cell
from flts_ray.telemetry.heartbeat import Beats
from flts_ray.training.fit import FittedRecurrent, fit_recurrent
from flts_ray.training.loop_state import EpochMetrics
from tests.desk import Desk, scores
from tests.faults.table import PAGE, Records

if TYPE_CHECKING:
    from flts_ray.training.relay import Relay


@pytest.fixture(scope="session")
def faults() -> Iterator[Records]:
    """Where a test notes what it observed. With FLTS_FAULTS_PAGE set, its rows of the page are written anew."""
    records = Records()
    yield records
    if os.environ.get("FLTS_FAULTS_PAGE"):
        before = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
        PAGE.write_text(records.markdown(before), encoding="utf-8")


FAULT_SETTINGS: dict[str, Any] = {"candidates": "gru", "training__epochs": 32, "training__early_stopping": "false"}


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> dict[str, Any]:
    """The document of a run of FAULT_SETTINGS that nothing disturbed."""
    from tests.faults.here import run_here

    with pytest.MonkeyPatch.context() as patch:
        train_plainly(patch)
        result = run_here(Desk(tmp_path_factory.mktemp("undisturbed")))
    assert result.exit_code == 0, result.verdict
    return result.document()


@pytest.fixture
def plain_training(monkeypatch: pytest.MonkeyPatch, local_ray: None) -> None:
    """For faults that Ray Train has no part in."""
    train_plainly(monkeypatch)


def train_plainly(patch: pytest.MonkeyPatch) -> None:
    """Train networks by the plain loop on a thread: the same bits as one worker of Ray Train, twenty seconds sooner."""
    from flts_ray.training import trainer

    patch.setattr(trainer, "fit_on_ray", _fit_without_ray)


def _fit_without_ray(
    cell: Cell, *, store: Store, dataset_id: str, settings: Settings, relay: Relay, **ignored: Any
) -> FittedRecurrent:
    dataset = load_dataset(store, dataset_id, test=False)
    beats = Beats(relay.mailbox.post.remote, candidate=cell, rank=0, node_id="")

    def tell(metrics: EpochMetrics, capture: object) -> None:
        beats("epoch", force=True, **asdict(metrics))
        time.sleep(0.1)

    return fit_recurrent(cell, dataset.frames, dataset.transforms, settings, on_epoch=tell)


def assert_same(document: dict[str, Any], undisturbed: dict[str, Any]) -> None:
    """Same data, same scores, same decision."""
    assert document["dataset_id"] == undisturbed["dataset_id"]
    assert document["verdict"]["state"] == undisturbed["verdict"]["state"]
    assert document["champion"] == undisturbed["champion"]
    assert scores(document) == scores(undisturbed)


def assert_tracked(desk: Desk, *, unfinished: bool = False) -> None:
    """No run is left RUNNING, none is doubled; all FINISHED unless the last command was refused."""
    found = desk.statuses()
    assert {kind: len(statuses) for kind, statuses in found.items()} == {"parent": 1, "gru": 1}
    assert "RUNNING" not in {status for statuses in found.values() for status in statuses}
    assert unfinished or found == {"parent": ["FINISHED"], "gru": ["FINISHED"]}
