"""Who reaches whom: the policies are decided as a network plugin would, over the pods that the overlays lead to."""

from __future__ import annotations

import functools

import pytest

from kuberay.lint.pods import Pod, pods
from tests.manifests.reach import Place, reaches, selects
from tests.manifests.renderings import rendering_of

pytestmark = pytest.mark.manifests

OVERLAYS = ("dev", "prod", "prod+raycronjob", "prod+throughput")
JOBS = ("pipeline", "train", "tune")
RAY = (*JOBS, "cluster", "serve")
ANYWHERE = Place(address="93.184.216.34")
API_SERVER = Place(address="10.96.0.1")
DNS = Place({"k8s-app": "kube-dns"}, "kube-system")
OPERATOR = Place({"app.kubernetes.io/component": "kuberay-operator"}, "kuberay-system")
PROMETHEUS = Place({"app.kubernetes.io/name": "prometheus"}, "monitoring")
GRAFANA = Place({"app.kubernetes.io/name": "grafana"}, "monitoring")
CLIENT = Place({"flts.io/client": "true"}, "shop")
INGRESS = Place({"app.kubernetes.io/name": "ingress-nginx"}, "ingress-nginx")
STRANGER = Place({"app": "stranger"}, "shop")


@functools.cache
def place(overlay: str, component: str, role: str = "", name: str = "") -> Place:
    """The one pod of an overlay that has this component, this role and an owner whose name ends so."""
    found = [
        pod
        for pod in pods(rendering_of(overlay))
        if pod.labels.get("app.kubernetes.io/component") == component
        and role in ("", pod.role)
        and pod.owner.name.endswith(name)
    ]
    assert found, f"{overlay} has no pod {component} {role} {name}"
    return as_place(found[0])


def as_place(pod: Pod) -> Place:
    return Place(pod.labels, pod.owner.namespace)


def services(overlay: str) -> dict[str, Place]:
    found = {
        "minio": place(overlay, "store"),
        "postgres": place(overlay, "database", name="postgres"),
        "mlflow": place(overlay, "tracker"),
    }
    return found | ({"redis": place(overlay, "database", name="redis")} if overlay != "dev" else {})


PORTS = {"minio": 9000, "postgres": 5432, "mlflow": 5000, "redis": 6379}


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_pod_finds_names_and_nobody_else_finds_it(overlay: str) -> None:
    rendering = rendering_of(overlay)
    for pod in pods(rendering):
        here = as_place(pod)
        for protocol in ("UDP", "TCP"):
            assert reaches(rendering, here, DNS, 53, protocol), pod.owner
            assert reaches(rendering, here, Place(address="169.254.20.10"), 53, protocol), pod.owner
        for port in (8265, 8000, 8080, 6379, 9000, 5000, 5432, 10001, 52365):
            assert not reaches(rendering, STRANGER, here, port), f"{pod.owner} {port}"
            assert not reaches(rendering, here, STRANGER, port), f"{pod.owner} {port}"


def test_only_those_who_say_so_leave_for_the_api_server(overlay: str) -> None:
    rendering = rendering_of(overlay)
    allowed = {
        f"{pod.owner.name}/{pod.role}"
        for pod in pods(rendering)
        if reaches(rendering, as_place(pod), API_SERVER, 443) or reaches(rendering, as_place(pod), ANYWHERE, 6443)
    }
    autoscaled = {
        f"{pod.owner.name}/head"
        for pod in pods(rendering)
        if any(container.role == "autoscaler" for container in pod.containers)
    }
    assert allowed == autoscaled | {"flts-make-secrets/job"}
    assert bool(autoscaled) == (overlay != "dev")


def test_nobody_else_leaves_the_cluster(overlay: str) -> None:
    rendering = rendering_of(overlay)
    for pod in pods(rendering):
        assert not reaches(rendering, as_place(pod), ANYWHERE, 80), pod.owner
        assert not reaches(rendering, as_place(pod), ANYWHERE, 8443), pod.owner


@pytest.mark.parametrize("component", RAY)
@pytest.mark.parametrize("role", ["head", "worker"])
def test_ray_nodes_reach_store_and_tracker_and_never_the_database(overlay: str, component: str, role: str) -> None:
    rendering, node = rendering_of(overlay), place(overlay, component, role)
    found = {name for name, to in services(overlay).items() if reaches(rendering, node, to, PORTS[name])}
    assert found == {"minio", "mlflow"} | ({"redis"} if component == "serve" and overlay != "dev" else set())


def test_the_tracker_reaches_database_and_store_and_they_reach_nobody(overlay: str) -> None:
    rendering, those = rendering_of(overlay), services(overlay)
    allowed = {(a, b) for a in those for b in those if a != b and reaches(rendering, those[a], those[b], PORTS[b])}
    assert allowed == {("mlflow", "minio"), ("mlflow", "postgres")}


