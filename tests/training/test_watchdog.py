"""What makes progress is left alone, what makes none is told of and ended, by a clock that the test turns."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from flts_ray.telemetry.heartbeat import CONTROLLER, Beat, Pulse
from flts_ray.training.stacks import Look
from flts_ray.training.watchdog import Watchdog
from tests.training.fits import Event

pytestmark = pytest.mark.unit

STALL_S, START_S = 10.0, 60.0


def limit(stages: frozenset[str]) -> float:
    return STALL_S if stages else START_S


@dataclass
class Kennel:
    """A watchdog on a clock of its own, and what it did."""

    now: float = 1000.0
    killed: list[int] = field(default_factory=list)
    gone: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.pulse = Pulse(clock=lambda: self.now)
        self.dog = Watchdog(
            self.pulse,
            look=lambda beat: Look(beat["pid"] not in self.gone, f"stacks of {beat['pid']}"),
            kill=lambda beat: self.killed.append(beat["pid"]),
        )
        self.pulse.listeners.append(self.dog.hear)

    def beat(self, rank: int = 0, stage: str = "training", **fields: Any) -> None:
        beat: Beat = {"candidate": "gru", "rank": rank, "stage": stage, "pid": 100 + rank, "node_id": "n", **fields}
        self.pulse.beat(beat)

    def wait(self, seconds: float) -> None:
        """Let time pass, a look a second."""
        for _ in range(int(seconds)):
            self.now += 1
            self.dog.check()


@pytest.fixture
def kennel() -> Kennel:
    return Kennel()


def stalls(events: list[Event]) -> list[dict[str, Any]]:
    return [fields for name, fields in events if name == "stalled"]


def test_steps_are_progress_and_repeated_beats_are_none(kennel: Kennel, events: list[Event]) -> None:
    with kennel.dog.watch("gru", limit) as watch:
        for step in range(5):
            kennel.beat(step=step, epoch=1)
            kennel.wait(8)
        assert watch.stalls == []
        for _ in range(8):
            kennel.beat(step=4, epoch=1, windows_per_s=0.0)
            kennel.wait(1)
    assert kennel.killed == [100]
    (told,) = stalls(events)
    assert told == {
        "candidate": "gru",
        "rank": 0,
        "pid": 100,
        "node_id": "n",
        "stage": "training",
        "epoch": 1,
        "step": 4,
        "seconds": 11.0,
        "stacks": "stacks of 100",
    }
    assert watch.stalls == ["rank 0 (process 100) made no progress for 11 s (stage training, epoch 1, step 4)"]
    assert watch.unanswered == watch.stalls[0]


def test_workers_in_step_wait_for_each_other_so_one_that_moves_stands_for_all(kennel: Kennel) -> None:
    with kennel.dog.watch("gru", limit):
        kennel.beat(0, step=1)
        for step in range(4):
            kennel.beat(1, "checkpoint", step=step)
            kennel.wait(8)
        assert kennel.killed == []
        kennel.wait(8)
    assert sorted(kennel.killed) == [100, 101], "which of them holds up the others cannot be seen from outside"


def test_a_new_group_has_time_to_start_and_its_dead_are_forgotten(kennel: Kennel, events: list[Event]) -> None:
    with kennel.dog.watch("gru", limit) as watch:
        kennel.beat(CONTROLLER, "scheduling")
        kennel.beat(step=1)
        kennel.wait(9)
        kennel.beat(CONTROLLER, "restarting", reason="rank 0: killed")
        kennel.wait(50)
        kennel.beat(0, "loading", pid=200)
        kennel.wait(9)
        assert (kennel.killed, watch.stalls) == ([], [])
        kennel.wait(3)
        assert kennel.killed == [200]
        kennel.wait(50)
        kennel.beat(0, "loading", pid=300)
        assert watch.unanswered == ""
    assert len(stalls(events)) == 1


def test_a_controller_that_never_starts_workers_is_ended(kennel: Kennel, events: list[Event]) -> None:
    with kennel.dog.watch("gru", limit) as watch:
        kennel.wait(40)
        kennel.beat(CONTROLLER, "scheduling", pid=7)
        kennel.wait(59)
        assert kennel.killed == []
        kennel.wait(3)
        assert kennel.killed == [7]
        assert "its controller (process 7)" in watch.unanswered
        kennel.wait(61)
    assert [fields.get("pid") for fields in stalls(events)] == [7, None]
    assert "no process of this fit has been heard of" in stalls(events)[1]["stacks"]


def test_tasks_are_judged_each_for_itself_and_only_while_they_run(kennel: Kennel, events: list[Event]) -> None:
    running, given_up = [0, 1, 2, 3], list[int]()
    with kennel.dog.watch("gru", limit, ranks=lambda: running, on_stall=given_up.extend):
        for rank in range(3):  # the last one waits for a CPU
            kennel.beat(rank, "fitting", done=0)
        running.remove(0)
        kennel.gone.add(102)
        for done in range(4):
            kennel.wait(8)
            kennel.beat(3, "fitting", done=done)
        assert (given_up, kennel.killed) == ([1], [101])
        kennel.wait(20)
        assert given_up == [1, 3]
    assert [fields["rank"] for fields in stalls(events)] == [1, 3], "one whose process is gone has not hung"


def test_a_driver_that_was_held_up_blames_nobody(kennel: Kennel) -> None:
    with kennel.dog.watch("gru", limit):
        kennel.beat(step=1)
        kennel.wait(5)
        kennel.now += 500
        kennel.dog.check()
        kennel.wait(9)
        assert kennel.killed == []
        kennel.wait(3)
        assert kennel.killed == [100]


def test_a_fit_that_is_over_is_watched_no_more(kennel: Kennel) -> None:
    with kennel.dog.watch("gru", limit):
        kennel.beat(step=1)
    kennel.wait(100)
    with kennel.dog.watch("gru", limit):
        kennel.wait(59)
    assert kennel.killed == []


def test_the_thread_looks_by_itself_and_outlives_a_look_that_fails(events: list[Event]) -> None:
    looks = 0

    def look(beat: Beat) -> Look:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise OSError("no")
        return Look(True, "")

    killed: list[Beat] = []
    pulse = Pulse()
    with (
        Watchdog(pulse, look=look, kill=killed.append, every_s=0.01) as dog,
        dog.watch("gru", lambda stages: 0.02 if stages else 60.0),
    ):
        pulse.beat({"candidate": "gru", "rank": 0, "stage": "training", "pid": 1, "node_id": "n"})
        while not killed:
            time.sleep(0.01)
    assert "watchdog_failed" in [name for name, _ in events]
    assert pulse.listeners == []
