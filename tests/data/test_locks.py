from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from flts_ray.data.locks import LOCKS, Held, hold, holder_of
from flts_ray.data.storage import Store
from flts_ray.errors import BusyError, StorageError
from tests.helpers import REPOSITORY
from tests.services import FaultProxy, S3Server

HOLD = """
import sys, time
from flts_ray.config import StorageSettings
from flts_ray.data.locks import hold
from flts_ray.data.storage import Store
uri, settings, ttl_s = sys.argv[1:]
with hold(Store(uri, StorageSettings.model_validate_json(settings)), "n", owner="first", wait_s=0, ttl_s=float(ttl_s)):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def bucket(s3_server: S3Server, tmp_path: Path) -> Store:
    s3_server.make_bucket("locks")
    return Store(f"s3://locks/{tmp_path.name}", s3_server.settings())


@pytest.fixture(params=[pytest.param("local", marks=pytest.mark.unit), pytest.param("s3", marks=pytest.mark.service)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return Store(str(tmp_path / "store"))
    found: Store = request.getfixturevalue("bucket")
    return found


@pytest.fixture
def holder(store: Store) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock ``n`` as run ``first``."""
    command = [sys.executable, "-c", HOLD, store.uri, store.settings.model_dump_json(), "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_one_holds_and_the_other_is_told_who(store: Store) -> None:
    told: list[str] = []
    with hold(store, "n", owner="first", wait_s=0) as held:
        held.check()
        assert "run first (process" in str(holder_of(store, "n"))
        asked = hold(store, "n", owner="second", wait_s=0.3, on_wait=told.append)
        with pytest.raises(BusyError, match=r"run first \(process \d+ on .*\) holds the lock 'n'") as caught, asked:
            pass
        assert caught.value.exit_code == 54
        with hold(store, "other", owner="second", wait_s=0):
            pass
    assert len(told) == 1 and told[0].startswith("run first (process")
    assert holder_of(store, "n") is None
    with hold(store, "n", owner="second", wait_s=0):
        pass
    assert store.list() == [], "locks are no files of the store's own"


def test_no_two_hold_at_once(store: Store) -> None:
    inside, most, guard = 0, 0, threading.Lock()

    def work(i: int) -> None:
        nonlocal inside, most
        with hold(store, "n", owner=f"racer {i}", wait_s=60, ttl_s=2.5):
            with guard:
                inside += 1
                most = max(most, inside)
            time.sleep(0.02)
            with guard:
                inside -= 1

    racers = 8 if store.uri.startswith("/") else 4
    with ThreadPoolExecutor(racers) as pool:
        list(pool.map(work, range(racers)))
    assert most == 1


def test_an_error_inside_lets_go(store: Store) -> None:
    with pytest.raises(RuntimeError, match="inside"), hold(store, "n", owner="first", wait_s=0):
        raise RuntimeError("inside")
    assert holder_of(store, "n") is None


@pytest.mark.fault
def test_the_death_of_the_holder_frees_it(store: Store, holder: subprocess.Popen[str]) -> None:
    assert "run first" in str(holder_of(store, "n"))
    with pytest.raises(BusyError), hold(store, "n", owner="second", wait_s=0):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with hold(store, "n", owner="second", wait_s=30) as held:
        held.check()


@pytest.mark.parametrize("name", ["../../escape", "a/b", "promote-Ünï cödé", "", "x" * 300])
def test_no_name_leads_astray(store: Store, name: str) -> None:
    with hold(store, name, owner="", wait_s=0):
        assert "another process (process" in str(holder_of(store, name))
        files = [path for path in store.list(hidden=True) if path.startswith(f"{LOCKS}/")]
        assert len(files) == 1 and files[0].count("/") == 1


@pytest.mark.unit
def test_a_disk_that_refuses_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    asked = hold(Store(str(tmp_path / "file")), "n", owner="", wait_s=0)
    with pytest.raises(StorageError, match=r"could not lock .*file/\.locks/n"), asked:
        pass


# --- leases ------------------------------------------------------------------------------------------------------


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, Any]]:
    return [record.fields for record in caplog.records if record.getMessage() == name]  # type: ignore[attr-defined]


