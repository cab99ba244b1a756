"""A run of a RayJob is a copy, so that no apply undoes it."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from flts_ray.errors import ConfigError
from kuberay.lint.reading import read
from kuberay.lint.rules import RULES
from kuberay.lint.rules.names import LONGEST
from kuberay.start import copy_of, main
from tests.manifests.renderings import OVERLAYS, rendering_of
from tests.manifests.schemas import faults, why_no_crds

pytestmark = pytest.mark.manifests

NAMES = ("flts-pipeline", "flts-train", "flts-tune")
KUBECTL = """#!/bin/sh
echo "$@" >> calls
case $1 in
get) [ "$2" = rayjob/flts-train ] || { echo 'rayjobs.ray.io "x" not found' >&2; exit 1; }; cat job.json ;;
create) cat > created.json; echo rayjob.ray.io/flts-train-x7k2p ;;
esac
"""


def job(name: str, overlay: str = "prod") -> dict[str, Any]:
    found = rendering_of(overlay).find("RayJob", name)
    assert found is not None
    return {**found.tree, "status": {"jobId": "before"}}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kubectl that knows one RayJob."""
    (tmp_path / "kubectl").write_text(KUBECTL, encoding="utf-8")
    (tmp_path / "kubectl").chmod(stat.S_IRWXU)
    (tmp_path / "job.json").write_text(json.dumps(job("flts-train")), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_copies_are_valid_and_clean_and_start_at_once(overlay: str) -> None:
    copies = [copy_of(job(name, overlay), ["--set", "seed=7"]) for name in NAMES]
    for name, made in zip(NAMES, copies, strict=True):
        assert made["spec"]["suspend"] is False
        assert made["spec"]["entrypoint"] == f"{job(name)['spec']['entrypoint']} --set seed=7"
        assert "status" not in made
        assert len(made["metadata"]["generateName"]) + 5 <= LONGEST["RayJob"]
    named = [
        {**made, "metadata": {**made["metadata"], "name": f"{name}-x7k2p"}}
        for name, made in zip(NAMES, copies, strict=True)
    ]
    others = [found.tree for found in rendering_of(overlay).resources if found.kind != "RayJob"]
    rendering = read(yaml.safe_dump_all([*others, *named]))
    assert [str(found) for rule in RULES for found in rule.findings(rendering)] == []
    if missing := why_no_crds():
        pytest.skip(missing)
    assert [fault for made in named for fault in faults(made)] == []


@pytest.mark.parametrize("argument", ["$HOME", "a;b", "`x`", "a && b"])
def test_nothing_is_left_to_the_submitters_shell(argument: str) -> None:
    with pytest.raises(ConfigError, match="shell would read"):
        copy_of(job("flts-train"), [argument])


def test_the_applied_one_is_not_touched(cluster: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flts-train", "--namespace", "flts", "--", "--set", "training.epochs=3"]) == 0
    assert capsys.readouterr().out == "rayjob.ray.io/flts-train-x7k2p\n"
    assert (cluster / "calls").read_text(encoding="utf-8").splitlines() == [
        "get rayjob/flts-train --namespace flts --output=json",
        "create --namespace flts --filename=- --output=name",
    ]
    created = json.loads((cluster / "created.json").read_text(encoding="utf-8"))
    assert created["metadata"]["generateName"] == "flts-train-"
    assert created["spec"]["entrypoint"].endswith("--set training.epochs=3")


def test_what_kubectl_says_is_told(cluster: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flts-nothing"]) == 53
    assert 'error: kubectl get failed: rayjobs.ray.io "x" not found' in capsys.readouterr().err
