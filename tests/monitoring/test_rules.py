"""Rules and dashboard speak of what is exported, the rules fire when they should, and the runbook has all of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from flts_ray import errors
from flts_ray.evaluation.promotion import EXIT_CODES
from tests.monitoring.files import (
    ALERTS,
    CASES,
    CONFIG,
    DASHBOARD,
    EXPORTED,
    OF_RUNS,
    ROOT,
    SERVICE_ALERTS,
    named,
    panels,
    queries,
    rules,
)

pytestmark = pytest.mark.unit

RUNBOOK = ROOT / "docs" / "operations.md"


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed: apt install prometheus")
    return found


def ok(*command: str | Path, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_watch_what_is_exported() -> None:
    for rule in rules():
        assert named(rule["expr"]), rule["alert"]
        assert named(rule["expr"]) - EXPORTED == set(), rule["alert"]
        assert named(str(rule["annotations"])) - EXPORTED == set(), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "action"}


def test_every_figure_of_a_run_is_on_the_dashboard() -> None:
    shown = {name for _, expression in queries() for name in named(expression)}
    assert shown - EXPORTED == set()
    told = {name for figure in OF_RUNS for name in figure.exported}
    assert told - shown == {"ray_flts_run_seen_timestamp_seconds"}, "that one fills the list of runs"
    assert "ray_flts_run_seen_timestamp_seconds" in DASHBOARD.read_text(encoding="utf-8")


def test_the_dashboard_can_be_imported() -> None:
    document = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert "id" not in document, "an id of its own would overwrite another dashboard"
    ids = [panel["id"] for panel in document["panels"]]
    assert len(ids) == len(set(ids))
    variables = {variable["name"] for variable in document["templating"]["list"]}
    assert variables == {"datasource", "run"}
    for panel in panels():
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


def test_rules_fire_when_they_should_and_only_then(promtool: str, tmp_path: Path) -> None:
    for file in (ALERTS, CASES):
        shutil.copy(file, tmp_path)
    ok(promtool, "check", "rules", ALERTS.name, cwd=tmp_path)
    ok(promtool, "test", "rules", CASES.name, cwd=tmp_path)
    cases = [
        case for test in yaml.safe_load(CASES.read_text(encoding="utf-8"))["tests"] for case in test["alert_rule_test"]
    ]
    alerts = {rule["alert"] for rule in rules()}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == alerts


def test_the_configuration_finds_both_files_of_rules(promtool: str) -> None:
    ok(promtool, "check", "config", CONFIG, cwd=CONFIG.parent)
    files = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["rule_files"]
    assert {(CONFIG.parent / file).resolve() for file in files} == {ALERTS, SERVICE_ALERTS}


def test_the_runbook_has_every_alert_figure_and_exit_code() -> None:
    text = RUNBOOK.read_text(encoding="utf-8")
    alerts = [rule["alert"] for file in (ALERTS, SERVICE_ALERTS) for rule in rules(file)]
    assert [alert for alert in alerts if f"`{alert}`" not in text] == []
    assert [figure.name for figure in OF_RUNS if f"`ray_{figure.name}" not in text] == []
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.FltsError)]
    codes = {kind.exit_code for kind in kinds} | set(EXIT_CODES.values())
    ranges = re.findall(r"\*\*(\d+)(?: to (\d+))?\*\*", text)
    told = {code for low, high in ranges for code in range(int(low), int(high or low) + 1)}
    assert codes - {0} - told == set()
