"""A whole run on a cluster of several nodes gives what one machine gives; one that scales from nothing gets there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.desk import NETWORK, Desk, Started, scores
from tests.helpers import Answer, sets
from tests.services.ray_cluster import RayCluster

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(600)]

STATIONS = tuple(f"s{i}" for i in range(10))  # so many that Prophet needs more than one task
TWO_WORKERS = {**NETWORK, "training.workers": 2, "training.epochs": 3, "candidates": "gru,prophet"}


@contextmanager
def cluster(nodes: int, *, scales_to: int = 0) -> Iterator[RayCluster]:
    found = RayCluster()
    try:
        found.start(nodes, scales_to=scales_to)
        yield found
    finally:
        found.stop()


def run(desk: Desk, env: dict[str, str] | None = None, **more: Any) -> Answer:
    command = ["run", "--json", *desk.sources, "--home", str(desk.home), *sets({**TWO_WORKERS, **more})]
    with Started(command, desk.folder, env) as started:
        answer = started.answer()
    assert answer.code in (0, 30), answer.err[-2000:]
    return answer


def nodes_of(answer: Answer, *stages: str, candidate: str) -> set[str]:
    """Nodes from which a candidate was heard in these stages."""
    return {
        beat["node_id"]
        for beat in answer.named("heartbeat")
        if beat["candidate"] == candidate and beat["stage"] in stages
    }


def test_three_nodes_give_what_one_machine_gives(tmp_path: Path) -> None:
    alone = run(Desk(tmp_path / "one", STATIONS)).document
    with cluster(3) as three:
        answer = run(Desk(tmp_path / "three", STATIONS), three.environment)
        started = three.told_by_workers("work_started")
        # By themselves: beside the networks they have what these leave, which may be one node.
        fits = run(Desk(tmp_path / "fits", STATIONS), three.environment, candidates="prophet")
    spread = answer.document
    assert spread["dataset_id"] == alone["dataset_id"]
    assert spread["config_hash"] == alone["config_hash"]
    assert scores(spread) == scores(alone)
    assert spread["verdict"]["state"] == alone["verdict"]["state"]
    assert len(nodes_of(answer, "loading", "loaded", candidate="gru")) == 2, "both workers sat on one node"
    assert len(nodes_of(fits, "fitting", candidate="prophet")) > 1, "Prophet fits were not spread"
    preprocessing = {found["node_id"] for found in started if found["work"].startswith("preprocess.")}
    assert len(preprocessing) > 1, "stations were not spread"
    assert {found["run"] for found in started} == {spread["run_id"]}


def test_workers_come_when_something_waits_for_them(tmp_path: Path) -> None:
    with cluster(0, scales_to=2) as growing:
        answer = run(Desk(tmp_path, STATIONS[:2]), growing.environment)
    waited = answer.named("waited_for_nodes")
    assert waited, "the cluster had no CPU at first"
    assert all(found["enough"] for found in waited)
    assert {row["model"] for row in answer.document["leaderboard"]} >= {"gru", "prophet"}
    assert len(nodes_of(answer, "loading", "loaded", candidate="gru")) == 2


def test_nodes_that_do_not_come_are_not_waited_for_for_ever(tmp_path: Path) -> None:
    desk = Desk(tmp_path, STATIONS[:1])
    asked = {**TWO_WORKERS, "training.workers": 3, "run.wait_for_nodes_s": 60}
    command = ["run", "--json", *desk.sources, "--home", str(desk.home), *sets(asked)]
    with cluster(0, scales_to=1) as growing, Started(command, tmp_path, growing.environment) as started:
        answer = started.answer()
    assert answer.code == 41
    assert "asks for 3 workers" in answer.err
    assert "has room for 1 after 60 s of waiting for nodes" in answer.err
    assert [found["enough"] for found in answer.named("waited_for_nodes")] == [True, False]
