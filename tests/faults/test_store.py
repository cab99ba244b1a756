"""The object store fails while a run trains, another process reads and a third publishes: all three at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flts_ray.config import Settings
from flts_ray.config_layers import load_settings
from flts_ray.data import preprocess as preprocessing
from flts_ray.data.claims import Claim
from flts_ray.data.dataset import Dataset, dataset_ids, load_dataset
from flts_ray.data.storage import Store
from flts_ray.errors import StorageError
from flts_ray.results import RunResult
from tests.desk import Desk
from tests.faults.conftest import assert_same, assert_tracked
from tests.faults.here import Event, captured, named, run_here, when
from tests.faults.table import Records
from tests.services import FaultProxy, S3Server
from tests.stages import in_this_process

pytestmark = [pytest.mark.fault, pytest.mark.timeout(400)]

OUTAGE_S = 6.0
NO_BUCKET = b"<Error><Code>NoSuchBucket</Code><Message>The specified bucket does not exist</Message></Error>"


@dataclass
class Place:
    """A bucket behind a proxy, a user's desk, and what goes on there during the outage."""

    server: S3Server
    proxy: FaultProxy
    desk: Desk
    prefix: str
    dataset_id: str
    deadline_s: float = 60

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "storage.root": f"s3://faults/{self.prefix}",
            "storage.endpoint_url": self.proxy.url,
            "storage.timeout_s": 4,
            "storage.deadline_s": self.deadline_s,
        }

    @property
    def store(self) -> Store:
        return Store(f"s3://faults/{self.prefix}", self.other().storage)

    def other(self, salt: str = "another") -> Settings:
        """Settings of a process that works in the same bucket on data of its own."""
        _, train, _, test = self.desk.sources
        values = {**self.settings, "hash_salt": f"beside-{salt}"}
        return load_settings(
            assignments=[f"{key}={value}" for key, value in values.items()],
            options={"data.train": (train,), "data.test": (test,)},
            environ={},
        ).settings

    def publish(self, salt: str) -> Claim:
        return preprocessing.preprocess(self.other(salt), self.store, code_version="test").claim

    def run(self) -> RunResult:
        return run_here(self.desk, **self.settings)


Outage = Callable[[Place], None]


def stopped(place: Place) -> None:
    place.server.kill()
    time.sleep(20)
    place.server.start()


def answering_503(place: Place) -> None:
    place.proxy.set("error", status=503)
    time.sleep(OUTAGE_S)
    place.proxy.set("pass")


def slow(place: Place) -> None:
    place.proxy.set("slow", delay_s=0.5)
    time.sleep(OUTAGE_S)
    place.proxy.set("pass")


def refused(place: Place) -> None:
    place.server.revoke()


def no_bucket(place: Place) -> None:
    place.proxy.set("error", status=404, body=NO_BUCKET)


def full(place: Place) -> None:
    place.server.restart(full=True)


def put_right(place: Place) -> None:
    if place.server.full:
        place.server.restart()
    place.server.restore()
    place.proxy.set("pass")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, s3_credentials: dict[str, str]) -> Iterator[S3Server]:
    """A server of this module's own, since it is stopped, filled and robbed of its keys."""
    found = S3Server(
        tmp_path_factory.mktemp("s3"),
        access_key=s3_credentials["AWS_ACCESS_KEY_ID"],
        secret_key=s3_credentials["AWS_SECRET_ACCESS_KEY"],
    )
    found.start()
    found.make_bucket("faults")
    yield found
    found.stop()


@pytest.fixture
def place(
    server: S3Server,
    tmp_path: Path,
    local_ray: None,
    undisturbed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Place]:
    real = preprocessing._run

    def by_thread(*work: Any) -> Any:
        """Ray for the run, none for the process beside it."""
        chosen = real if threading.current_thread() is threading.main_thread() else in_this_process
        return chosen(*work)

    monkeypatch.setattr(preprocessing, "_run", by_thread)
    with FaultProxy("127.0.0.1", server.port) as proxy:
        found = Place(server, proxy, Desk(tmp_path), tmp_path.name, undisturbed["dataset_id"])
        yield found
        put_right(found)


@dataclass
class Seen:
    """What a reader and a publisher came to while the store was in trouble."""

    began_s: float
    outage: Future[None]
    reading: Future[Dataset]
    publishing: Future[Claim]
    took_s: dict[str, float] = field(default_factory=dict)


