"""What the fault suite shares: the undisturbed run that every result is held against, and the record of the table."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.desk import Desk, scores
from tests.faults.table import PAGE, ROWS, Records


@pytest.fixture(scope="session")
def faults() -> Iterator[Records]:
    """Where a test notes what it observed. With FLTS_FAULTS_PAGE set, the page is written when all rows are there."""
    records = Records()
    yield records
    if os.environ.get("FLTS_FAULTS_PAGE"):
        missing = [key for key in ROWS if key not in records.rows]
        assert not missing, f"the page needs every row; missing: {missing}"
        PAGE.write_text(records.markdown(), encoding="utf-8")


FAULT_SETTINGS: dict[str, Any] = {"candidates": "gru", "training__epochs": 24, "training__early_stopping": "false"}


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The document of a run of FAULT_SETTINGS that nothing disturbed."""
    answer = Desk(tmp_path_factory.mktemp("undisturbed")).run(**FAULT_SETTINGS)
    assert answer.code == 0, answer.err[-3000:]
    return answer.document


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
