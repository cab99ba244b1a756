"""The night: the CronJob's pod submits the pipeline to the standing cluster, and is that job's by name."""

from __future__ import annotations

import pytest

from tests.harness.container import Container
from tests.harness.rayjob import RayJob
from tests.harness.system import START_S, System
from tests.harness.test_dev_overlay import runs_of

pytestmark = [pytest.mark.manifests, pytest.mark.service, pytest.mark.e2e, pytest.mark.timeout(2400)]


def test_the_night_trains_on_the_standing_cluster_under_the_name_of_its_job(
    system: System, insider: Container, pipeline: RayJob
) -> None:
    standing = system.standing("flts-cluster")
    standing.start()
    try:
        standing.wait_ready(START_S)
        night = system.night("flts-nightly", "29922910")
        night.wait(3 * START_S)
    finally:
        standing.stop()
    runs = {run["info"]["run_name"]: run["info"]["status"] for run in runs_of(system, insider)}
    assert runs[night.name] == "FINISHED"
    assert len(night.pods) == 1, night.story()
    (told,) = night.pods
    assert '"dataset_id"' in told.log("submit"), "the answer of the job is not the answer of its submitter"
