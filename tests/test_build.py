"""A program says which it is: its version and commit, and the build that it runs from."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from flts_ray.build import build_id, code_version
from flts_ray.cli import app
from flts_ray.config_layers import load_settings
from flts_ray.telemetry.logging import LOGGER, bound, configure, event, reset
from flts_ray.telemetry.origin import origin

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLTS_BUILD_ID", "flts-ray:7")
    monkeypatch.setenv("FLTS_GIT_COMMIT", "0123456789abcdef")


def test_the_code_version_names_the_commit_and_not_the_build() -> None:
    assert code_version().endswith("+0123456789ab")
    assert build_id() == "flts-ray:7"


def test_the_command_tells_both(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"flts-ray {code_version()}, build flts-ray:7\n"
    monkeypatch.delenv("FLTS_BUILD_ID")
    assert CliRunner().invoke(app, ["--version"]).output == f"flts-ray {code_version()}\n"


def test_the_build_is_no_setting() -> None:
    built = load_settings(environ={"FLTS_BUILD_ID": "x", "FLTS_GIT_COMMIT": "y"})
    assert built.settings.digest() == load_settings(environ={}).settings.digest()


def test_events_of_a_run_name_the_build_of_the_process_that_tells_them(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    try:
        with bound(run="r"):
            event("begun")
            assert "build" not in origin().fields, "a worker has its own"
    finally:
        reset()
        LOGGER.propagate = True
    assert json.loads(capsys.readouterr().err)["build"] == "flts-ray:7"
