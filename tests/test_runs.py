"""Runs are held by one process, taken up again after a kill, and found when finished, newest last."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flts_ray.errors import BusyError, ConfigError, IntegrityError
from flts_ray.runs import RUN_FILE, START_FILE, finished_runs, is_alive, open_run, read_run, unfinished_runs
from tests.helpers import REPOSITORY

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


HOLD = """
import sys, time
from pathlib import Path
from flts_ray.runs import open_run
run = open_run(Path(sys.argv[1]), "same")
print(run.run_id, flush=True)
time.sleep(60)
"""


def test_a_run_that_was_killed_is_taken_up_again_and_a_living_one_is_not(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    assert holder.stdout is not None
    with holder.stdout as stream:
        name = stream.readline().strip()
        assert is_alive(tmp_path / "runs" / name)
        with open_run(tmp_path, "same") as beside:
            assert (beside.run_id != name, beside.attempt) == (True, 1)
            beside.discard()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert not is_alive(tmp_path / "runs" / name)
    with open_run(tmp_path, "same") as again:
        assert (again.run_id, again.attempt, again.resumed) == (name, 2, True)
    with open_run(tmp_path, "same") as third:
        assert (third.run_id, third.attempt) == (name, 3)


def test_other_settings_and_finished_runs_are_left_alone(tmp_path: Path) -> None:
    with open_run(tmp_path, "one") as one, open_run(tmp_path, "two") as two:
        assert one.run_id != two.run_id
    assert set(unfinished_runs(tmp_path)) == {one.run_id, two.run_id}
    (one.folder / RUN_FILE).write_text("{}")
    with open_run(tmp_path, "one") as fresh:
        assert fresh.run_id != one.run_id
        assert fresh.attempt == 1


def test_a_job_of_a_cluster_is_known_by_its_submission_id(tmp_path: Path) -> None:
    with open_run(tmp_path, "one", "raysubmit_1/../x") as run:
        assert run.folder.parent == tmp_path / "runs"
        with pytest.raises(BusyError, match="is at work in another process"):
            open_run(tmp_path, "one", "raysubmit_1/../x")
    (run.folder / RUN_FILE).write_text("{}")
    with open_run(tmp_path, "changed", "raysubmit_1/../x") as again:
        assert (again.run_id, again.attempt) == (run.run_id, 2)


def test_a_start_file_cut_off_by_a_kill_does_no_harm(tmp_path: Path) -> None:
    with open_run(tmp_path, "one", "job") as run:
        (run.folder / START_FILE).write_text("{")
    with open_run(tmp_path, "one", "job") as again:
        assert again.attempt == 1
