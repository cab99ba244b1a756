"""A real Prometheus scrapes a real Ray as the committed files say, and answers what dashboard and rules ask."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.monitoring.files import ALERTS, CONFIG, EXPORTED, KUBERNETES_CONFIG, ROOT, SERVICE_ALERTS, queries, rules
from tests.services.ports import free_ports
from tests.services.processes import ServerProcess

pytestmark = pytest.mark.service

PATIENCE_S = 90.0
RAY_LIST = "/tmp/ray/prom_metrics_service_discovery.json"


class Prometheus:
    """A server of its own, with the given configuration and a scrape a second."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self._process = ServerProcess("prometheus", folder / "prometheus.log")
        file = folder / "prometheus.yml"
        file.write_text(yaml.safe_dump({**config, "global": {"scrape_interval": "1s", "evaluation_interval": "1s"}}))
        self._command = [
            str(shutil.which("prometheus")),
            f"--config.file={file}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]

    def start(self) -> None:
        self._process.start(self._command, ready=self._ready)

    def stop(self) -> None:
        self._process.stop()

    def api(self, path: str, **parameters: str) -> Any:
        with urllib.request.urlopen(
            f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=10
        ) as got:
            answer = json.load(got)
        assert answer["status"] == "success"
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self.api("query", query=expression)["result"]
        return result

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as got:
                return bool(got.status == 200)
        except OSError:
            return False


def until(found: Callable[[], bool]) -> bool:
    limit = time.monotonic() + PATIENCE_S
    while not found():
        if time.monotonic() > limit:
            return False
        time.sleep(0.5)
    return True


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed: apt install prometheus")
    place = Path(tempfile.mkdtemp(prefix="mon-"))  # short: Ray's sockets lie in it
    yield place
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def driver(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Ray with dashboard, and a run at work on it."""
    port, client, dashboard = free_ports(3)
    ray = ServerProcess("ray", folder / "ray.log")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    quick = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_metrics_report_interval_ms": "2000"}
    environment = {**kept, **quick, "OMP_NUM_THREADS": "1"}
    targets = folder / "ray" / "prom_metrics_service_discovery.json"

    def listed() -> bool:
        return targets.exists() and bool(json.loads(targets.read_text())[0]["targets"])

    ray.start(
        [str(Path(sys.executable).parent / "ray"), "start", "--block", "--head", f"--port={port}", "--num-cpus=1",
         f"--temp-dir={folder / 'ray'}", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1",
         f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}", "--disable-usage-stats"],
        env=environment, cwd=ROOT, ready=listed,
    )  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.monitoring.driver", f"127.0.0.1:{port}"],
        env=environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n", ray.log.read_text(errors="replace")[-2000:]
        yield process
    finally:
        process.kill()
        process.communicate()
        ray.stop()


@pytest.fixture(scope="module")
def prometheus(folder: Path, driver: subprocess.Popen[bytes]) -> Iterator[Prometheus]:
    """The committed configuration, told where this Ray keeps its list of nodes and where the repository is."""
    text = CONFIG.read_text(encoding="utf-8")
    assert RAY_LIST in text
    config = yaml.safe_load(text.replace(RAY_LIST, str(folder / "ray" / "prom_metrics_service_discovery.json")))
    config["rule_files"] = [str((CONFIG.parent / file).resolve()) for file in config["rule_files"]]
    server = Prometheus(folder, config)
    server.start()
    yield server
    server.stop()


def test_it_finds_the_node_and_every_metric(prometheus: Prometheus) -> None:
    def missing() -> set[str]:
        return EXPORTED - set(prometheus.api("label/__name__/values"))

    assert until(lambda: not missing()), missing()
    targets = prometheus.api("targets")["activeTargets"]
    assert [target["labels"]["job"] for target in targets if target["health"] == "up"]
    (series,) = prometheus.query('ray_flts_epoch{run="at-work"}')
    assert series["metric"]["candidate"] == "gru"
    assert not [label for label in series["metric"] if label.startswith("otel_")]
    (written,) = prometheus.query('sum(ray_flts_storage_bytes_total{direction="written", place="disk"})')
    assert float(written["value"][1]) == 2000, "by the driver, and by a worker"


def test_it_answers_every_query_of_the_dashboard(prometheus: Prometheus) -> None:
    def unanswered() -> list[str]:
        return [title for title, expression in queries() if not prometheus.query(expression)]

    assert until(lambda: not unanswered()), unanswered()


def test_it_evaluates_every_rule_and_those_with_reason_fire(prometheus: Prometheus) -> None:
    def state() -> dict[str, dict[str, Any]]:
        return {rule["name"]: rule for group in prometheus.api("rules")["groups"] for rule in group["rules"]}

    everything = {rule["alert"] for file in (ALERTS, SERVICE_ALERTS) for rule in rules(file)}
    assert until(lambda: set(state()) == everything and all(rule["health"] == "ok" for rule in state().values())), [
        (name, rule.get("lastError")) for name, rule in state().items() if rule["health"] != "ok"
    ]
    at_once = {
        "FltsRunFailed",
        "FltsFitStalled",
        "FltsFitRestarts",
        "FltsCandidateFailed",
        "FltsProphetFitsFail",
        "FltsSweepTrialsFail",
    }
    later = {"FltsTrackerDown", "FltsStorageDown"}  # they wait for it to last
    calm = {"FltsDriverLost", "FltsStageNearDeadline", "FltsFitSilent", "FltsSweepStuck", "FltsDriverMemory"}

    def firing() -> set[str]:
        return {name for name, rule in state().items() if rule["state"] == "firing"}

    def excited() -> set[str]:
        return {name for name, rule in state().items() if rule["state"] != "inactive"}

    assert until(lambda: at_once <= firing() and later <= excited()), state()
    assert calm & excited() == set()
    (failed,) = prometheus.query('ALERTS{alertname="FltsRunFailed"}')
    assert (failed["metric"]["run"], failed["metric"]["exit_code"]) == ("failed", "51")


def test_a_run_that_ends_leaves_how_it_ended_and_nothing_else(
    prometheus: Prometheus, driver: subprocess.Popen[bytes]
) -> None:
    driver.communicate(timeout=60)  # closes its standard input
    assert driver.returncode == 0
    ended = 'ray_flts_run_ends_total{run="at-work", outcome="done", exit_code="0"}'
    assert until(lambda: bool(prometheus.query(ended)))
    assert until(lambda: not prometheus.query('{__name__=~"ray_flts_.+", __name__!~".+_total", run="at-work"}'))
    assert "FltsDriverLost" not in {a["labels"]["alertname"] for a in prometheus.api("alerts")["alerts"]}


def test_in_kubernetes_it_takes_the_metrics_ports_of_ray_pods_only(folder: Path) -> None:
    """Relabelling, done by a real Prometheus on what discovery of pods would give it."""
    config = yaml.safe_load(KUBERNETES_CONFIG.read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
    meta = "__meta_kubernetes_pod_"

    def pod(address: str, port: str, **labels: str) -> dict[str, Any]:
        name = {f"{meta}name": address, "__meta_kubernetes_namespace": "flts", f"{meta}container_port_name": port}
        return {
            "targets": [address],
            "labels": {**name, **{f"{meta}label_{key}": text for key, text in labels.items()}},
        }

    job["static_configs"] = [
        pod("127.0.0.1:1", "metrics", ray_io_cluster="flts", ray_io_group="headgroup"),
        pod("127.0.0.1:2", "dashboard", ray_io_cluster="flts", ray_io_group="headgroup"),
        pod("127.0.0.1:3", "metrics"),
        pod("127.0.0.1:4", "metrics", ray_io_cluster="flts", ray_io_group="workers"),
    ]
    place = folder / "kubernetes"
    place.mkdir()
    server = Prometheus(place, {"scrape_configs": [job]})
    server.start()
    try:
        assert until(lambda: bool(server.api("targets")["activeTargets"]))
        found = {t["labels"]["pod"]: t["labels"] for t in server.api("targets")["activeTargets"]}
        assert set(found) == {"127.0.0.1:1", "127.0.0.1:4"}
        labels = {name: found["127.0.0.1:4"][name] for name in ("namespace", "ray_io_cluster", "ray_io_group", "job")}
        assert labels == {"namespace": "flts", "ray_io_cluster": "flts", "ray_io_group": "workers", "job": "ray"}
    finally:
        server.stop()