def leave(store: Store, owner: str, ttl_s: float) -> None:
    """A lease whose holder is gone."""
    record = {"owner": owner, "pid": 1, "host": "h", "token": "t", "ttl_s": ttl_s}
    store.write_bytes(f"{LOCKS}/n.json", json.dumps(record).encode())


@pytest.mark.service
def test_exactly_one_of_eight_takes_an_expired_lease(bucket: Store) -> None:
    leave(bucket, "gone", 1)
    with pytest.raises(BusyError, match="run gone"), hold(bucket, "n", owner="second", wait_s=0):
        pass
    time.sleep(2.1)
    assert holder_of(bucket, "n") is None, "its time is up"
    done = threading.Event()

    def race(i: int) -> bool:
        try:
            with hold(bucket, "n", owner=f"racer {i}", wait_s=0):
                done.wait(20)
                return True
        except BusyError:
            return False

    with ThreadPoolExecutor(8) as pool:
        racers = [pool.submit(race, i) for i in range(8)]
        until = time.monotonic() + 20
        while sum(racer.done() for racer in racers) < 7 and time.monotonic() < until:
            time.sleep(0.05)
        done.set()
        assert [racer.result() for racer in racers].count(True) == 1


@pytest.mark.service
def test_a_run_takes_up_its_own_lease_at_once(bucket: Store) -> None:
    leave(bucket, "mine", 1000)
    with pytest.raises(BusyError), hold(bucket, "n", owner="", wait_s=0):
        pass
    with hold(bucket, "n", owner="mine", wait_s=0) as held:
        held.check()


@pytest.mark.service
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"ttl_s": "x"}'])
def test_a_damaged_lease_blocks_nobody_for_ever(bucket: Store, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.write_bytes(f"{LOCKS}/n.json", content)
    with pytest.raises(BusyError, match="another process"), hold(bucket, "n", owner="", wait_s=0):
        pass
    monkeypatch.setattr("flts_ray.data.locks.TTL_S", -1.0)
    with hold(bucket, "n", owner="", wait_s=0):
        pass


@pytest.mark.service
def test_a_lease_outlives_its_time_while_its_holder_lives(bucket: Store) -> None:
    with hold(bucket, "n", owner="first", wait_s=0, ttl_s=1.5) as held:
        time.sleep(3.2)
        assert "run first" in str(holder_of(bucket, "n"))
        held.check()


@pytest.mark.service
@pytest.mark.fault
def test_a_lease_that_went_to_another_is_noticed_and_left_alone(
    bucket: Store, caplog: pytest.LogCaptureFixture
) -> None:
    def wait_for_loss(held: Held) -> str:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                held.check()
            except BusyError as error:
                return str(error)
            time.sleep(0.05)
        raise AssertionError("never noticed")

    with hold(bucket, "n", owner="first", wait_s=0, ttl_s=1) as held:
        leave(bucket, "second", 60)
        assert "the lock 'n' went to run second" in wait_for_loss(held)
    assert "run second" in str(holder_of(bucket, "n")), "only what is ours is released"
    assert [e["lock"] for e in events(caplog, "lock_lost")] == ["n"]


@pytest.mark.service
@pytest.mark.fault
def test_a_lease_survives_a_short_outage(s3_server: S3Server, bucket: Store) -> None:
    with FaultProxy("127.0.0.1", s3_server.port) as proxy:
        settings = bucket.settings.model_copy(update={"endpoint_url": proxy.url, "timeout_s": 1.0})
        with hold(Store(bucket.uri, settings), "n", owner="first", wait_s=0, ttl_s=3) as held:
            with proxy.during("cut", after_bytes=20):  # answers are lost, the renewals themselves are not
                time.sleep(1.5)
            time.sleep(1)
            held.check()
            assert "run first" in str(holder_of(bucket, "n"))
        assert holder_of(bucket, "n") is None


@pytest.mark.service
@pytest.mark.fault
def test_a_store_that_is_down_does_not_hold_up_the_end(
    s3_server: S3Server, bucket: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with FaultProxy("127.0.0.1", s3_server.port) as proxy:
        update = {"endpoint_url": proxy.url, "timeout_s": 1.0, "deadline_s": 0.5}
        with hold(Store(bucket.uri, bucket.settings.model_copy(update=update)), "n", owner="first", wait_s=0):
            proxy.set("refuse")
    assert [e["lock"] for e in events(caplog, "lock_not_released")] == ["n"]
