from __future__ import annotations

import ast
import json
import runpy
from pathlib import Path

import pytest

from flts_ray.cli_options import resolve
from flts_ray.errors import ConfigError
from jobs import entry
from jobs.entry import Job, run_job
from tests.helpers import REPOSITORY

pytestmark = pytest.mark.unit

MODULES = sorted((REPOSITORY / "jobs").glob("*.py"))


@pytest.mark.parametrize(
    ("job", "command"), [*((job, job.value) for job in Job if job is not Job.PIPELINE), (Job.PIPELINE, "run")]
)
def test_a_job_is_its_command_with_a_document_as_answer(
    job: Job, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[list[str]] = []
    monkeypatch.setattr(entry, "main", given.append)
    monkeypatch.setattr("sys.argv", ["x", "--home", "/h"])
    runpy.run_module(f"jobs.{job}", run_name="__main__")
    run_job(job, ["--force"])
    assert given == [[command, "--json", "--home", "/h"], [command, "--json", "--force"]]


def test_a_job_keeps_nothing_where_ray_removes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(None, None, {"run.home": "here"}).settings.run.home == "here"
    meta = {"metadata": {"job_submission_id": "r1"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(meta))
    assert resolve(None, None, {"run.home": "/there"}).settings.run.home == "/there"
    with pytest.raises(ConfigError, match=r"run\.home is 'here'"):
        resolve(None, None, {"run.home": "here"})


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_is_small_and_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    assert len(text.splitlines()) < (120 if path.stem in set(Job) else 200)
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert "serve" not in imported
    assert ("ray" in imported) == (path.stem == "client")
