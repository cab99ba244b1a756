"""A child run a trial: opened when it begins, fed once with each epoch, ended as the trial ended."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from flts_ray.tracking.run import TrackedRun
from flts_ray.tracking.trial_runs import TrialRuns
from tests.tracking.test_candidate_runs import Child, Parent

pytestmark = pytest.mark.unit


@dataclass(frozen=True)
class Trial:
    number: int = 1
    key: str = "abc"
    params: Any = None
    state: str = "running"
    reason: str = ""
    history: tuple[dict[str, float], ...] = ()

    @property
    def best(self) -> float | None:
        return min((metrics["val_composite"] for metrics in self.history), default=None)


@pytest.fixture
def parent(monkeypatch: pytest.MonkeyPatch) -> Parent:
    monkeypatch.setattr(Child, "log_params", lambda child, params: child.tags.update(params), raising=False)
    return Parent()


def runs_of(parent: Parent) -> TrialRuns:
    return TrialRuns(cast(TrackedRun, parent))


def epochs(*scores: float) -> tuple[dict[str, float], ...]:
    return tuple({"epoch": i + 1.0, "val_composite": score, "lr": 0.1} for i, score in enumerate(scores))


TRIAL = Trial(params={"cell": "gru", "windows.lookback": 20})


def test_each_epoch_is_logged_once_and_the_run_ends_with_its_trial(parent: Parent) -> None:
    with runs_of(parent) as runs:
        runs.take(TRIAL)
        runs.take(replace(TRIAL, history=epochs(0.3)))
        runs.take(replace(TRIAL, history=epochs(0.3, 0.2)))
        assert parent.statuses() == {"trial-abc": "RUNNING"}
        runs.take(replace(TRIAL, history=epochs(0.3, 0.2), state="finished"))
        assert parent.statuses() == {"trial-abc": "FINISHED"}
    child = parent.children["trial-abc"]
    steps = [(step, values["val_composite"]) for step, values, _ in child.logged if "val_composite" in values]
    assert steps == [(1, 0.3), (2, 0.2)]
    assert child.logged[-1][1] == {"best_val_composite": 0.2}
    assert child.tags["windows.lookback"] == 20
    assert (child.tags["state"], child.tags["stopped_early"]) == ("finished", "false")


def test_a_stopped_trial_is_finished_and_says_so(parent: Parent) -> None:
    with runs_of(parent) as runs:
        runs.take(replace(TRIAL, history=epochs(0.3), state="stopped"))
    assert parent.statuses() == {"trial-abc": "FINISHED"}
    assert parent.children["trial-abc"].tags["stopped_early"] == "true"


def test_a_failed_trial_is_failed_with_its_reason_and_takes_no_other_with_it(parent: Parent) -> None:
    with runs_of(parent) as runs:
        runs.take(TRIAL)
        runs.take(replace(TRIAL, key="def", number=2))
        runs.take(replace(TRIAL, state="failed", reason="it diverged"))
        assert parent.statuses() == {"trial-abc": "FAILED", "trial-def": "RUNNING"}
    assert parent.children["trial-abc"].tags["failure"] == "it diverged"
    assert parent.statuses()["trial-def"] == "FINISHED"


def test_what_is_open_when_the_sweep_is_interrupted_is_killed(parent: Parent) -> None:
    with pytest.raises(KeyboardInterrupt), runs_of(parent) as runs:
        runs.take(TRIAL)
        raise KeyboardInterrupt
    assert parent.statuses() == {"trial-abc": "KILLED"}
