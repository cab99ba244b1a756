"""The arithmetic of sizes, on objects small enough to be reckoned by hand."""

from __future__ import annotations

from typing import Any

import pytest

from tests.manifests.sizing import GIB, Demand, Part, disks, parts, quantity, shown

pytestmark = pytest.mark.manifests


def pod(cpu: str, memory: str, *inits: tuple[str, str]) -> dict[str, Any]:
    def container(cpu: str, memory: str) -> dict[str, Any]:
        return {"resources": {"requests": {"cpu": cpu, "memory": memory}}}

    return {
        "spec": {"containers": [container(cpu, memory)], "initContainers": [container(*needs) for needs in inits]},
    }


def one(kind: str, spec: dict[str, Any], name: str = "it") -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name}, "spec": spec}


CLUSTER = {
    "headGroupSpec": {"template": pod("1", "2Gi")},
    "workerGroupSpecs": [{"minReplicas": 1, "maxReplicas": 3, "template": pod("2", "4Gi")}],
}


@pytest.mark.parametrize(
    ("text", "number"), [("500m", 0.5), ("2", 2.0), ("1.5", 1.5), ("2Gi", 2 * GIB), ("512Mi", GIB / 2), ("1G", 1e9)]
)
def test_a_quantity_is_read_as_kubernetes_does(text: str, number: float) -> None:
    assert quantity(text) == number


def test_replicas_are_counted() -> None:
    (part,) = parts([one("Deployment", {"replicas": 3, "template": pod("250m", "1Gi")})])
    assert part == Part("Deployment it", Demand(0.75, 3 * GIB), Demand(0.75, 3 * GIB))


def test_a_pod_asks_for_the_larger_of_its_containers_and_each_of_its_inits() -> None:
    (part,) = parts([one("StatefulSet", {"template": pod("500m", "1Gi", ("1", "512Mi"), ("100m", "3Gi"))})])
    assert part.most == Demand(1.0, 3 * GIB)


def test_a_cluster_goes_from_its_fewest_workers_to_its_most() -> None:
    (part,) = parts([one("RayCluster", CLUSTER)])
    assert part == Part("RayCluster it", Demand(3.0, 6 * GIB), Demand(7.0, 14 * GIB))


def test_the_autoscaler_stands_beside_the_head() -> None:
    (part,) = parts([one("RayService", {"rayClusterConfig": {**CLUSTER, "enableInTreeAutoscaling": True}})])
    assert part.least == Demand(3.5, 6.5 * GIB)


def test_a_job_has_a_submitter_besides_its_cluster() -> None:
    (part,) = parts([one("RayJob", {"rayClusterSpec": CLUSTER, "submitterPodTemplate": pod("200m", "1Gi")})])
    assert (part.least, part.stands) == (Demand(3.2, 7 * GIB), False)


@pytest.mark.parametrize(
    ("kind", "more", "stands"), [("RayCluster", {}, True), ("RayCluster", {"suspend": True}, False)]
)
def test_what_is_suspended_does_not_stand(kind: str, more: dict[str, Any], stands: bool) -> None:
    assert [part.stands for part in parts([one(kind, {**CLUSTER, **more})])] == [stands]


def test_what_makes_pods_in_an_unknown_way_is_not_passed_over() -> None:
    with pytest.raises(ValueError, match="DaemonSet it"):
        list(parts([one("DaemonSet", {"template": pod("1", "1Gi")})]))


def test_disks_are_claims_and_templates_of_claims() -> None:
    claim = one("PersistentVolumeClaim", {"resources": {"requests": {"storage": "2Gi"}}}, "home")
    template = {**claim, "metadata": {"name": "data"}}
    assert disks([claim, one("StatefulSet", {"volumeClaimTemplates": [template]})]) == {
        "home": 2 * GIB,
        "it data": 2 * GIB,
    }


def test_a_range_is_shown_as_one_only_where_it_is_one() -> None:
    assert (shown(0.25, 0.25), shown(1.5, 9.501)) == ("0.25", "1.5 to 9.51")
