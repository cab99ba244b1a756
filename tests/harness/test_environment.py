from __future__ import annotations

import pytest

from tests.harness.environment import environment, expand, quantity, service_links
from tests.harness.objects import Objects

pytestmark = pytest.mark.unit


def objects() -> Objects:
    place = {"namespace": "flts"}
    return Objects.of(
        [
            {"kind": "ConfigMap", "metadata": {"name": "plain", **place}, "data": {"A": "1", "B": "2"}},
            {"kind": "Secret", "metadata": {"name": "hidden"}, "data": {"KEY": "c2VjcmV0"}},
        ]
    )


def test_variables_refer_to_those_before_them() -> None:
    env = {"HOST": "minio"}
    assert expand("http://$(HOST):9000/$(UNKNOWN) costs $$(HOST)", env) == "http://minio:9000/$(UNKNOWN) costs $(HOST)"


@pytest.mark.parametrize(("text", "value"), [("500m", 0.5), ("2Gi", 2**31), (3, 3), ("1.5G", 1.5e9)])
def test_quantities(text: str, value: float) -> None:
    assert quantity(text) == value


def test_the_containers_own_variables_win_over_sources_and_image() -> None:
    container = {
        "envFrom": [{"configMapRef": {"name": "plain"}}, {"secretRef": {"name": "hidden"}}],
        "env": [
            {"name": "B", "value": "$(A)-$(KEY)"},
            {"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
    }
    assert environment(container, objects(), {"metadata.name": "pod-0"}, {"A": "0", "PATH": "/bin"}) == {
        "PATH": "/bin", "A": "1", "KEY": "secret", "B": "1-secret", "ME": "pod-0",
    }  # fmt: skip


def test_what_is_named_has_to_be_there() -> None:
    reference = {"secretKeyRef": {"name": "hidden", "key": "OTHER"}}
    container = {"env": [{"name": "X", "valueFrom": reference}]}
    with pytest.raises(LookupError, match='secret "hidden" has no key "OTHER"'):
        environment(container, objects(), {}, {})
    reference["secretKeyRef"]["optional"] = True  # type: ignore[assignment]
    assert environment(container, objects(), {}, {}) == {}


def test_a_service_called_mlflow_sets_a_port_that_is_none() -> None:
    service = {
        "metadata": {"name": "mlflow"},
        "spec": {"clusterIP": "10.0.0.9", "ports": [{"name": "http", "port": 5000}]},
    }
    env = service_links([service])
    assert env["MLFLOW_PORT"] == "tcp://10.0.0.9:5000"
    assert env["MLFLOW_SERVICE_PORT_HTTP"] == "5000"
