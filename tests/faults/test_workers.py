"""Processes that do the fitting die, hang or raise: the work is done again from the last checkpoint, or refused."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flts_ray.errors import StalledError
from flts_ray.training import prophet_tasks, trainer
from tests.desk import Desk, scores
from tests.faults.conftest import assert_same, assert_tracked
from tests.faults.here import Event, captured, named, run_here, when
from tests.faults.table import Records

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]

HANG_STEP = 200
STALL_S = 5
STATIONS = ("s0", "s1", "s2")


def until(events: list[Event], begin: Event, name: str, **fields: Any) -> float:
    """Seconds from one event to the first later one of this name."""
    return next(e for e in named(events, name, **fields) if e["at_s"] > begin["at_s"])["at_s"] - begin["at_s"]


def killing(struck: list[float]) -> Callable[[Event], None]:
    """Kills the worker that sent a heartbeat, in its next epoch."""

    def strike(beat: Event) -> None:
        time.sleep(0.1)
        os.kill(beat["pid"], signal.SIGKILL)
        struck.append(time.time())

    return strike


def test_one_of_two_killed_workers_is_replaced(
    tmp_path: Path, local_ray: None, undisturbed: dict[str, Any], faults: Records
) -> None:
    struck: list[float] = []
    desk = Desk(tmp_path)
    with captured() as events, when(killing(struck), "heartbeat", stage="checkpoint", rank=1, epoch=4):
        result = run_here(desk, training__workers=2)
    (resumed,) = named(events, "heartbeat", stage="resumed")
    assert resumed["epoch"] >= 3
    for mine, theirs in zip(scores(result.document()), scores(undisturbed), strict=True):
        # two workers add their gradients up in another order
        assert mine["rmse_bits"] == pytest.approx(theirs["rmse_bits"], rel=1e-4)
    assert_tracked(desk)
    faults.add("worker_killed_2", f"on after epoch {resumed['epoch']}", resumed["at_s"] - struck[0])


def hang(monkeypatch: pytest.MonkeyPatch, marker: Path) -> None:
    """Let training hang in Python at one step, as often as the marker has letters."""
    real = trainer.train_worker

    def body(config: dict[str, Any]) -> dict[str, Any]:
        from flts_ray.training import worker

        fit = worker.fit_recurrent

        def hanging(*args: Any, on_step: Callable[[int], None], **kwargs: Any) -> Any:
            def step(number: int) -> None:
                on_step(number)
                if number >= HANG_STEP and (left := marker.read_text()):
                    marker.write_text(left[1:])
                    stuck_for_ever()

            return fit(*args, on_step=step, **kwargs)

        def stuck_for_ever() -> None:
            time.sleep(3600)

        worker.fit_recurrent = hanging
        return real(config)

    monkeypatch.setattr(trainer, "train_worker", body)


def test_a_killed_worker_is_replaced_and_a_hung_one_is_found_and_shown(
    tmp_path: Path, local_ray: None, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, faults: Records
) -> None:
    """Both in one training, one after the other."""
    marker = tmp_path / "hangs"
    marker.write_text("x")
    hang(monkeypatch, marker)
    struck: list[float] = []
    kill = killing(struck)

    def kill_and_let_the_next_hang(beat: Event) -> None:
        kill(beat)
        marker.write_text("x")  # again: on a busy machine the first worker has come to it before it is killed

    desk = Desk(tmp_path)
    with captured() as events, when(kill_and_let_the_next_hang, "heartbeat", stage="epoch", epoch=3):
        result = run_here(desk, watchdog__stall_timeout_s=STALL_S)
    first, second = named(events, "heartbeat", stage="resumed")
    (stalled,) = named(events, "stalled")
    assert first["at_s"] < stalled["at_s"] < second["at_s"]
    assert first["epoch"] >= 2
    assert stalled["candidate"] == "gru"
    assert "stuck_for_ever" in stalled["stacks"]
    assert_same(result.document(), undisturbed)
    assert_tracked(desk)
    faults.add("worker_killed_1", f"on after epoch {first['epoch']}", first["at_s"] - struck[0])
    faults.add(
        "stalled_training",
        f"found after {stalled['seconds']:.0f} s ({STALL_S} allowed), stacks name the line, on after epoch "
        f"{second['epoch']}",
        second["at_s"] - stalled["at_s"],
    )


def test_a_worker_that_hangs_again_and_again_fails_and_what_it_left_is_checked_before_it_is_used(
    tmp_path: Path, local_ray: None, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, faults: Records
) -> None:
    marker = tmp_path / "hangs"
    marker.write_text("xxx")
    hang(monkeypatch, marker)
    desk = Desk(tmp_path)
    result = run_here(desk, watchdog__stall_timeout_s=STALL_S, training__max_failures=1)
    assert marker.read_text() == "x", "restarted once, not more"
    assert (result.exit_code, result.verdict.state) == (StalledError.exit_code, "missing_candidate")
    assert any("no progress" in reason for reason in result.verdict.reasons)
    assert desk.statuses() == {"parent": ["FINISHED"], "gru": ["FAILED"]}
    faults.add("stalled_for_good", f"exit {result.exit_code} after one restart; the child run says why")

    marker.write_text("")
    newest = sorted((desk.home / "checkpoints").glob("gru-*/epoch_*"))[-1]
    (weights,) = newest.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    with captured() as events:
        result = run_here(desk)
    (damaged,) = named(events, "heartbeat", stage="checkpoint_damaged")
    (resumed,) = named(events, "heartbeat", stage="resumed")
    assert (damaged["checkpoint"], resumed["checkpoint"] < newest.name) == (newest.name, True)
    assert_same(result.document(), undisturbed)
    faults.add(
        "checkpoint_truncated",
        f"refused by its digest, on after epoch {resumed['epoch']}",
        resumed["at_s"] - events[0]["at_s"],
    )


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> dict[str, Any]:
    """Prophet on three stations, undisturbed."""
    return run_here(Desk(tmp_path_factory.mktemp("quiet"), STATIONS), candidates="prophet").document()


def disturb_prophet(monkeypatch: pytest.MonkeyPatch, marker: Path, act: str) -> None:
    """Let the fit of one station raise or hang, as often as the marker has letters."""
    real = prophet_tasks._fit

    def disturbed(job: Any, **rest: Any) -> Any:
        if job.series == "s1" and (left := marker.read_text()):
            marker.write_text(left[1:])
            if act == "raise":
                raise RuntimeError("CmdStan gave up")
            stuck_for_ever()
        return real(job, **rest)

    def stuck_for_ever() -> None:
        time.sleep(3600)

    monkeypatch.setattr(prophet_tasks, "_fit", disturbed)


def test_a_hung_prophet_fit_is_found_shown_and_done_again(
    tmp_path: Path, quiet: dict[str, Any], monkeypatch: pytest.MonkeyPatch, faults: Records
) -> None:
    marker = tmp_path / "hangs"
    marker.write_text("x")
    disturb_prophet(monkeypatch, marker, "hang")
    with captured() as events:
        result = run_here(Desk(tmp_path, STATIONS), candidates="prophet", watchdog__stall_timeout_s=STALL_S)
    (stalled,) = named(events, "stalled")
    assert "stuck_for_ever" in stalled["stacks"]
    assert_same(result.document(), quiet)
    faults.add("stalled_prophet", "found, stacks name the line, done again", until(events, stalled, "fit_done"))


def test_a_prophet_fit_that_raises_once_is_done_again(
    tmp_path: Path, quiet: dict[str, Any], monkeypatch: pytest.MonkeyPatch, faults: Records
) -> None:
    marker = tmp_path / "raises"
    marker.write_text("x")
    disturb_prophet(monkeypatch, marker, "raise")
    with captured() as events:
        result = run_here(Desk(tmp_path, STATIONS), candidates="prophet")
    (retry,) = named(events, "prophet_retry")
    assert (retry["series"], retry["reason"]) == ("s1", "RuntimeError: CmdStan gave up")
    assert_same(result.document(), quiet)
    faults.add("prophet_raises_once", "that fit alone was done again", until(events, retry, "fit_done"))


def test_a_prophet_fit_that_always_raises_is_a_row_with_its_reason_and_the_others_go_on(
    tmp_path: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch, faults: Records
) -> None:
    marker = tmp_path / "raises"
    marker.write_text("xxxx")
    disturb_prophet(monkeypatch, marker, "raise")
    desk = Desk(tmp_path, STATIONS)
    result = run_here(desk, candidates="[gru,prophet]", training__epochs=2)
    assert any("prophet is left out" in reason and "CmdStan gave up" in reason for reason in result.verdict.reasons)
    assert result.verdict.champion != "prophet"
    row, pooled = result.leaderboard.row("prophet", series="s1", target="down"), result.leaderboard.overall("prophet")
    assert row is not None
    assert pooled is not None
    assert (row.n, pooled.composite) == (0, None)
    assert "CmdStan gave up" in row.note
    gru = result.leaderboard.overall("gru")
    assert gru is not None
    assert gru.composite is not None
    assert marker.read_text() == "xx", "tried twice"
    assert desk.statuses() == {"parent": ["FINISHED"], "gru": ["FINISHED"], "prophet": ["FINISHED"]}
    faults.add("prophet_raises", "a row with its reason; GRU scored; Prophet cannot win without that station")
