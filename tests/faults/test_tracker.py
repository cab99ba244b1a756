"""The tracker fails at the start, in training, at the end, and for good: training never waits, no record is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flts_ray.errors import TrackingError
from flts_ray.results import RunResult
from flts_ray.tracking.candidate_runs import CandidateRuns
from tests.desk import Desk
from tests.faults.conftest import FAULT_SETTINGS, assert_same
from tests.faults.here import Event, captured, named, run_here, when
from tests.faults.table import Records
from tests.services import FaultProxy, MlflowServer, Postgres

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]

OUTAGE_S = 4.0
STALL_S = 2.0
"""Promised: so long, at most, training waits for a dead tracker, over the whole run."""


@dataclass
class Office:
    """A tracker behind a proxy, and a desk that reports to it."""

    server: MlflowServer
    database: Postgres
    proxy: FaultProxy
    desk: Desk

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "tracking.uri": self.proxy.url,
            "tracking.experiment": self.desk.folder.name,
            "tracking.timeout_s": 1,
            "tracking.breaker_reset_s": 1,
            "identifier": self.desk.folder.name[-60:],
        }

    def run(self) -> RunResult:
        return run_here(self.desk, **self.settings)

    def runs(self) -> dict[str, Any]:
        """Runs of the experiment on the server itself, by kind."""
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self.server.uri)
        experiment = client.get_experiment_by_name(self.desk.folder.name)
        assert experiment is not None
        found: dict[str, Any] = {}
        for run in client.search_runs([experiment.experiment_id]):
            kind = run.data.tags.get("kind", "parent")
            assert kind not in found, "a run is doubled"
            found[kind] = run
        return found

    def assert_whole(self) -> None:
        """Everything is there once, and nothing runs on."""
        from mlflow import MlflowClient

        runs = self.runs()
        assert {kind: run.info.status for kind, run in runs.items()} == {"parent": "FINISHED", "gru": "FINISHED"}
        client = MlflowClient(tracking_uri=self.server.uri)
        history = client.get_metric_history(runs["gru"].info.run_id, "val_rmse_bits")
        assert [point.step for point in sorted(history, key=lambda p: p.step)] == list(
            range(1, FAULT_SETTINGS["training__epochs"] + 1)
        )
        files = {item.path for item in client.list_artifacts(runs["gru"].info.run_id, "bundle")}
        assert files >= {"bundle/bundle.json", "bundle/weights.safetensors"}
        assert {item.path for item in client.list_artifacts(runs["parent"].info.run_id)} >= {"report.html"}


def stopped(office: Office) -> None:
    with office.proxy.during("refuse"):
        time.sleep(OUTAGE_S)


def hanging(office: Office) -> None:
    with office.proxy.during("hang"):
        time.sleep(OUTAGE_S)


def answering_500(office: Office) -> None:
    with office.proxy.during("error", status=500):
        time.sleep(OUTAGE_S)


def database(office: Office) -> None:
    office.database.stop()
    time.sleep(OUTAGE_S / 2)
    office.database.start()


FAULTS: dict[str, Callable[[Office], None]] = {
    "stopped": stopped,
    "hanging": hanging,
    "500": answering_500,
    "database": database,
}


@pytest.fixture
def office(mlflow_server: MlflowServer, postgres: Postgres, tmp_path: Path, plain_training: None) -> Iterator[Office]:
    host, port = mlflow_server.uri.removeprefix("http://").split(":")
    with FaultProxy(host, int(port)) as proxy:
        yield Office(mlflow_server, postgres, proxy, Desk(tmp_path))


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that each heartbeat of training spent in the tracker's code."""
    seconds: list[float] = []
    beat = CandidateRuns.beat

    def timed(self: CandidateRuns, found: Event) -> None:
        started = time.perf_counter()
        beat(self, found)
        seconds.append(time.perf_counter() - started)

    monkeypatch.setattr(CandidateRuns, "beat", timed)
    return seconds


def back_s(events: list[Event], began_s: float) -> float | None:
    found = [e["at_s"] for e in named(events, "tracker_back")]
    return found[-1] - began_s if found else None


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("moment", "stage"), [("start", "preprocess"), ("end", "promote")])
def test_an_outage_around_training(
    fault: str, moment: str, stage: str, office: Office, undisturbed: dict[str, Any], faults: Records
) -> None:
    began: list[float] = []

    def strike(found: Event) -> None:
        began.append(time.time())
        outage = threading.Thread(target=FAULTS[fault], args=(office,))
        outage.start()
        threads.append(outage)
        time.sleep(0.5)  # until it is under way

    threads: list[threading.Thread] = []
    with captured() as events, when(strike, "stage_started", stage=stage):
        result = office.run()
    threads[0].join()
    assert_same(result.document(), undisturbed)
    assert office.runs()["parent"].info.status == "FINISHED"
    office.assert_whole()
    (waiting_s,) = [e["seconds"] for e in named(events, "stage_done", stage="promote")]
    faults.add(
        f"tracker_{fault}_{moment}",
        "every record arrived once" if moment == "start" else f"promotion waited {waiting_s:.0f} s, then decided",
        back_s(events, began[0]),
    )


@pytest.mark.parametrize("fault", FAULTS)
def test_an_outage_in_training(
    fault: str, office: Office, undisturbed: dict[str, Any], waited: list[float], faults: Records
) -> None:
    began: list[float] = []
    threads: list[threading.Thread] = []

    def strike(found: Event) -> None:
        began.append(time.time())
        threads.append(threading.Thread(target=FAULTS[fault], args=(office,)))
        threads[0].start()

    with captured() as events, when(strike, "heartbeat", stage="epoch", epoch=2):
        result = office.run()
    threads[0].join()
    assert_same(result.document(), undisturbed)
    office.assert_whole()
    assert sum(waited) < STALL_S
    faults.add(
        f"tracker_{fault}_training",
        f"training waited {sum(waited):.2f} s in all; every epoch arrived once",
        back_s(events, began[0]),
    )


def test_a_tracker_that_never_comes_back_costs_the_promotion_and_nothing_else(
    office: Office, undisturbed: dict[str, Any], waited: list[float], faults: Records
) -> None:
    office.proxy.set("refuse")
    with captured() as events, pytest.raises(TrackingError, match="the same command"):
        run_here(office.desk, **office.settings, **{"tracking.flush_timeout_s": 3})
    assert sum(waited) < STALL_S
    assert named(events, "tracking_pending")
    assert list(office.desk.home.glob("runs/*/leaderboard.json"))
    office.proxy.set("pass")
    with captured() as events:
        result = run_here(office.desk, **office.settings, **{"tracking.flush_timeout_s": 3})
    assert_same(result.document(), undisturbed)
    assert result.attempt == 2
    assert not named(events, "fit_started")
    office.assert_whole()
    faults.add(
        "tracker_gone",
        f"exit {TrackingError.exit_code} after training, all records kept and delivered by the next run",
        events[-1]["at_s"] - events[0]["at_s"],
    )
