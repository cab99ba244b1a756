"""Nodes of a cluster die under the work: Ray moves it elsewhere, and the result is that of one quiet machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.desk import NETWORK, Desk, Started, scores
from tests.faults.conftest import FAULT_SETTINGS, train_plainly
from tests.faults.here import run_here
from tests.faults.table import Records
from tests.helpers import sets
from tests.services.ray_cluster import RayCluster

pytestmark = [pytest.mark.fault, pytest.mark.long, pytest.mark.timeout(600)]

EPOCHS = 10
STATIONS = tuple(f"s{i:02d}" for i in range(16))


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """Three nodes of one CPU each, and a head without."""
    found = RayCluster()
    try:
        found.start(3)
        yield found
    finally:
        found.stop()


def command(desk: Desk, kind: str) -> list[str]:
    chosen = {**NETWORK, **{key.replace("__", "."): value for key, value in FAULT_SETTINGS.items()}}
    chosen |= {"candidates": kind, "training.epochs": EPOCHS}
    return ["run", "--json", *desk.sources, "--home", str(desk.home), *sets(chosen)]


def quiet(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Scores of the same run on one machine that nothing disturbs."""
    with pytest.MonkeyPatch.context() as patch:
        train_plainly(patch)
        return scores(run_here(Desk(folder, STATIONS), candidates=kind, training__epochs=EPOCHS).document())


def test_nodes_that_die_cost_time_only(cluster: RayCluster, tmp_path: Path, local_ray: None, faults: Records) -> None:
    desk = Desk(tmp_path / "cluster", STATIONS)
    with Started(command(desk, "prophet"), desk.folder, cluster.environment) as started:
        started.wait_for_event("series_done")
        struck = time.time()
        cluster.kill(cluster.nodes[0])
        started.wait_for_event("preprocess_done")
        preprocess_s = time.time() - struck
        fitting = started.wait_for(lambda e: e["event"] == "heartbeat" and e["stage"] == "fitting", "fit")
        struck = time.time()
        cluster.kill(cluster.node_of(fitting["pid"]))
        started.wait_for_event("fit_done", candidate="prophet")
        prophet_s = time.time() - struck
        answer = started.answer()
    assert {e["pid"] for e in answer.named("heartbeat") if e["stage"] == "fitting"} - {fitting["pid"]}, "not sent again"
    assert scores(answer.document) == quiet(tmp_path / "quiet", "prophet"), answer.err[-2000:]
    faults.add("node_killed_preprocess", f"{len(STATIONS)} stations, none lost", preprocess_s)
    faults.add("node_killed_prophet", f"fits of the dead node done on another, {len(STATIONS)} in all", prophet_s)

    cluster.add_node()
    with Started(command(desk, "gru"), desk.folder, cluster.environment) as started:
        beat = started.wait_for_epoch(3)
        struck = time.time()
        cluster.kill(cluster.node_of(beat["pid"]))
        resumed = started.wait_for(
            lambda e: e["event"] == "heartbeat" and e["stage"] == "resumed" and e["ts"] > beat["ts"], "resumption"
        )
        training_s = time.time() - struck
        answer = started.answer()
    assert answer.named("preprocess_skipped")
    assert scores(answer.document) == quiet(tmp_path / "quiet", "gru"), answer.err[-2000:]
    assert "RUNNING" not in {status for found in desk.statuses().values() for status in found}
    faults.add("node_killed_training", f"on another node after epoch {resumed['epoch']}", training_s)
