"""What components/monitoring adds to a cluster is what the files of this folder say, and finds Ray's pods."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

import pytest
import yaml

from kuberay.lint.model import Rendering, Resource
from kuberay.lint.pods import Pod, ray_pods
from kuberay.monitoring.make_rules import prometheus_rule
from tests.manifests.reach import selects
from tests.manifests.renderings import rendering_of
from tests.monitoring.files import ALERTS, DASHBOARD, FOLDER, KUBERNETES_CONFIG, SERVICE_ALERTS

pytestmark = pytest.mark.manifests

HEADS = {"metrics", "as-metrics", "dash-metrics"}
WORKERS = {"metrics"}
META = "__meta_kubernetes_"


@functools.cache
def rendering() -> Rendering:
    return rendering_of("dev+monitoring")


def the(kind: str, name: str) -> Resource:
    (found,) = (one for one in rendering().of(kind) if one.name == name)
    return found


def test_the_rules_are_those_of_both_files_word_for_word() -> None:
    assert (FOLDER / "prometheusrule.yaml").read_text(encoding="utf-8") == prometheus_rule()
    groups = [group for file in (ALERTS, SERVICE_ALERTS) for group in yaml.safe_load(file.read_text("utf-8"))["groups"]]
    assert the("PrometheusRule", "flts").get("spec") == {"groups": groups}


def test_the_dashboard_is_the_file_and_grafana_picks_it_up() -> None:
    config = the("ConfigMap", "flts-dashboard")
    ((name, text),) = config.get("data").items()
    assert name.endswith(".json")
    assert json.loads(text) == json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert config.labels["grafana_dashboard"] == "1"


def test_every_object_for_the_operator_carries_what_its_prometheus_looks_for() -> None:
    those = [*rendering().of("PodMonitor"), *rendering().of("PrometheusRule")]
    assert len(those) == 3
    assert {one.labels["release"] for one in those} == {"prometheus"}


def scraped(pod: Pod) -> list[str]:
    """Names of the ports that monitors scrape on a pod, each as often as it is scraped."""
    return [
        endpoint["port"]
        for monitor in rendering().of("PodMonitor")
        if selects(monitor.get("spec.selector"), pod.labels)
        for endpoint in monitor.get("spec.podMetricsEndpoints")
    ]


def test_every_ray_pod_is_scraped_once_on_each_port_that_it_has() -> None:
    pods = list(ray_pods(rendering()))
    assert {pod.role for pod in pods} == {"head", "worker"}
    for pod in pods:
        main = pod.main
        assert main is not None
        ports = {port["name"] for port in main.get("ports", [])} | {"metrics"}  # which KubeRay adds
        expected = HEADS if pod.role == "head" else WORKERS
        assert sorted(scraped(pod)) == sorted(expected), pod.owner
        assert expected <= ports, pod.owner


def test_series_have_the_labels_that_a_prometheus_without_operator_gives_them() -> None:
    (job,) = yaml.safe_load(KUBERNETES_CONFIG.read_text(encoding="utf-8"))["scrape_configs"]
    # The operator adds namespace and pod by itself.
    plain = {
        (rule["source_labels"][0], rule["target_label"])
        for rule in job["relabel_configs"]
        if "target_label" in rule and rule["target_label"] not in ("namespace", "pod")
    }
    assert plain == {(f"{META}pod_label_ray_io_{name}", f"ray_io_{name}") for name in ("cluster", "group")}
    for monitor in rendering().of("PodMonitor"):
        for endpoint in monitor.get("spec.podMetricsEndpoints"):
            assert {(rule["sourceLabels"][0], rule["targetLabel"]) for rule in endpoint["relabelings"]} == plain
            assert endpoint["metricRelabelings"] == [
                {"action": "labeldrop", **rule} for rule in _without_action(job["metric_relabel_configs"])
            ]


def _without_action(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in rule.items() if key != "action"} for rule in rules]


def test_dashboards_of_heads_know_where_prometheus_and_grafana_are() -> None:
    (environment,) = (one for one in rendering().of("ConfigMap") if re.fullmatch(r"flts-env(-\w+)?", one.name))
    assert {name for name in environment.get("data") if name.startswith(("RAY_PROMETHEUS", "RAY_GRAFANA"))} == {
        "RAY_PROMETHEUS_HOST",
        "RAY_PROMETHEUS_NAME",
        "RAY_GRAFANA_HOST",
        "RAY_GRAFANA_IFRAME_HOST",
    }
    for pod in ray_pods(rendering()):
        assert pod.main is not None
        names = [source.get("configMapRef", {}).get("name") for source in pod.main.get("envFrom", [])]
        assert environment.name in names, pod.owner
