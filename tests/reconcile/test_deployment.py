"""Services and settings are found in every kind of deployment file."""

from __future__ import annotations

import pytest
import yaml

from flts_ray.errors import ConfigError
from flts_ray.reconcile.deployment import Service, services_of_dotenv, services_of_yaml
from tests.reconcile import deployments

pytestmark = pytest.mark.unit


def services(text: str, notes: list[str] | None = None) -> dict[str, Service]:
    found = services_of_yaml(list(yaml.safe_load_all(text)), "x.yaml", [] if notes is None else notes)
    return {service.role: service for service in found}


def values(service: Service) -> dict[str, object]:
    return {key: value for key, (value, _) in service.settings.items()}


def test_compose() -> None:
    found = services(deployments.COMPOSE)
    assert list(found) == ["preprocess", "gru", "lstm", "prophet", "inference", "minio"]
    assert values(found["preprocess"]) == {"data.train": ["PobleSec.csv"], "scaling.scaler": "minmax"}
    assert values(found["lstm"]) == {
        "candidates": ["lstm"],
        "training.epochs": 10,
        "training.batch_size": 64,
        "recurrent.hidden_size": 128,
    }
    assert found["gru"].environment["AWS_SECRET_ACCESS_KEY"] == "***"
    assert found["inference"].settings == {}, "there BATCH_SIZE means something else"
    assert [service.sampling for service in found.values()] == [{}] * 6


def test_helm_values() -> None:
    found = services(deployments.HELM)
    assert {role: service.name for role, service in found.items()} == {
        "preprocess": "preprocess",
        "gru": "train.gru",
        "lstm": "train.lstm",
        "prophet": "nonml.prophet",
        "inference": "inference",
    }
    assert values(found["preprocess"])["sampling.train_rows"] == 50
    assert "sampling.train_rows" not in found["gru"].settings
    assert found["gru"].sampling == {"SAMPLE_TRAIN_ROWS": "50", "SAMPLE_TEST_ROWS": "30"}
    assert found["gru"].image == "train:latest"


def test_manifests() -> None:
    notes: list[str] = []
    found = services(deployments.MANIFESTS, notes)
    assert {role: service.name for role, service in found.items()} == {"preprocess": "preprocess", "gru": "train-gru"}
    assert values(found["gru"])["training.epochs"] == 5, "from the ConfigMap"
    assert found["gru"].environment["AWS_SECRET_ACCESS_KEY"] == "***"
    assert notes == []
    listed = yaml.safe_dump({"kind": "List", "items": list(yaml.safe_load_all(deployments.MANIFESTS))})
    assert services(listed) == found


def test_a_ray_job_and_a_dotenv_do_everything() -> None:
    assert values(services(deployments.RAY_JOB)["all"]) == {"sampling.train_rows": 50, "training.epochs": 10}
    (whole,) = services_of_dotenv(deployments.DOTENV, ".env", [])
    assert whole.role == "all"
    assert values(whole)["sampling.test_rows"] == 30
    assert values(whole)["training.epochs"] == 10
    assert values(whole)["tracking.uri"] == "postgresql://flts:***@db/mlflow"


def test_what_a_file_leaves_open_is_noted() -> None:
    notes: list[str] = []
    found = services(
        "services:\n"
        "  train_gru: {env_file: train.env, environment: {EPOCHS: '${EPOCHS}', BATCH_SIZE: '${BATCH_SIZE:-32}'}}\n",
        notes,
    )
    assert values(found["gru"]) == {"training.batch_size": 32}
    assert any("train.env" in note for note in notes)
    assert any("EPOCHS of service train_gru is ${EPOCHS}" in note for note in notes)


def test_replicas_of_a_role_keep_their_names() -> None:
    found = services("services:\n  gru-1: {environment: {EPOCHS: 1}}\n  gru-2: {environment: {EPOCHS: 2}}\n")
    assert list(found) == ["gru", "gru-2"]


def test_what_is_no_deployment_has_no_services() -> None:
    assert services("training: {epochs: 3}\n") == {}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("services: {train_gru: {environment: {EPOCHS: ten}}}", "service train_gru of x.yaml: .*EPOCHS is 'ten'"),
        ("services: {job: {environment: {FLTS_TRAINING__EPOCH: 3}}}", "did you mean FLTS_TRAINING__EPOCHS"),
        ("a: " * 70 + "1", "beyond reason|not allowed"),
        ("kind: RayJob\nmetadata: {name: x}\nspec: {runtimeEnvYAML: 'a: ['}", "runtimeEnvYAML .* is not valid YAML"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, sentence: str) -> None:
    if text.startswith("a: a:"):
        text = "\n".join("  " * depth + "a:" for depth in range(70))
    with pytest.raises(ConfigError, match=sentence):
        services(text)


def test_repeated_aliases_end_soon() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    with pytest.raises(ConfigError, match="beyond reason"):
        services("\n".join(lines))


def test_a_line_that_is_no_assignment_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"line 2 of x\.env is not NAME=value"):
        services_of_dotenv("A=1\nnonsense\n", "x.env", [])
