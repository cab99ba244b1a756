"""The object store fails while a run trains, another process reads and a third publishes: all three at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
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

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "storage.root": f"s3://faults/{self.prefix}",
            "storage.endpoint_url": self.proxy.url,
            "storage.timeout_s": 4,
            "storage.deadline_s": 90,
        }

    @property
    def store(self) -> Store:
        return Store(f"s3://faults/{self.prefix}", self.other().storage)

    def other(self) -> Settings:
        """Settings of a process that works in the same bucket on data of its own."""
        _, train, _, test = self.desk.sources
        values = {**self.settings, "hash_salt": "another"}
        return load_settings(
            assignments=[f"{key}={value}" for key, value in values.items()],
            options={"data.train": (train,), "data.test": (test,)},
            environ={},
        ).settings

    def publish(self) -> Claim:
        return preprocessing.preprocess(self.other(), self.store, code_version="test").claim

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
def place(server: S3Server, tmp_path: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    real = preprocessing._run

    def by_thread(*work: Any) -> Any:
        """Ray for the run, none for the process beside it."""
        chosen = real if threading.current_thread() is threading.main_thread() else in_this_process
        return chosen(*work)

    monkeypatch.setattr(preprocessing, "_run", by_thread)
    with FaultProxy("127.0.0.1", server.port) as proxy:
        yield Place(server, proxy, Desk(tmp_path), prefix=tmp_path.name)
        put_right(Place(server, proxy, Desk(tmp_path), prefix=tmp_path.name))


@dataclass
class Disturbed:
    """What a run, a reader and a publisher came to while the store was in trouble."""

    result: RunResult | StorageError
    events: list[Event]
    reading: Future[Dataset]
    publishing: Future[Claim]
    began_s: float


def disturb(place: Place, outage: Outage) -> Disturbed:
    """Run; when training has come to its fourth epoch, begin the outage and let two others read and publish in it."""
    futures: list[Future[Any]] = []
    began = []
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(3))

        def strike(beat: Event) -> None:
            began.append(time.time())
            futures.append(pool.submit(outage, place))
            time.sleep(0.2)  # until it is under way
            dataset_id = next(e["dataset_id"] for e in events if e["event"] == "run_started")
            futures.append(pool.submit(load_dataset, place.store, dataset_id))
            futures.append(pool.submit(place.publish))

        events = stack.enter_context(captured())
        stack.enter_context(when(strike, "heartbeat", stage="epoch", epoch=4))
        result: RunResult | StorageError
        try:
            result = place.run()
        except StorageError as error:
            result = error
    assert len(futures) == 3, "the outage never came"
    futures[0].result()
    return Disturbed(result, events, futures[1], futures[2], began[0])


@pytest.mark.parametrize(("fault", "outage"), [("stopped", stopped), ("503", answering_503), ("slow", slow)])
def test_what_passes_is_waited_for(
    fault: str, outage: Outage, place: Place, undisturbed: dict[str, Any], faults: Records
) -> None:
    seen = disturb(place, outage)
    assert isinstance(seen.result, RunResult), seen.result
    assert_same(seen.result.document(), undisturbed)
    assert_tracked(place.desk)
    assert seen.reading.result().dataset_id == undisturbed["dataset_id"]
    claim = seen.publishing.result()
    assert set(dataset_ids(place.store)) == {undisturbed["dataset_id"], claim.dataset_id}
    assert load_dataset(place.store, claim.dataset_id).claim == claim
    done_s = named(seen.events, "fit_done")[0]["at_s"] - seen.began_s
    for when_ in ("reading", "publish"):
        faults.add(f"store_{fault}_{when_}", "waited, went on", outage_s(seen.events, seen.began_s))
    restarts = len(named(seen.events, "fit_restarted"))
    faults.add(f"store_{fault}_checkpoint", f"trained on, {restarts} restarts", done_s)


def outage_s(events: list[Event], began_s: float) -> float:
    """Seconds until the last operation that had to be tried again succeeded."""
    return max([e["at_s"] for e in named(events, "storage_recovered")], default=began_s) - began_s


@pytest.mark.parametrize(("fault", "outage"), [("refused", refused), ("no_bucket", no_bucket), ("full", full)])
def test_what_does_not_pass_is_refused_and_the_same_command_goes_on_once_it_is_put_right(
    fault: str, outage: Outage, place: Place, undisturbed: dict[str, Any], faults: Records
) -> None:
    seen = disturb(place, outage)
    code = seen.result.exit_code
    assert code == StorageError.exit_code, seen.result
    publishing = seen.publishing.exception()
    assert isinstance(publishing, StorageError), publishing
    if fault != "full":  # reading needs no room
        assert isinstance(seen.reading.exception(), StorageError)
    assert_tracked(place.desk, unfinished=True)
    put_right(place)
    began_s = time.time()
    with captured() as events:
        result = place.run()
    assert_same(result.document(), undisturbed)
    assert_tracked(place.desk)
    resumed = [e["epoch"] for e in named(events, "heartbeat", stage="resumed")]
    assert resumed, "training began anew"
    assert load_dataset(place.store, place.publish().dataset_id).frames
    seconds = time.time() - began_s
    reason = str(publishing).partition("(")[2].partition(")")[0]
    faults.add(f"store_{fault}_publish", f"exit {code}: {reason}", seconds)
    faults.add(f"store_{fault}_reading", "reads on" if fault == "full" else f"exit {code}, said so", None)
    faults.add(f"store_{fault}_checkpoint", f"exit {code}; then on after epoch {resumed[0]}", seconds)
