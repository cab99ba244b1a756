"""What ends a training comes back as the error it is; what may work the next time is tried again, and bounded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.train
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError, WorkerHealthCheckFailedError

from flts_ray.config import Settings
from flts_ray.data.storage import Store
from flts_ray.errors import ClusterError, FltsError, StalledError, StorageError, TrainingError
from flts_ray.training import trainer
from flts_ray.training.relay import Relay
from flts_ray.training.watchdog import Watch
from tests.training.fits import Event

pytestmark = pytest.mark.unit


def group(*causes: Exception) -> ray.train.WorkerGroupError:
    return ray.train.WorkerGroupError("workers failed", dict(enumerate(causes)))


LOST = WorkerHealthCheckFailedError("health check", ray.exceptions.ActorDiedError())
AWAY = OSError("AWS Error NETWORK_CONNECTION during CreateMultipartUpload")
BROKEN = ValueError("boom")


@pytest.mark.parametrize(
    ("error", "kind", "again"),
    [
        (group(BROKEN), TrainingError, False),
        (group(LOST), ClusterError, False),
        (group(RuntimeError("gloo: connection closed by peer"), LOST), ClusterError, False),
        (group(StorageError("the store is away")), StorageError, False),  # it has waited its deadline already
        (ray.train.ControllerError(AWAY), StorageError, True),
        (ray.train.ControllerError(RuntimeError("a node was lost")), ClusterError, True),
        (ray.train.ControllerError(WorkerGroupStartupTimeoutError(2)), ClusterError, False),  # Ray has tried again
        (ray.exceptions.ActorDiedError(), ClusterError, True),
        (AWAY, StorageError, True),
        (ConnectionError("Ray is gone"), ClusterError, True),
    ],
)
def test_a_failure_keeps_its_kind(error: Exception, kind: type[FltsError], again: bool) -> None:
    found, retry = trainer._explained("gru", error, None, 2)
    assert (type(found), retry) == (kind, again)
    assert "\n" not in str(found)


@pytest.mark.parametrize(("error", "again"), [(group(LOST), False), (ray.exceptions.ActorDiedError(), True)])
def test_a_group_that_was_ended_because_it_hung_has_stalled(error: Exception, again: bool) -> None:
    watch = Watch("gru", lambda stages: 1.0, None, lambda ranks: None, 0.0)
    assert not isinstance(trainer._explained("gru", error, watch, 2)[0], StalledError)
    watch.stalls, watch.unanswered = ["once", "rank 0 made no progress"], "rank 0 made no progress"
    found, retry = trainer._explained("gru", error, watch, 2)
    assert (type(found), retry) == (StalledError, again)
    assert "hung 2 times, the last time rank 0 made no progress; training.max_failures allows 2" in str(found)


class Fits:
    """Trainers that fail in turn, then succeed; and a store that knows how often it was waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> None:
        self.errors, self.calls, self.waits = list(errors), 0, 0
        self.relay = Relay(lambda beat: None)
        self.close_after: int | None = None
        monkeypatch.setattr(trainer, "_trainer", lambda *_: self)
        monkeypatch.setattr(trainer, "_fitted", lambda cell, answer: answer)
        monkeypatch.setattr(Store, "wait_until_up", self.wait_until_up)

    def fit(self) -> Any:
        self.calls += 1
        if self.calls == self.close_after:
            self.relay._stop.set()
        if self.errors:
            raise self.errors.pop(0)
        return SimpleNamespace(return_value="fitted")

    def wait_until_up(self, deadline_s: float) -> None:
        self.waits += 1

    def run(self, store: Store, *, max_failures: int) -> Any:
        settings = Settings.model_validate({"training": {"max_failures": max_failures}})
        return trainer.fit_on_ray("gru", store=store, dataset_id="d", settings=settings, run_name="r", relay=self.relay)


@pytest.fixture
def store(tmp_path: Any) -> Store:
    return Store(str(tmp_path))


def test_what_the_store_or_a_node_ended_is_tried_again_when_the_store_answers(
    store: Store, monkeypatch: pytest.MonkeyPatch, events: list[Event]
) -> None:
    fits = Fits(monkeypatch, ray.train.ControllerError(AWAY), ray.exceptions.ActorDiedError())
    assert fits.run(store, max_failures=2) == "fitted"
    assert (fits.calls, fits.waits) == (3, 2)
    told = [(fields["attempt"], fields["error"]) for name, fields in events if name == "fit_interrupted"]
    assert told == [(1, "StorageError"), (2, "ClusterError")]


def test_it_is_tried_again_as_often_as_failures_are_allowed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = Fits(monkeypatch, AWAY, AWAY, AWAY, AWAY)
    with pytest.raises(StorageError, match="training gru could not write its checkpoints"):
        fits.run(store, max_failures=2)
    assert fits.calls == 3


def test_what_fails_for_good_is_not_tried_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = Fits(monkeypatch, group(BROKEN))
    with pytest.raises(TrainingError, match="rank 0: boom"):
        fits.run(store, max_failures=2)
    assert (fits.calls, fits.waits) == (1, 0)


def test_nothing_is_tried_again_when_whoever_asked_has_left(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = Fits(monkeypatch, ray.exceptions.ActorDiedError(), ray.exceptions.ActorDiedError())
    fits.close_after = 1
    with pytest.raises(ClusterError):
        fits.run(store, max_failures=8)
    assert (fits.calls, fits.waits) == (1, 0)

    fits = Fits(monkeypatch, AWAY, AWAY)
    monkeypatch.setattr(Store, "wait_until_up", lambda store, deadline_s: fits.relay._stop.set())
    with pytest.raises(StorageError):
        fits.run(store, max_failures=8)
    assert fits.calls == 1, "they left while the store was away"


def test_a_damaged_record_is_removed_once_and_counts_as_no_failure(
    store: Store, monkeypatch: pytest.MonkeyPatch, events: list[Event]
) -> None:
    store.write_bytes(f"checkpoints/r/{trainer.SNAPSHOT}", b"{")
    damaged = ray.exceptions.RaySystemError("CheckpointManagerInitializationError: no JSON")
    fits = Fits(monkeypatch, damaged)
    assert fits.run(store, max_failures=0) == "fitted"
    assert store.list() == []
    assert [name for name, _ in events] == ["checkpoint_record_damaged"]
    with pytest.raises(ClusterError):
        Fits(monkeypatch, damaged, damaged).run(store, max_failures=0)


def test_silence_may_be_longer_where_processes_start_or_wait_for_a_store_that_is_away(store: Store) -> None:
    settings = Settings.model_validate(
        {"watchdog": {"stall_timeout_s": 20}, "storage": {"deadline_s": 60, "timeout_s": 10}}
    )
    local, remote = trainer._limits(settings, store), trainer._limits(settings, Store("s3://bucket/home"))
    for stages, here_s, there_s in (
        ((), trainer.START_S, trainer.START_S),
        (("training",), 20, 20),
        (("training", "epoch"), 20, 70),
        (("loading",), 20, 70),
        (("finished", "training"), trainer.START_S, trainer.START_S),
    ):
        assert (local(frozenset(stages)), remote(frozenset(stages))) == (here_s, there_s), stages
