"""Store, database and tracker: whom they answer, what their probes mean, and who holds the keys to them."""

from __future__ import annotations

import importlib
import itertools
import re
import warnings
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from kuberay.lint.pods import Container, Pod, pods
from tests.manifests.renderings import KUBERAY, rendering_of

pytestmark = pytest.mark.manifests

OVERLAYS = ("dev", "prod")
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def mlflow_rules() -> Any:
    """Whom the installed MLflow answers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own libraries
        return importlib.import_module("mlflow.server.security_utils")


def pod(overlay: str, name: str) -> Pod:
    (found,) = (one for one in pods(rendering_of(overlay)) if one.owner.name == name)
    return found


def main(overlay: str, name: str) -> Container:
    found = pod(overlay, name).main
    assert found is not None
    return found


def environment(container: Container) -> dict[str, str]:
    """What is said in plain text, with ``$(POD_NAMESPACE)`` filled in."""
    values = {entry["name"]: entry["value"] for entry in container.get("env", []) if "value" in entry}
    return {name: value.replace("$(POD_NAMESPACE)", container.pod.owner.namespace) for name, value in values.items()}


def test_mlflow_answers_to_every_form_of_its_name_and_to_no_other(mlflow_rules: Any, overlay: str) -> None:
    container = main(overlay, "mlflow")
    hosts = environment(container)["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    space = container.pod.owner.namespace
    names = ("mlflow", f"mlflow.{space}", f"mlflow.{space}.svc", f"mlflow.{space}.svc.cluster.local")
    for host in (*(f"{name}:5000" for name in names), "localhost:5000", "127.0.0.1:31234"):
        assert mlflow_rules.is_allowed_host_header(hosts, host), host
    for host in (
        "evil.com",
        "evil.com:5000",
        "10.1.2.3:5000",
        f"mlflow.{space}.svc.evil.com:5000",
        "mlflow.other:5000",
    ):
        assert not mlflow_rules.is_allowed_host_header(hosts, host), host


def test_mlflow_is_ready_only_if_the_address_that_clients_have_gets_an_answer(mlflow_rules: Any, overlay: str) -> None:
    container = main(overlay, "mlflow")
    probe = container.get("readinessProbe.httpGet")
    assert not mlflow_rules.is_health_endpoint(urlsplit(probe["path"]).path), "that one is answered whatever the host"
    (sent,) = (header["value"] for header in probe["httpHeaders"] if header["name"] == "Host")
    (settings,) = (one for one in rendering_of(overlay).of("ConfigMap") if re.fullmatch(r"flts-env(-\w+)?", one.name))
    assert urlsplit(settings.get("data")["FLTS_TRACKING__URI"]).netloc == sent
    hosts = environment(container)["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert mlflow_rules.is_allowed_host_header(hosts, sent)


def test_mlflow_is_not_started_again_for_a_database_that_is_away(mlflow_rules: Any, overlay: str) -> None:
    for probe in ("startupProbe", "livenessProbe"):
        asked = main(overlay, "mlflow").get(f"{probe}.httpGet")
        assert mlflow_rules.is_health_endpoint(asked["path"]), (
            "others are refused to the kubelet, which asks by address"
        )


def test_mlflow_serves_artifacts_itself_in_one_worker(overlay: str) -> None:
    program, subcommand, *options = main(overlay, "mlflow").command
    assert (program, subcommand) == ("mlflow", "server")
    assert "--serve-artifacts" in options
    given = dict(itertools.pairwise(options))
    assert (given["--host"], given["--port"], given["--workers"]) == ("0.0.0.0", "5000", "1")
    values = environment(main(overlay, "mlflow"))
    assert values["MLFLOW_ARTIFACTS_DESTINATION"].startswith("s3://mlflow/")
    assert values["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"


def test_tables_are_brought_up_to_date_in_the_database_that_the_server_uses(overlay: str) -> None:
    (migrate,) = (one for one in pod(overlay, "mlflow").containers if one.role == "init")
    server = main(overlay, "mlflow")
    assert migrate.command == ["mlflow", "db", "upgrade", environment(server)["MLFLOW_BACKEND_STORE_URI"]]
    assert migrate.get("image") == server.get("image"), "or it makes tables of another release"
    (deployment,) = (one for one in rendering_of(overlay).of("Deployment") if one.name == "mlflow")
    assert deployment.get("spec.strategy.type") == "Recreate", "two releases never share the tables"


@pytest.mark.parametrize("name", ["minio", "postgres", "mlflow"])
def test_every_service_has_all_probes_and_may_write_where_it_has_to_only(overlay: str, name: str) -> None:
    container = main(overlay, name)
    assert all(container.get(probe) for probe in PROBES)
    assert container.get("securityContext.readOnlyRootFilesystem") is True
    written = {mount["mountPath"] for mount in container.get("volumeMounts")}
    assert "/tmp" in written
    assert pod(overlay, name).spec["securityContext"]["runAsNonRoot"] is True
    # Kubernetes' own variables for Services (MINIO_PORT=tcp://...) would be read as settings.
    assert pod(overlay, name).spec["enableServiceLinks"] is False


def held(tree: Any) -> set[str]:
    """Secrets that anything below refers to."""
    if isinstance(tree, list):
        return {name for value in tree for name in held(value)}
    if not isinstance(tree, dict):
        return set()
    here = {tree[key]["name"] for key in ("secretRef", "secretKeyRef") if key in tree}
    here |= {tree["secret"]["secretName"]} if "secretName" in (tree.get("secret") or {}) else set()
    return here.union(*(held(value) for value in tree.values()))


def test_a_key_is_held_by_those_who_need_it_and_by_nobody_else(overlay: str) -> None:
    holders: dict[str, set[str]] = {}
    for one in pods(rendering_of(overlay)):
        for secret in held(one.tree):
            holders.setdefault(secret, set()).add(one.owner.name)
    ray = {"flts-pipeline", "flts-train", "flts-tune", "flts-cluster", "flts-forecast"}
    assert holders.pop("minio-root") == {"minio", "minio-setup"}
    assert holders.pop("mlflow-s3") == {"mlflow", "minio-setup"}
    assert holders.pop("flts-s3") == ray | {"minio-setup"} | ({"flts-sample-data"} if overlay == "dev" else set())
    assert holders.pop("postgres") == {"postgres", "mlflow"}
    assert holders.pop("serve-token") == {"flts-forecast"}
    # Ray's token is given to Ray's pods by the operator (authOptions).
    assert holders.pop("ray-token") == {"flts-nightly"}
    assert holders.pop("redis", set()) == ({"redis"} if overlay == "prod" else set())
    assert holders == {}


def test_every_secret_of_the_plan_is_of_use_and_every_secret_in_use_is_planned() -> None:
    plan = yaml.safe_load((KUBERAY / "base" / "secrets" / "plan.yaml").read_text(encoding="utf-8"))
    used = {name for one in pods(rendering_of("prod")) for name in held(one.tree)}
    assert used == set(plan)
