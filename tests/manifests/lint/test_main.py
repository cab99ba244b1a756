"""`python -m kuberay.lint`: what it prints, and its exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kuberay.lint.__main__ import main
from kuberay.lint.reading import read
from kuberay.lint.rules import RULES
from tests.manifests.lint.fixtures import HERE, good
from tests.manifests.renderings import combinations, text_of

pytestmark = pytest.mark.manifests

GOOD = str(HERE / "good.yaml")


@pytest.fixture
def bad(tmp_path: Path) -> str:
    path = tmp_path / "bad.yaml"
    path.write_text((HERE / "good.yaml").read_text(encoding="utf-8").replace("K8sJobMode", "K8sjobMode"))
    return str(path)


def test_good_manifests_are_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([GOOD, "--gate", "RayCronJob"]) == 0
    assert capsys.readouterr().out == f"{GOOD}: 0 findings by {len(RULES)} rules\n"


def test_findings_are_1_and_name_object_place_and_rule(bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([bad, "--gate", "RayCronJob"]) == 1
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("RayJob/job spec.submissionMode: 'K8sjobMode' is no mode")
    assert "[submission-mode: " in first


def test_json_is_one_document(bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([GOOD, bad, "--gate", "RayCronJob", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document[GOOD] == []
    assert {found["rule"] for found in document[bad]} == {"submission-mode"}


def test_what_exists_already_has_to_be_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = good()
    (standing,) = (item for item in tree["items"] if item["kind"] == "RayCluster")
    template = standing["spec"]["workerGroupSpecs"][0]["template"]["spec"]
    template["imagePullSecrets"] = [{"name": "regcred"}]
    template["containers"][0]["env"] = [
        {"name": "no_proxy", "valueFrom": {"configMapKeyRef": {"name": "proxy", "key": "without"}}}
    ]
    path = tmp_path / "own.yaml"
    path.write_text(json.dumps(tree), encoding="utf-8")
    arguments = [str(path), "--gate", "RayCronJob"]
    assert main(arguments) == 1
    assert "regcred" in capsys.readouterr().out
    assert main([*arguments, "--exists", "Secret/regcred", "--exists", "ConfigMap/proxy"]) == 0


def test_what_cannot_be_read_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.yaml")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_rules_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rules"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(RULES)


@pytest.mark.parametrize("combination", combinations())
def test_nothing_is_found_however_the_tree_is_put_together(combination: str) -> None:
    # What only an overlay brings, and overlays are among these: the namespace, the image, the policies.
    left_open = {"namespace", "immutable-image", "default-deny"} if combination.startswith("base") else set()
    rendering = read(text_of(combination), source=combination, gates=frozenset({"RayCronJob", "RayClusterMTLS"}))
    found = [finding for each in RULES for finding in each.findings(rendering)]
    assert [str(finding) for finding in found if finding.rule not in left_open] == []
