"""The probe tells from a run's files alone whether it is at work, hangs, is done, failed or was killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flts_ray.cli import app
from flts_ray.config import Settings
from flts_ray.errors import ConfigError
from flts_ray.health import START_S, Health, health, stalled_here
from flts_ray.runs import RunFolder, open_run
from flts_ray.telemetry.logging import LOGGER, configure, event, events_to

pytestmark = pytest.mark.unit

SETTINGS = Settings.model_validate(
    {
        "data": {"train": ("a.csv",)},
        "watchdog": {"stall_timeout_s": 100.0},
        "run": {"wait_for_nodes_s": 0.0},
        "storage": {"deadline_s": 20.0},
    }
)
LIMIT_S = START_S + 2 * 100 + 20


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    """A run that this process carries on."""
    with open_run(tmp_path, "settings") as run:
        yield run


@pytest.fixture(autouse=True)
def info(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    configure()
    yield
    for handler in LOGGER.handlers[:]:
        LOGGER.removeHandler(handler)
        handler.close()
    LOGGER.propagate = True


def tell(run: RunFolder, *events: tuple[str, dict[str, Any]]) -> None:
    """Write events as a run does."""
    with events_to(run.folder / "events.jsonl"):
        for name, fields in events:
            event(name, **fields)


def started(stage: str, limit_s: float | None = None) -> tuple[str, dict[str, Any]]:
    return "stage_started", {"stage": stage, "limit_s": limit_s}


def beat(**fields: Any) -> tuple[str, dict[str, Any]]:
    return "heartbeat", {"candidate": "gru", "rank": 0, "pid": 1, "stage": "training", **fields}


def look(tmp_path: Path, later_s: float = 0.0) -> Health:
    return health(tmp_path, None, SETTINGS, now_s=time.time() + later_s)


def test_no_run_is_no_trouble(tmp_path: Path) -> None:
    found = look(tmp_path)
    assert (found.state, found.healthy) == ("none", True)


def test_a_run_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run 'x'"):
        health(tmp_path, "x", SETTINGS)


def test_a_run_is_alive_while_it_gets_on_and_stalled_when_it_does_not(tmp_path: Path, run: RunFolder) -> None:
    tell(run, started("train"), beat(step=1))
    assert look(tmp_path).state == "alive"
    assert look(tmp_path, LIMIT_S - 10).state == "alive"
    found = look(tmp_path, LIMIT_S + 10)
    assert (found.state, found.healthy, found.stage, found.limit_s) == ("stalled", False, "train", LIMIT_S)
    assert run.run_id in found.sentence


def test_beats_that_repeat_themselves_are_no_progress(tmp_path: Path, run: RunFolder) -> None:
    file = run.folder / "events.jsonl"
    tell(run, started("train"), beat(step=1))
    line = json.loads(file.read_text().splitlines()[-1])
    now = time.time()
    with file.open("a") as stream:
        for later in range(0, 2 * int(LIMIT_S) + 100, 5):
            moment = time.gmtime(now + later)
            stream.write(json.dumps({**line, "ts": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", moment)}) + "\n")
    assert health(tmp_path, None, SETTINGS, now_s=now + LIMIT_S + 20).state == "stalled"
    assert health(tmp_path, None, SETTINGS, now_s=now + 2 * LIMIT_S + 90).state == "stalled"
    with file.open("a") as stream:
        moment = time.gmtime(now + 2 * LIMIT_S + 95)
        fresh = {**line, "step": 2, "ts": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", moment)}
        stream.write(json.dumps(fresh) + "\n")
    assert health(tmp_path, None, SETTINGS, now_s=now + 2 * LIMIT_S + 100).state == "alive"


def test_a_process_that_hangs_is_no_progress(tmp_path: Path, run: RunFolder) -> None:
    tell(run, started("train"), beat(step=1))
    file = run.folder / "events.jsonl"
    moment = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(time.time() + LIMIT_S))
    with file.open("a") as stream:
        stream.write(json.dumps({"ts": moment, "event": "stalled", "candidate": "gru"}) + "\n")
    assert look(tmp_path, LIMIT_S + 5).state == "stalled"


def test_a_stage_without_heartbeats_has_its_deadline(tmp_path: Path, run: RunFolder) -> None:
    tell(run, started("train"), beat(step=1), started("evaluate", 3_000.0))
    assert look(tmp_path, 2_900).state == "alive"
    assert look(tmp_path, 3_100).state == "stalled"


def test_waiting_for_another_run_is_no_stall(tmp_path: Path, run: RunFolder) -> None:
    waiting = ("candidate_waiting", {"candidate": "gru", "holder": "another"})
    tell(run, started("train", 9_000.0), waiting, ("heartbeat", {"candidate": "gru", "stage": "waiting"}))
    tell(run, ("heartbeat", {"candidate": "lstm", "rank": 0, "stage": "epoch", "epoch": 1}))
    assert look(tmp_path, LIMIT_S + 500).state == "alive"
    tell(run, ("fit_started", {"candidate": "gru"}))
    assert look(tmp_path, LIMIT_S + 500).state == "stalled"


def test_a_run_that_ended_is_done_or_failed(tmp_path: Path) -> None:
    with open_run(tmp_path, "settings") as run:
        tell(run, started("train"))
        tell(run, ("run_failed", {"exit_code": 51, "reason": "the store is away"}), ("tracking_pending", {}))
    found = look(tmp_path)
    assert (found.state, found.exit_code, found.healthy) == ("failed", 51, False)
    assert "the store is away" in found.sentence
    with open_run(tmp_path, "settings") as run:
        tell(run, ("run_resumed", {}), started("train"))
        assert look(tmp_path).state == "alive"
        (run.folder / "run.json").write_text("{}")
    found = look(tmp_path, 1e6)
    assert (found.state, found.healthy) == ("done", True)


def test_a_killed_process_is_seen_at_once(tmp_path: Path) -> None:
    with open_run(tmp_path, "settings") as run:
        tell(run, started("train"), beat(step=1))
    assert look(tmp_path).state == "dead"


def test_on_another_machine_silence_is_all_there_is_to_judge_by(tmp_path: Path) -> None:
    with open_run(tmp_path, "settings") as run:
        tell(run, started("train"), beat(step=1))
    start = run.folder / "started.json"
    start.write_text(json.dumps({**json.loads(start.read_text()), "host": "elsewhere"}))
    assert look(tmp_path).state == "alive"
    assert look(tmp_path, LIMIT_S + 10).state == "dead"


def test_a_damaged_line_is_passed_over(tmp_path: Path, run: RunFolder) -> None:
    tell(run, started("train"))
    with (run.folder / "events.jsonl").open("a") as stream:
        stream.write('{"ts": "2026-11-2\n[1]\n{"event": "x"}\n{"ts": "202')
    assert look(tmp_path).state == "alive"


def test_a_run_at_work_goes_before_a_later_one_that_ended(tmp_path: Path, run: RunFolder) -> None:
    tell(run, started("train"))
    with open_run(tmp_path, "others") as other:
        (other.folder / "run.json").write_text("{}")
    os.utime(other.folder / "started.json", (time.time() + 60, time.time() + 60))
    assert look(tmp_path).run_id == run.run_id


def stalled(tmp_path: Path, later_s: float = 0.0) -> Health:
    return stalled_here(tmp_path, SETTINGS, now_s=time.time() + later_s)


def began_at(folder: Path, host: str) -> None:
    start = folder / "started.json"
    start.write_text(json.dumps({**json.loads(start.read_text()), "host": host}))


def test_a_liveness_probe_fails_only_while_a_run_of_this_host_is_there_and_hangs(
    tmp_path: Path, run: RunFolder
) -> None:
    assert stalled_here(tmp_path / "not there yet", SETTINGS).state == "none"
    tell(run, started("train"), beat(step=1))
    assert stalled(tmp_path).state == "alive"
    found = stalled(tmp_path, LIMIT_S + 10)
    assert (found.state, found.healthy, found.run_id) == ("stalled", False, run.run_id)
    began_at(run.folder, "the pod before")
    found = stalled(tmp_path, LIMIT_S + 10)
    assert (found.state, found.healthy) == ("none", True)


def test_a_run_that_ended_or_died_is_none_of_a_liveness_probes_business(tmp_path: Path) -> None:
    with open_run(tmp_path, "failed") as run:
        tell(run, started("train"), ("run_failed", {"exit_code": 51, "reason": "the store is away"}))
    with open_run(tmp_path, "killed") as run:
        tell(run, started("train"), beat(step=1))
    assert health(tmp_path, run.run_id, SETTINGS).state == "dead"
    assert stalled(tmp_path, LIMIT_S + 10).state == "none"


def test_one_run_of_several_that_hangs_is_enough_even_one_taken_up_after_its_verdict(
    tmp_path: Path, run: RunFolder
) -> None:
    tell(run, started("train"), beat(step=1))
    (run.folder / "run.json").write_text("{}")
    with open_run(tmp_path, "another") as other:
        tell(other, started("evaluate", 10 * LIMIT_S))
        assert stalled(tmp_path, LIMIT_S + 10).run_id == run.run_id


def test_a_liveness_probe_as_a_command(tmp_path: Path, run: RunFolder) -> None:
    tell(run, started("train"), beat(step=1))
    call = ["health", "--stalled", "--home", str(tmp_path)]
    done = CliRunner().invoke(app, call)
    assert (done.exit_code, "is at work in stage train" in done.output) == (0, True)
    file = run.folder / "events.jsonl"
    file.write_text(file.read_text().replace('{"ts": "20', '{"ts": "19'))
    assert CliRunner().invoke(app, call).exit_code == 1
    assert isinstance(CliRunner().invoke(app, [*call, run.run_id]).exception, ConfigError)


def test_the_command_answers_with_a_sentence_or_json_and_its_exit_code(tmp_path: Path, run: RunFolder) -> None:
    tell(run, started("train"))
    call = ["health", "--home", str(tmp_path)]
    done = CliRunner().invoke(app, call)
    assert (done.exit_code, "is at work in stage train" in done.output) == (0, True)
    run.folder.joinpath(".lock").unlink()  # nobody holds a lock that is not there
    done = CliRunner().invoke(app, [*call, run.run_id, "--json"])
    document = json.loads(done.stdout)
    assert (done.exit_code, document["state"], document["healthy"]) == (1, "dead", False)


def test_a_probe_needs_neither_ray_nor_the_tracker(tmp_path: Path) -> None:
    code = (
        "import sys; from flts_ray.cli import main; sys.argv = ['flts', 'health', '--home', sys.argv[1]]\n"
        "try: main()\n"
        "finally: print(*sorted({'ray', 'torch', 'mlflow', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].strip() == ""