@pytest.mark.parametrize("component", RAY)
def test_nodes_of_one_application_talk_on_any_port_and_to_no_other_application(overlay: str, component: str) -> None:
    rendering = rendering_of(overlay)
    head, worker = place(overlay, component, "head"), place(overlay, component, "worker")
    for port in (6379, 8265, 10002, 19999, 52365):
        assert reaches(rendering, worker, head, port)
        assert reaches(rendering, head, worker, port)
        for other in set(RAY) - {component}:
            assert not reaches(rendering, worker, place(overlay, other, "head"), port), other
            assert not reaches(rendering, worker, place(overlay, other, "worker"), port), other


@pytest.mark.parametrize("component", JOBS)
def test_a_submitter_reaches_the_dashboard_of_its_own_job(overlay: str, component: str) -> None:
    rendering, submitter = rendering_of(overlay), place(overlay, component, "submitter")
    assert reaches(rendering, submitter, place(overlay, component, "head"), 8265)
    for other in set(RAY) - {component}:
        assert not reaches(rendering, submitter, place(overlay, other, "head"), 8265)


@pytest.mark.parametrize("overlay", ["dev", "prod"])
def test_the_nightly_job_reaches_the_standing_cluster_alone(overlay: str) -> None:
    rendering, job = rendering_of(overlay), place(overlay, "nightly", "cronjob")
    reached = {component for component in RAY if reaches(rendering, job, place(overlay, component, "head"), 8265)}
    assert reached == {"cluster"}
    assert not reaches(rendering, job, place(overlay, "cluster", "head"), 6379)


def test_a_nightly_cluster_works_like_the_pipelines() -> None:
    rendering, overlay = rendering_of("prod+raycronjob"), "prod+raycronjob"
    head, worker = place(overlay, "nightly", "head"), place(overlay, "nightly", "worker")
    assert reaches(rendering, worker, head, 6379)
    assert reaches(rendering, place(overlay, "nightly", "submitter"), head, 8265)
    assert reaches(rendering, OPERATOR, head, 8265)
    assert reaches(rendering, worker, services(overlay)["minio"], 9000)


@pytest.mark.parametrize("component", RAY)
def test_the_operator_asks_heads_and_prometheus_scrapes_nodes(overlay: str, component: str) -> None:
    rendering = rendering_of(overlay)
    head, worker = place(overlay, component, "head"), place(overlay, component, "worker")
    assert reaches(rendering, OPERATOR, head, 8265)
    assert not reaches(rendering, OPERATOR, head, 6379)
    assert all(reaches(rendering, PROMETHEUS, head, port) for port in (8080, 44217, 44227))
    assert reaches(rendering, PROMETHEUS, worker, 8080)
    assert not reaches(rendering, PROMETHEUS, head, 8265)
    assert reaches(rendering, head, PROMETHEUS, 9090)
    assert reaches(rendering, head, GRAFANA, 3000)


def test_forecasts_are_for_clients_and_the_ingress_on_the_services_port_alone(overlay: str) -> None:
    rendering, worker = rendering_of(overlay), place(overlay, "serve", "worker")
    own_stranger = Place({"app": "stranger"}, worker.namespace)
    own_client = Place(CLIENT.labels, worker.namespace)
    for source in (CLIENT, own_client, INGRESS, OPERATOR):
        assert reaches(rendering, source, worker, 8000)
    for source in (STRANGER, own_stranger, PROMETHEUS):
        assert not reaches(rendering, source, worker, 8000)
    # Replicas behind HAProxy (30000 and above), its statistics (8404) and its metrics (9101) know no limit of requests.
    for port in (30000, 30001, 8404, 8001, 9101):
        assert not reaches(rendering, CLIENT, worker, port)
        assert not reaches(rendering, own_client, worker, port)
    for other in set(RAY) - {"serve"}:
        assert not reaches(rendering, CLIENT, place(overlay, other, "worker"), 8000)
    for server in services(overlay).values():
        assert not any(reaches(rendering, own_client, server, port) for port in (5000, 5432, 9000))


def test_jobs_that_set_things_up_reach_the_store(overlay: str) -> None:
    rendering, store = rendering_of(overlay), services(overlay)["minio"]
    assert reaches(rendering, place(overlay, "setup", name="minio-setup"), store, 9000)
    assert not reaches(rendering, place(overlay, "setup", name="minio-setup"), services(overlay)["postgres"], 5432)
    if overlay == "dev":
        assert reaches(rendering, place(overlay, "setup", name="sample-data"), store, 9000)


def test_every_policy_is_about_some_pod(overlay: str) -> None:
    rendering = rendering_of(overlay)
    everyone = [CLIENT.labels, *(pod.labels for pod in pods(rendering))]  # clients are whoever says so
    for policy in rendering.of("NetworkPolicy"):
        assert any(selects(policy.get("spec.podSelector"), labels) for labels in everyone), policy
