"""The dev overlay, brought up once for all tests of the harness, and gone after the last of them.

A dozen servers and two Ray clusters that nobody uses any more would slow down whatever is tested next.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.harness.container import Container
from tests.harness.network import why_no_pods
from tests.harness.rayjob import RayJob
from tests.harness.rayservice import RayService
from tests.harness.system import START_S, System
from tests.services import why_no_postgres

PIPELINE_S = 1500.0


@pytest.fixture(scope="session")
def pods() -> None:
    """Skips where no pods can be started."""
    if reason := why_no_pods() or why_no_postgres():
        pytest.skip(reason)


@pytest.fixture(scope="package")
def system(pods: None) -> Iterator[System]:
    """Everything of the overlay but Ray's objects, ready; FLTS_KEEP_PODS=1 keeps the pods' logs and volumes."""
    system = System()
    try:
        system.start()
        system.wait_ready()
        yield system
    finally:
        system.cluster.stop(keep=bool(os.environ.get("FLTS_KEEP_PODS")))


@pytest.fixture(scope="package")
def client(system: System) -> Container:
    """A pod that the NetworkPolicies let through to the service, and only there."""
    return system.cluster.client("client", {"flts.io/client": "true"})


@pytest.fixture(scope="package")
def insider(system: System) -> Container:
    """A pod that they let through to store and tracker, as those of the pipeline."""
    return system.cluster.client("insider", {"app.kubernetes.io/component": "pipeline"})


@pytest.fixture(scope="package")
def pipeline(system: System) -> RayJob:
    """The pipeline's RayJob, after it has succeeded."""
    job = system.job("flts-pipeline")
    job.start()
    job.wait(PIPELINE_S)
    return job


@pytest.fixture(scope="package")
def forecast(system: System, pipeline: RayJob) -> Iterator[RayService]:
    """The RayService, after its readiness probes have passed."""
    service = system.service("flts-forecast")
    service.start(2 * START_S)
    service.wait_answering(START_S)
    yield service
    assert service.ray is not None
    service.ray.stop()
