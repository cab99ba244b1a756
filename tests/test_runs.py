"""Finished runs are found again, newest last; unfinished ones are not runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from flts_ray.errors import ConfigError, IntegrityError
from flts_ray.runs import RUN_FILE, finished_runs, read_run

pytestmark = pytest.mark.unit


def finish(home: Path, run_id: str, *, at_s: int, text: str = "") -> Path:
    file = home / "runs" / run_id / RUN_FILE
    file.parent.mkdir(parents=True)
    file.write_text(text or json.dumps({"run_id": run_id}))
    os.utime(file, (at_s, at_s))
    return file


def test_runs_are_listed_in_the_order_they_ended(tmp_path: Path) -> None:
    finish(tmp_path, "b", at_s=100)
    finish(tmp_path, "a", at_s=200)
    (tmp_path / "runs" / "cut-off").mkdir()
    assert finished_runs(tmp_path) == ["b", "a"]


def test_the_latest_is_read_unless_one_is_named(tmp_path: Path) -> None:
    finish(tmp_path, "b", at_s=100)
    finish(tmp_path, "a", at_s=200)
    assert read_run(tmp_path, None) == {"run_id": "a"}
    assert read_run(tmp_path, "b") == {"run_id": "b"}


def test_no_run_and_an_unknown_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no finished run in .*start one with `flts run`"):
        read_run(tmp_path, None)
    finish(tmp_path, "a", at_s=1)
    for name in ("b", "..", ""):
        with pytest.raises(ConfigError, match=r"the latest is a$"):
            read_run(tmp_path, name)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    finish(tmp_path, "a", at_s=1, text="{")
    with pytest.raises(IntegrityError, match="cannot be read"):
        read_run(tmp_path, "a")
