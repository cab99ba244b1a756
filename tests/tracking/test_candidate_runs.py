"""Child runs open together, take epochs once, and each ends with its own status whatever happens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import pytest

from flts_ray.errors import StorageError, TrackingError
from flts_ray.tracking.candidate_runs import EPOCH_METRICS, CandidateRuns
from flts_ray.tracking.run import TrackedRun

pytestmark = pytest.mark.unit


class Child:
    def __init__(self) -> None:
        self.status = "RUNNING"
        self.logged: list[tuple[int, dict[str, float], int | None]] = []
        self.tags: dict[str, str] = {}
        self.refuses = False

    def log_metrics(self, values: Mapping[str, float], *, step: int, at_ms: int | None = None) -> None:
        if self.refuses:
            raise StorageError("the disk is full")
        self.logged.append((step, dict(values), at_ms))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self.tags.update(tags)


class Parent:
    """Stands in for an MLflow parent run, with its rules of how runs end."""

    def __init__(self, fails_at: str = "") -> None:
        self.children: dict[str, Child] = {}
        self.fails_at = fails_at

    @contextmanager
    def child(self, kind: str, *, tags: Mapping[str, str]) -> Iterator[Child]:
        if kind == self.fails_at:
            raise TrackingError("the store did not answer")
        found = self.children[kind] = Child()
        found.tags.update(tags)
        try:
            yield found
        except BaseException as error:
            found.status = "FAILED" if isinstance(error, Exception) else "KILLED"
            raise
        found.status = "FINISHED"

    def statuses(self) -> dict[str, str]:
        return {kind: child.status for kind, child in self.children.items()}


def runs_under(parent: Parent, *kinds: str) -> CandidateRuns:
    return CandidateRuns(cast(TrackedRun, parent), kinds)


def epoch(number: int, candidate: str = "gru") -> dict[str, Any]:
    values = dict.fromkeys(EPOCH_METRICS, float(number))
    return {"candidate": candidate, "stage": "epoch", "epoch": number, "time_ms": 1000 * number, "rank": 0, **values}


def test_children_open_together_and_finish_together() -> None:
    parent = Parent()
    with runs_under(parent, "gru", "prophet") as runs:
        assert parent.statuses() == {"gru": "RUNNING", "prophet": "RUNNING"}
        assert runs["gru"] is cast(Any, parent.children["gru"])
        assert parent.children["prophet"].tags == {"kind": "prophet"}
    assert parent.statuses() == {"gru": "FINISHED", "prophet": "FINISHED"}


def test_one_that_failed_ends_as_failed_with_its_reason_and_the_others_finish() -> None:
    parent = Parent()
    with runs_under(parent, "gru", "prophet") as runs:
        runs.fail("gru", "the loss is not finite")
        assert parent.statuses() == {"gru": "FAILED", "prophet": "RUNNING"}
    assert parent.statuses() == {"gru": "FAILED", "prophet": "FINISHED"}
    assert parent.children["gru"].tags["failure"] == "the loss is not finite"


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_what_ends_the_block_ends_every_child(error: type[BaseException], status: str) -> None:
    parent = Parent()
    with pytest.raises(error), runs_under(parent, "gru", "prophet"):
        raise error
    assert parent.statuses() == {"gru": status, "prophet": status}


def test_a_child_that_cannot_be_opened_leaves_none_open() -> None:
    parent = Parent(fails_at="prophet")
    with pytest.raises(TrackingError), runs_under(parent, "gru", "prophet"):
        raise AssertionError("the block must not run")
    assert parent.statuses() == {"gru": "FAILED"}


def test_epochs_are_logged_as_they_come_and_the_history_completes_them() -> None:
    parent = Parent()
    with runs_under(parent, "gru") as runs:
        for beat in (
            epoch(1),
            {"candidate": "gru", "stage": "training", "step": 9},
            epoch(2),
            epoch(1, candidate="unknown"),
        ):
            runs.beat(beat)
        runs.log_history("gru", [epoch(1), epoch(2), epoch(3)])
    logged = parent.children["gru"].logged
    # The run itself leaves out what it has recorded before.
    assert [(step, at_ms) for step, _, at_ms in logged] == [(1, 1000), (2, 2000), (1, None), (2, None), (3, None)]
    assert logged[0][1] == dict.fromkeys(EPOCH_METRICS, 1.0)


def test_trouble_while_training_is_kept_for_later_and_told_once() -> None:
    parent = Parent()
    with pytest.raises(StorageError, match="disk is full"), runs_under(parent, "gru") as runs:
        parent.children["gru"].refuses = True
        runs.beat(epoch(1))
        runs.beat(epoch(2))
        runs.check()
    with runs_under(parent, "gru") as runs:
        runs.beat(epoch(1))
        runs.check()
