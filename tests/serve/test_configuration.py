"""The files that Ray Serve and the cluster read say what the settings say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from flts_ray.config import Settings
from flts_ray.config_layers import load_settings
from flts_ray.config_serving import ServeSettings
from flts_ray.errors import ConfigError
from serve.app import Arguments, app, build
from serve.environment import environment, has_own_port
from serve.profiles import deployment_options

pytestmark = pytest.mark.unit

FOLDER = Path(__file__).resolve().parents[2] / "serve"
CONFIGS = ("config.yaml", "config-throughput.yaml")


def document(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_serve_reads_the_file_and_the_application_its_arguments(name: str) -> None:
    config = ServeDeploySchema.model_validate(document(name))
    application = config.applications[0]
    assert application.import_path == "serve.app:app"
    arguments = Arguments.model_validate(application.args)
    settings = load_settings(options=arguments.set, environ={}).settings
    assert settings.serve.profile == ("throughput" if "throughput" in name else "local")


def test_the_local_profile_is_bound_to_loopback() -> None:
    assert document("config.yaml")["http_options"]["host"] == "127.0.0.1"
    assert ServeSettings().profile == "local"
    assert ServeSettings().host == "127.0.0.1"


def test_serves_own_proxy_is_not_on_the_services_port() -> None:
    assert document("config.yaml")["http_options"]["port"] != ServeSettings().port


def test_the_local_profile_keeps_one_port(tmp_path: Path) -> None:
    names = environment(ServeSettings(port=8123), scratch=tmp_path)
    assert names["RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"] == "8123"
    assert names["RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT"] == "8124"  # Ray leaves the last one out
    assert "RAY_SERVE_ENABLE_HA_PROXY" not in names


def test_only_under_these_variables_a_replica_has_the_port_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`serve run` without them answers through Ray Serve's proxy, which then listens on the same port."""
    settings = ServeSettings(port=8123)
    assert not has_own_port(settings)
    for name, value in environment(settings, scratch=tmp_path).items():
        monkeypatch.setenv(name, value)
    assert has_own_port(settings)
    assert not has_own_port(ServeSettings(port=8124))


def test_the_cluster_profile_has_one_replica_and_one_port_a_node_for_clients_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = ServeSettings(profile="cluster", replicas=2, max_replicas=4)
    names = environment(settings)
    assert names == environment(ServeSettings())
    assert (settings.address, ServeSettings(host="127.0.0.2").address) == ("0.0.0.0", "127.0.0.2")
    options = deployment_options(settings)
    assert (options["max_replicas_per_node"], options["max_surge_percent"]) == (1, 0)
    assert options["autoscaling_config"].max_replicas == 4
    assert "max_replicas_per_node" not in deployment_options(ServeSettings())
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    assert has_own_port(settings)
    assert not has_own_port(ServeSettings(profile="throughput", replicas=2))


def test_serve_accepts_the_options_of_the_cluster_profile(tmp_path: Path) -> None:
    given = {"run.home": str(tmp_path), "serve.profile": "cluster", "serve.replicas": 2}
    bound = app({"identifier": "alpha", "set": given})._bound_deployment
    assert (bound.num_replicas, bound._replica_config.max_replicas_per_node) == (2, 1)


def test_the_throughput_profile_keeps_its_proxys_files_apart(tmp_path: Path) -> None:
    names = environment(ServeSettings(profile="throughput", replicas=2), scratch=tmp_path)
    assert names["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    files = [value for value in names.values() if value.startswith("/")]
    assert len(files) >= 4
    assert all(value.startswith(str(tmp_path)) for value in files)


def test_a_drain_does_not_wait_for_the_modes_own_thirty_seconds(tmp_path: Path) -> None:
    assert float(environment(ServeSettings(), scratch=tmp_path)["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"]) < 5


@pytest.mark.parametrize("more", [(), ("--profile", "cluster")])
def test_the_variables_can_be_set_by_a_shell(more: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "serve.environment", "--set", "serve.port=8200", *more]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "export RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT=8200" in lines


def test_queues_are_bounded_and_refusals_say_when_to_come_back() -> None:
    options = deployment_options(ServeSettings(max_queued_requests=7, retry_after_s=2))
    assert options["max_queued_requests"] == 7
    assert options["backpressure_config"].status_code == 503
    assert options["backpressure_config"].retry_after_s == 2


def test_a_new_version_starts_beside_the_old_one_where_there_is_a_second_port() -> None:
    assert deployment_options(ServeSettings(profile="throughput", replicas=2))["max_surge_percent"] == 100
    assert deployment_options(ServeSettings())["max_surge_percent"] == 0


def test_replicas_are_added_by_load_only_where_more_are_allowed() -> None:
    assert deployment_options(ServeSettings())["num_replicas"] == 1
    scaled = deployment_options(ServeSettings(profile="throughput", replicas=2, max_replicas=6))
    assert "num_replicas" not in scaled
    assert (scaled["autoscaling_config"].min_replicas, scaled["autoscaling_config"].max_replicas) == (2, 6)


def test_the_local_profile_refuses_a_second_replica() -> None:
    with pytest.raises(ConfigError, match="throughput"):
        load_settings(options={"serve.replicas": 2}, environ={})


def test_the_application_knows_what_it_serves(tmp_path: Path) -> None:
    application = app({"identifier": "alpha", "set": {"run.home": str(tmp_path)}})
    assert application._bound_deployment.init_args[1] == "alpha"


def test_an_application_that_nothing_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="which champion"):
        app({"set": {"run.home": str(tmp_path)}})


def test_an_argument_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="identifer"):
        app({"identifer": "alpha"})


def test_replicas_find_the_home_from_any_folder() -> None:
    bound = build(Settings(), "alpha")._bound_deployment.init_args[0]
    assert Path(bound["run"]["home"]).is_absolute()
