"""What is under test: rules, dashboard, configurations; and the metrics that they may speak of."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from flts_ray.telemetry.figures import STORAGE_BYTES
from flts_ray.telemetry.run_figures import FIGURES
from serve.instruments import FIGURES as SERVICE_FIGURES

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "kuberay" / "monitoring"
ALERTS, SERVICE_ALERTS = FOLDER / "alerts.yml", ROOT / "serve" / "alerts.yml"
CONFIG, KUBERNETES_CONFIG = FOLDER / "prometheus.yml", FOLDER / "prometheus-kubernetes.yml"
DASHBOARD = FOLDER / "dashboard.json"
CASES = Path(__file__).with_name("alerts_cases.yml")

OF_RUNS = (*FIGURES, STORAGE_BYTES)
EXPORTED = {name for figure in (*OF_RUNS, *SERVICE_FIGURES) for name in figure.exported}


def rules(file: Path = ALERTS) -> list[dict[str, Any]]:
    groups = yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    """Title and expression of every query of the dashboard, as Grafana sends it when all runs are chosen."""
    for panel in panels():
        for target in panel["targets"]:
            yield f"{panel['title']} ({target['refId']})", target["expr"].replace("$run", ".*")


def named(text: str) -> set[str]:
    """Our metrics that a text speaks of."""
    return set(re.findall(r"\bray_flts_\w+", text))
