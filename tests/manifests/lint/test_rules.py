"""Every rule catches the faults that it is for, and none sees one in the good fixture."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import pytest

from kuberay.lint.reading import read
from kuberay.lint.rule import Finding
from kuberay.lint.rules import RULES
from tests.manifests.lint.fixtures import GATES, Broken, apply, broken, fine, good

pytestmark = pytest.mark.manifests


@pytest.fixture
def tree() -> dict[str, Any]:
    return good()


def findings(rendering: Any) -> list[Finding]:
    return [finding for rule in RULES for finding in rule.findings(rendering)]


def test_all_rules_are_silent_about_the_good_fixture(tree: dict[str, Any]) -> None:
    assert [str(finding) for finding in findings(read(json.dumps(tree), gates=GATES))] == []


@pytest.mark.parametrize("case", broken(), ids=str)
def test_a_fault_is_found_by_its_rule_and_by_no_other(case: Broken, tree: dict[str, Any]) -> None:
    assert {finding.rule for finding in findings(apply(case, tree))} == case.caught_by


@pytest.mark.parametrize("case", fine(), ids=str)
def test_what_a_person_may_want_is_no_fault(case: Broken, tree: dict[str, Any]) -> None:
    assert [str(finding) for finding in findings(apply(case, tree))] == []


def test_every_rule_has_a_broken_fixture_and_every_fixture_a_rule() -> None:
    assert {case.rule for case in broken()} == {rule.id for rule in RULES}


def test_a_rule_says_in_one_line_what_it_is_for_and_what_comes_of_it() -> None:
    assert [name for name, count in Counter(rule.id for rule in RULES).items() if count > 1] == []
    for rule in RULES:
        assert re.fullmatch(r"[a-z]+(-[a-z0-9]+)*", rule.id)
        assert rule.why
        assert "\n" not in rule.why
        assert rule.check.__doc__


def test_a_finding_says_where_what_and_what_to_do(tree: dict[str, Any]) -> None:
    case = next(case for case in broken() if case.rule == "submission-mode")
    (finding,) = findings(apply(case, tree))
    assert (finding.object, finding.path) == ("RayJob/job", "spec.submissionMode")
    assert "'K8sjobMode' is no mode" in finding.what
    assert "K8sJobMode" in finding.fix


def test_a_gate_that_is_on_is_no_fault(tree: dict[str, Any]) -> None:
    text = json.dumps(tree)
    assert {finding.rule for finding in findings(read(text))} == {"feature-gate"}
    assert findings(read(text, gates=GATES)) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.activeDeadlineSeconds", "1h"),
        ("spec.rayClusterSpec.workerGroupSpecs[0].replicas", "1"),
        ("spec.rayClusterSpec.headGroupSpec.rayStartParams", ["num-cpus"]),
        ("spec.rayClusterSpec.headGroupSpec.template.spec.containers[0].env", {"NAME": "value"}),
        ("spec.rayClusterSpec.headGroupSpec.template.spec.containers[0].envFrom", [None]),
        ("spec.rayClusterSpec.headGroupSpec.template.spec.containers", [None]),
        ("spec.rayClusterSpec.headGroupSpec.template.spec.volumes", {"name": "tmp"}),
        ("metadata.labels", ["flts"]),
    ],
)
def test_what_has_not_the_shape_of_its_schema_is_told_instead_of_a_traceback(
    path: str, value: Any, tree: dict[str, Any]
) -> None:
    found = findings(apply(Broken("", {"object": "RayJob/job", "set": {path: value}}), tree))
    assert found
    assert all(finding.what and finding.fix for finding in found)