@contextmanager
def striking(place: Place, epoch: int, outage: Outage, salt: str) -> Iterator[list[Seen]]:
    """When training has come to an epoch, begin an outage and let two others read and publish in it."""
    seen: list[Seen] = []

    def strike(beat: Event) -> None:
        began_s, under_way = time.time(), pool.submit(outage, place)
        time.sleep(0.3)
        reading = pool.submit(load_dataset, place.store, place.dataset_id)
        found = Seen(began_s, under_way, reading, pool.submit(place.publish, salt))
        reading.add_done_callback(lambda _: found.took_s.setdefault("reading", time.time() - began_s))
        found.publishing.add_done_callback(lambda _: found.took_s.setdefault("publish", time.time() - began_s))
        seen.append(found)

    with ThreadPoolExecutor(3) as pool, when(strike, "heartbeat", stage="epoch", epoch=epoch):
        yield seen


def test_what_passes_is_waited_for(place: Place, undisturbed: dict[str, Any], faults: Records) -> None:
    """Three outages, one after another, in one training."""
    outages = {"503": (4, answering_503), "slow": (10, slow), "stopped": (16, stopped)}
    with captured() as events, ExitStack() as stack:
        seen = {
            fault: stack.enter_context(striking(place, epoch, outage, fault))
            for fault, (epoch, outage) in outages.items()
        }
        result = place.run()
    assert_same(result.document(), undisturbed)
    assert_tracked(place.desk)
    restarts = len(named(events, "heartbeat", stage="resumed"))
    epochs = named(events, "heartbeat", stage="epoch")
    claims = set()
    for fault, (epoch, _) in outages.items():
        (found,) = seen[fault]
        found.outage.result()
        assert found.reading.result().dataset_id == undisturbed["dataset_id"]
        claim = found.publishing.result()
        assert load_dataset(place.store, claim.dataset_id).claim == claim
        claims.add(claim.dataset_id)
        for moment, took_s in found.took_s.items():
            faults.add(f"store_{fault}_{moment}", "waited, then went on", took_s)
        on_s = min(e["at_s"] for e in epochs if e["at_s"] > found.began_s and e["epoch"] > epoch + 1)
        faults.add(f"store_{fault}_checkpoint", f"trained on; {restarts} restarts in all", on_s - found.began_s)
    assert set(dataset_ids(place.store)) == {undisturbed["dataset_id"], *claims}


@pytest.mark.long
def test_what_does_not_pass_is_refused_and_the_same_command_goes_on_once_it_is_put_right(
    place: Place, undisturbed: dict[str, Any], faults: Records
) -> None:
    """Three refusals in three attempts at one run; the fourth ends as if nothing had happened."""
    outages = {"refused": (3, refused), "no_bucket": (9, no_bucket), "full": (15, full)}
    place.deadline_s = 6  # a server with a full disk answers 500, which could pass
    began_s, before = 0.0, ""
    for fault, (epoch, outage) in outages.items():
        with captured() as events, striking(place, epoch, outage, fault) as seen, pytest.raises(StorageError) as error:
            raise_if_failed(place.run())
        if before:
            note_resumed(events, before, began_s, faults)
        (found,) = seen
        found.outage.result()
        publishing = found.publishing.exception()
        assert isinstance(publishing, StorageError), publishing
        if fault == "full":  # reading needs no room
            assert found.reading.result().dataset_id == undisturbed["dataset_id"]
        else:
            assert isinstance(found.reading.exception(), StorageError)
        assert_tracked(place.desk, unfinished=True)
        put_right(place)
        assert place.publish(fault).dataset_id in dataset_ids(place.store)
        said = error.value.exit_code
        faults.add(f"store_{fault}_publish", f"exit {said}, nothing published; works once put right")
        faults.add(f"store_{fault}_reading", "reads on" if fault == "full" else f"exit {said}; works once put right")
        began_s, before = time.time(), fault
    with captured() as events:
        result = place.run()
    note_resumed(events, before, began_s, faults)
    assert_same(result.document(), undisturbed)
    assert_tracked(place.desk)
    assert result.attempt == len(outages) + 1


def raise_if_failed(result: RunResult) -> None:
    """A candidate that failed for the store ends a run with the store's exit code; anything else is not expected."""
    assert result.exit_code == StorageError.exit_code, result.verdict
    raise StorageError("; ".join(result.verdict.reasons))


def note_resumed(events: list[Event], fault: str, began_s: float, faults: Records) -> None:
    resumed = named(events, "heartbeat", stage="resumed")
    assert resumed, "training began anew"
    faults.add(
        f"store_{fault}_checkpoint",
        f"exit {StorageError.exit_code}; once put right, on after epoch {resumed[0]['epoch']}",
        resumed[0]["at_s"] - began_s,
    )
