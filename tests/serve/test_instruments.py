"""Every figure reaches the page that Prometheus reads, and every alert watches a figure that exists."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from serve.instruments import FIGURES, NullInstruments, RayInstruments
from serve.service import Instruments

ROOT = Path(__file__).resolve().parents[2]
ALERTS = ROOT / "serve" / "alerts.yml"
CASES = Path(__file__).with_name("alerts_cases.yml")
PATIENCE_S = 60.0

EXPORTED = {name for figure in FIGURES for name in figure.exported}
OUR_LABELS = {"le", *(tag for figure in FIGURES for tag in figure.tags)}


def exercise(instruments: Instruments) -> None:
    """Every call once, and those that must do nothing."""
    for seconds in (0.004, 0.3, 12.0):
        instruments.request(route="/v1/forecast", outcome="ok", seconds=seconds)
    instruments.request(route="/predict", outcome="invalid", seconds=0.001)
    instruments.batch(size=3, waited_s=0.002, compute_s=0.02)
    instruments.queue(5)
    instruments.model(wanted="", loaded="")
    instruments.model(wanted="8", loaded="7")
    instruments.swap(outcome="ok", lag_s=2.0)
    instruments.swap(outcome="failed", lag_s=9.0)
    instruments.predictions_lost(0)
    instruments.predictions_lost(40)
    instruments.drift(series="PobleSec", column="down", psi=0.125)
    for step, coverage in ((1, 0.875), (2, 0.5), (2, math.nan)):
        instruments.residuals(
            series="PobleSec", target="down", step=step, bias_std=-0.25, spread_ratio=1.5, coverage=coverage
        )


@pytest.mark.unit
def test_alerts_watch_what_is_exported() -> None:
    rules = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"][0]["rules"]
    watched = {name for rule in rules for name in re.findall(r"\bray_flts_\w+", rule["expr"])}
    assert len(watched) >= 7
    assert watched - EXPORTED == set()
    advised = {name for rule in rules for name in re.findall(r"\bray_flts_\w+", str(rule["annotations"]))}
    bases = {f"ray_{figure.name}" for figure in FIGURES}
    assert advised - EXPORTED - bases == set()


@pytest.mark.unit
def test_alerts_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed: apt install prometheus")
    for file in (ALERTS, CASES):
        shutil.copy(file, tmp_path)
    for command in (["check", "rules", ALERTS.name], ["test", "rules", CASES.name]):
        done = subprocess.run(["promtool", *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    alerts = {rule["alert"] for rule in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"][0]["rules"]}
    tried = {
        case["alertname"]
        for test in yaml.safe_load(CASES.read_text(encoding="utf-8"))["tests"]
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert tried == alerts


@pytest.mark.unit
def test_the_documentation_lists_every_figure() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))
    assert [figure.name for figure in FIGURES if f"`ray_{figure.name}" not in text] == []


@pytest.mark.unit
def test_without_ray_nothing_happens() -> None:
    exercise(NullInstruments())


@pytest.mark.ray
def test_figures_reach_the_page_of_the_metrics_agent(local_ray: None) -> None:
    import ray

    exercise(RayInstruments("replica-1"))
    (node,) = ray.nodes()
    page = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    found: dict[str, float] = {}
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and _names(found) != EXPORTED:
        time.sleep(0.5)
        with urllib.request.urlopen(page, timeout=10) as answer:
            found = _ours(answer.read().decode())
    assert {
        "ray_flts_requests_total outcome=ok route=/v1/forecast": 3,
        "ray_flts_requests_total outcome=invalid route=/predict": 1,
        "ray_flts_request_seconds_bucket le=0.005 route=/v1/forecast": 1,
        "ray_flts_request_seconds_bucket le=10.0 route=/v1/forecast": 2,
        "ray_flts_request_seconds_count route=/v1/forecast": 3,
        "ray_flts_batch_size_bucket le=2.0": 0,
        "ray_flts_batch_size_bucket le=4.0": 1,
        "ray_flts_queue_depth": 5,
        "ray_flts_model_version state=wanted": 8,
        "ray_flts_model_version state=loaded": 7,
        "ray_flts_model_skew": 1,
        "ray_flts_swaps_total outcome=ok": 1,
        "ray_flts_swaps_total outcome=failed": 1,
        "ray_flts_swap_lag_seconds_count": 1,
        "ray_flts_predictions_lost_total": 40,
        "ray_flts_drift_psi column=down series=PobleSec": 0.125,
        "ray_flts_residual_bias_std series=PobleSec step=1 target=down": -0.25,
        "ray_flts_residual_spread_ratio series=PobleSec step=1 target=down": 1.5,
        "ray_flts_interval_coverage series=PobleSec step=1 target=down": 0.875,
    }.items() <= found.items()
    assert "ray_flts_residual_bias_std series=PobleSec step=2 target=down" in found
    assert "ray_flts_interval_coverage series=PobleSec step=2 target=down" not in found, "what is not known ends"
    assert _names(found) == EXPORTED


def _ours(page: str) -> dict[str, float]:
    """Our series of replica-1: name and labels, sorted, without those that Ray adds; and their values."""
    series = {}
    for line in page.splitlines():
        match = re.fullmatch(r"(ray_flts_\w+)\{(.*)\} (\S+)", line)
        if match and 'replica="replica-1"' in line:
            labels = dict(re.findall(r'(\w+)="([^"]*)"', match[2]))
            kept = [f"{key}={labels[key]}" for key in sorted(labels) if key in OUR_LABELS]
            series[" ".join([match[1], *kept])] = float(match[3])
    return series


def _names(found: dict[str, float]) -> set[str]:
    return {key.split(" ")[0] for key in found}
