"""What can be said of compose.yaml without a container engine."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers import REPOSITORY

pytestmark = pytest.mark.unit

COMPOSE = REPOSITORY / "compose.yaml"
SERVERS = ("minio", "postgres", "mlflow")
PINNED = re.compile(r"\$\{[A-Z]+_IMAGE:-[\w./-]+:(?!latest)[\w.-]*\d[\w.-]*\}")
VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)(:?[-?])?([^}]*)\}")
SECRET = ("PASSWORD", "SECRET", "ACCESS_KEY", "ROOT_USER")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    return found


def test_every_image_is_pinned_and_can_be_replaced(services: dict[str, Any]) -> None:
    assert set(services) == {*SERVERS, "buckets"}
    assert [name for name, service in services.items() if not PINNED.fullmatch(service["image"])] == []
    base = re.search(r"FROM (\S+)", services["mlflow"]["build"]["dockerfile_inline"])
    assert base is not None
    assert PINNED.fullmatch(base.group(1))


def test_the_tracker_is_what_the_tests_use(services: dict[str, Any]) -> None:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = dict(line.split("==") for line in lines if "==" in line)
    recipe = services["mlflow"]["build"]["dockerfile_inline"]
    installed = dict(re.findall(r"([\w-]+)==\$\{\w+:-([\d.]+)\}", recipe))
    assert installed == {name: tested[name] for name in ("mlflow", "psycopg2-binary", "boto3")}
    assert services["mlflow"]["image"].endswith(f":{tested['mlflow']}}}")


def test_secrets_are_required_and_have_no_default(services: dict[str, Any]) -> None:
    text = COMPOSE.read_text(encoding="utf-8")
    used = {name: (how, default) for name, how, default in VARIABLE.findall(text)}
    secrets = {name for name in used if any(part in name for part in SECRET)}
    assert secrets == {"MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD", "POSTGRES_PASSWORD"}
    for name, how, _ in VARIABLE.findall(text):
        assert how == (":?" if name in secrets else ":-"), name
    for name, service in services.items():
        for variable, value in service.get("environment", {}).items():
            if any(part in variable for part in SECRET):
                assert re.fullmatch(r"\$\{\w+:\?[^}]*\}", value), f"{name}: {variable} is not from the environment"
            for secret in re.findall(r"://[^/@]*@", str(value)):
                assert ":?" in secret, f"{name}: {variable} holds a password"


def test_every_server_says_whether_it_is_well(services: dict[str, Any]) -> None:
    assert all(services[name]["healthcheck"]["test"][0] == "CMD" for name in SERVERS)
    waits = {name: service.get("depends_on", {}) for name, service in services.items()}
    assert waits["buckets"] == {"minio": {"condition": "service_healthy"}}
    assert waits["mlflow"] == {
        "buckets": {"condition": "service_completed_successfully"},
        "postgres": {"condition": "service_healthy"},
    }


def test_only_this_machine_reaches_them(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert len(ports) == 4
    assert [port for port in ports if not re.fullmatch(r"127\.0\.0\.1:\$\{[A-Z_]+:-\d+\}:\d+", port)] == []


def test_what_they_store_outlives_them(services: dict[str, Any]) -> None:
    volumes = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["volumes"]
    mounted = {mount.split(":")[0] for service in services.values() for mount in service.get("volumes", ())}
    assert mounted == set(volumes)


@pytest.mark.parametrize(("host", "allowed"), [("127.0.0.1:5000", True), ("mlflow:5000", True), ("evil:5000", False)])
def test_the_tracker_answers_to_the_names_it_is_called_by(services: dict[str, Any], host: str, allowed: bool) -> None:
    default = VARIABLE.search(services["mlflow"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"])
    assert default is not None
    assert any(fnmatch(host, pattern) for pattern in default.group(3).split(",")) is allowed


def test_the_passwords_are_never_committed() -> None:
    ignored = Path(REPOSITORY / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {".env", "/.services/"} <= set(ignored)
