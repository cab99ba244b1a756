"""A head that is lost with its node in training: the operator tries again, and nothing is left half-done."""

from __future__ import annotations

import json

import pytest

from tests.harness.container import Container
from tests.harness.rayjob import Attempt, RayJob
from tests.harness.services import wait_until
from tests.harness.system import START_S, System
from tests.harness.test_dev_overlay import run_states

pytestmark = [pytest.mark.manifests, pytest.mark.fault, pytest.mark.long, pytest.mark.timeout(2400)]


def epochs(attempt: Attempt) -> list[int]:
    """Epochs that a job has told of."""
    text = attempt.submitter.log("ray-job-submitter") if attempt.submitter else ""
    beats = [json.loads(line) for line in text.splitlines() if line.startswith("{") and '"stage": "epoch"' in line]
    return [beat["epoch"] for beat in beats]


def test_the_next_attempt_goes_on_and_nothing_is_left_running(
    system: System, insider: Container, pipeline: RayJob
) -> None:
    before = run_states(system, insider)
    job = system.job("flts-train")
    job.start()
    wait_until(lambda: bool(job.attempts) and max(epochs(job.attempts[0]), default=0) >= 3, 2 * START_S, job.story)
    first = job.attempts[0]
    assert first.ray.head is not None
    system.cluster.network.unplug(first.ray.head.name)

    job.wait(3 * START_S)
    assert first.why == "SubmissionFailed", "the operator gives up a job whose head it cannot ask, and tries no more"
    assert [attempt.status for attempt in job.attempts][1:] == ["SUCCEEDED"], job.story()
    assert min(epochs(job.attempts[1])) > 1, "the checkpoint of the first attempt was not used"
    after = run_states(system, insider)
    ended = [state for run, state in after.items() if run not in before]
    assert "FINISHED" in ended
    assert "RUNNING" not in ended
    assert len(ended) > ended.count("FINISHED"), f"the first attempt is not told apart: {ended}"
