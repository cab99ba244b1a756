"""The driver is killed or asked to end, at the worst places; the same command then goes on from what is done."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.desk import NETWORK, Desk, Started
from tests.faults.conftest import FAULT_SETTINGS, assert_same
from tests.faults.table import Records
from tests.helpers import Answer, sets

pytestmark = [pytest.mark.fault, pytest.mark.long, pytest.mark.timeout(600)]

EPOCHS = FAULT_SETTINGS["training__epochs"]


def command(desk: Desk) -> list[str]:
    values = {**NETWORK, **{key.replace("__", "."): value for key, value in FAULT_SETTINGS.items()}}
    return ["run", "--json", *desk.sources, "--home", str(desk.home), *sets(values)]


def running(desk: Desk) -> set[str]:
    return {status for found in desk.statuses().values() for status in found}


def datasets(desk: Desk) -> set[str]:
    return {str(p.relative_to(desk.home)) for p in (desk.home / "datasets").rglob("*") if p.is_file()}


def first_s(answer: Answer, **fields: Any) -> float:
    """Seconds from the start of a command to its first event with these fields."""
    events = answer.events
    found = next(e for e in events if all(e.get(key) == value for key, value in fields.items()))
    return seconds(found["ts"]) - seconds(events[0]["ts"])


def resumed_after(answer: Answer) -> int:
    """The epoch after which an attempt went on."""
    (epoch,) = [beat["epoch"] for beat in answer.named("heartbeat") if beat["stage"] == "resumed"]
    return int(epoch)


def seconds(ts: str) -> float:
    whole, _, rest = ts.rstrip("Z").partition(".")
    return time.mktime(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + int(rest) / 1000


def test_a_driver_killed_at_every_stage_goes_on_each_time(
    tmp_path: Path, undisturbed: dict[str, Any], faults: Records
) -> None:
    """Killed or asked to end seven times, one place after another: then it ends as if nothing had happened."""
    desk = Desk(tmp_path)

    def killed(module: str, name: str, **how: Any) -> Answer:
        with Started(command(desk), desk.folder, crash=f"crash.at({module!r}, {name!r}, **{how!r})") as started:
            answer = started.answer()
        assert answer.code == -signal.SIGKILL, answer.err[-3000:]
        return answer

    killed("flts_ray.data.preprocess", "_claim")
    assert [path for path in datasets(desk) if ".unfinished" in path], "nothing was staged yet"

    answer = killed("flts_ray.data.preprocess", "write_claim")
    assert answer.named("run_resumed")
    assert answer.named("leftovers_removed")
    assert not [path for path in datasets(desk) if path.endswith("claim.json")]
    faults.add(
        "driver_killed_preprocess",
        "what was staged is swept, preprocessed anew",
        first_s(answer, event="series_done"),
    )

    with Started(command(desk), desk.folder) as started:
        started.wait_for_epoch(4)
        started.kill()
        answer = started.answer()
    assert answer.named("preprocess_done")
    faults.add(
        "driver_killed_before_claim",
        "published anew, no reader ever saw half",
        first_s(answer, event="preprocess_done"),
    )

    after: list[int] = []
    for number, code, epoch in ((signal.SIGTERM, 143, 9), (signal.SIGINT, 130, 14)):
        with Started(command(desk), desk.folder) as started:
            started.wait_for_epoch(epoch)
            answer, alive = started.end(number)
        assert answer.code == code, answer.err[-3000:]
        assert answer.out == ""
        assert [line for line in answer.err.splitlines() if line and not line.startswith('{"ts"')] == [
            "interrupted: the same command goes on from what is done"
        ]
        assert alive == []
        assert desk.statuses() == {"parent": ["KILLED"], "gru": ["KILLED"]}
        assert desk.ask("leaderboard", "--json").code == 2, "a run that was cut off is not a finished run"
        assert answer.named("preprocess_skipped")
        after.append(resumed_after(answer))
        seconds_lost = first_s(answer, event="heartbeat", stage="resumed")
        if number is signal.SIGTERM:
            note = f"dataset kept, training goes on after epoch {after[-1]}"
            faults.add("driver_killed_training", note, seconds_lost)
        else:
            note = f"exit 143, runs KILLED, no process left; then on after epoch {after[-1]}"
            faults.add("sigterm", note, seconds_lost)

    answer = killed("flts_ray.pipeline", "evaluate")
    after.append(resumed_after(answer))
    assert 2 <= after[0] <= after[1] <= after[2] < EPOCHS, "an attempt began anew"
    epochs = [beat["epoch"] for beat in answer.named("heartbeat") if beat["stage"] == "epoch"]
    assert epochs == list(range(after[-1] + 1, EPOCHS + 1))

    answer = killed("flts_ray.tracking.registry", "ModelRegistry.promote")
    assert answer.named("candidate_reused")
    assert not answer.named("fit_started")
    faults.add(
        "driver_killed_evaluation",
        "dataset and candidate kept, scored again",
        first_s(answer, event="stage_done", stage="evaluate"),
    )

    answer = desk.run(**FAULT_SETTINGS)
    assert answer.code == 0, answer.err[-3000:]
    assert_same(answer.document, undisturbed)
    assert answer.document["attempt"] == 8
    assert desk.statuses() == {"parent": ["FINISHED"], "gru": ["FINISHED"]}
    assert desk.ask("champion", "alpha", "--json").document["champion"]["version"] == "1"
    faults.add("driver_killed_promotion", "one version, the alias set once", first_s(answer, event="promotion_decided"))
