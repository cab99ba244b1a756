"""What is changed while clients ask: the configuration inside the cluster, and the cluster itself. No request fails."""

from __future__ import annotations

import copy
import threading
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field

import pytest
import yaml

from tests.harness.rayservice import RayService
from tests.harness.services import wait_until
from tests.harness.system import START_S, System

pytestmark = [pytest.mark.manifests, pytest.mark.service, pytest.mark.e2e, pytest.mark.timeout(2400)]

PAUSE_S = 0.05


@dataclass
class Clients:
    """Asks for something again and again, each time on a connection of its own, until it is told to stop.

    Attributes:
        url: What.
        token: With which.
        answers: How often which status; the reason where there was no answer.
    """

    url: str
    token: str
    answers: Counter[str] = field(default_factory=Counter)
    _enough: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Clients:
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join(30)

    def _ask(self) -> None:
        request = urllib.request.Request(self.url, headers={"Authorization": f"Bearer {self.token}"})
        while not self._enough.wait(PAUSE_S):
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    self.answers[str(answer.status)] += 1
            except OSError as error:
                self.answers[str(error)] += 1


def clients(system: System, forecast: RayService) -> Clients:
    address = system.cluster.objects.get("Service", "flts-forecast-serve-svc")["spec"]["clusterIP"]
    return Clients(f"http://{address}:8000/v1/model", system.secret("serve-token", "token"))


def test_a_change_of_the_configuration_is_rolled_and_fails_no_request(system: System, forecast: RayService) -> None:
    config = yaml.safe_load(forecast.spec["serveConfigV2"])
    config["applications"][0]["args"]["set"]["serve.retry_after_s"] = 3
    before = forecast.replicas()
    with clients(system, forecast) as asking:
        forecast.configure(yaml.safe_dump(config), START_S)
        time.sleep(2)
    assert len(before) == len(forecast.replicas()) == 2
    assert not before & forecast.replicas(), "nothing was rolled"
    assert set(asking.answers) == {"200"}, asking.answers


@pytest.mark.long
def test_a_new_release_brings_up_another_cluster_and_waits_for_the_tracker_and_fails_no_request(
    system: System, forecast: RayService
) -> None:
    """A new image replaces the tracker in the same breath, and a replica that cannot ask it has no model."""
    change = copy.deepcopy(forecast.spec["rayClusterConfig"])
    for group in (change["headGroupSpec"], *change["workerGroupSpecs"]):
        group["template"]["metadata"]["annotations"] = {"flts.io/restarted": "now"}
    before = forecast.ray
    system.cluster.scale("mlflow", 0)
    with clients(system, forecast) as asking:
        upgrade = threading.Thread(target=forecast.upgrade, args=(change, 2 * START_S))
        upgrade.start()
        try:
            wait_until(lambda: replicas_that_wait(forecast) > 0, START_S, forecast.story)
            assert forecast.ray is before, "clients were sent to replicas without a model"
        finally:
            system.cluster.scale("mlflow", 1)
            upgrade.join()
        time.sleep(2)
    assert forecast.ray is not before
    assert set(asking.answers) == {"200"}, asking.answers


def replicas_that_wait(service: RayService) -> int:
    """How many of the cluster that does not answer yet have said that they wait for their model."""
    workers = service.pending.workers if service.pending else []
    logs = [log for worker in workers for log in worker.folder.glob("volumes/tmp/ray/session_*/logs/worker-*.err")]
    return sum("replica_waits_for_model" in log.read_text(errors="replace") for log in logs)
