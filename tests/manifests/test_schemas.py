"""Every object of every rendering against its schema; and that a schema test catches what it is there for."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.manifests.renderings import COMPONENTS, OVERLAYS, combinations, rendering_of
from tests.manifests.schemas import faults, pod_templates, why_no_crds

pytestmark = pytest.mark.manifests

needs_crds = pytest.mark.skipif(bool(why_no_crds()), reason=why_no_crds())

RAY = """
apiVersion: ray.io/v1
kind: RayJob
metadata:
  name: job
  labels: {app: job}
spec:
  entrypoint: python -m job
  deletionStrategy:
    deletionRules:
    - policy: DeleteCluster
      condition: {jobStatus: SUCCEEDED, ttlSeconds: 60}
  rayClusterSpec:
    rayVersion: 2.60.0
    headGroupSpec:
      rayStartParams: {num-cpus: "0"}
      template:
        spec:
          securityContext: {runAsNonRoot: true}
          containers:
          - name: ray-head
            image: image
            ports:
            - {name: dashboard, containerPort: 8265}
            resources:
              limits: {cpu: 1, memory: 2Gi}
    workerGroupSpecs:
    - groupName: worker
      replicas: 1
      rayStartParams: {}
      template:
        spec:
          containers:
          - {name: worker, image: image}
"""

BROKEN_RAY = {
    "a typing error in a field": ("entrypoint:", "entryPoint:", "'entryPoint' was unexpected"),
    "a number where text must stand": ('num-cpus: "0"', "num-cpus: 0", "0 is not of type 'string'"),
    "text where a number must stand": ("replicas: 1", 'replicas: "1"', "'1' is not of type 'integer'"),
    "a field one level too high": ("rayVersion: 2.60.0", "containers: []", "'containers' was unexpected"),
    "a value that is none of the allowed": ("jobStatus: SUCCEEDED", "jobStatus: DONE", "'DONE' is not one of"),
    "a field that must be there": ("groupName: worker", "minReplicas: 1", "'groupName' is a required property"),
    "null for a mapping": (
        "rayStartParams: {}\n      template:\n",
        "rayStartParams: {}\n      template:\n        metadata:\n",
        "None is not of type 'object'",
    ),
    "a fraction as a quantity": ("cpu: 1,", "cpu: 0.5,", "0.5 is not of type"),
    "a key of a list twice": (
        "- {name: dashboard, containerPort: 8265}",
        "- {name: dashboard, containerPort: 8265}\n            - {name: again, containerPort: 8265}",
        "'containerPort': '8265', 'protocol': 'TCP'} stands twice",
    ),
    "two conditions in one": (
        "{jobStatus: SUCCEEDED,",
        "{jobStatus: SUCCEEDED, jobDeploymentStatus: Failed,",
        "together",
    ),
    "no condition at all": ("{jobStatus: SUCCEEDED, ttlSeconds: 60}", "{ttlSeconds: 60}", "requires either"),
    "two strategies": (
        "deletionStrategy:\n",
        "deletionStrategy:\n    onSuccess: {policy: DeleteSelf}\n    onFailure: {policy: DeleteSelf}\n",
        "cannot be used together",
    ),
    "an unknown manager": ("entrypoint:", "managedBy: me\n  entrypoint:", "managedBy field value must be"),
    "a typing error deep in a pod": ("runAsNonRoot", "runAsNonroot", "'runAsNonroot' was unexpected"),
    "a typing error in the metadata": ("labels:", "label:", "'label' was unexpected"),
    "a label that is no text": ("{app: job}", "{app: 1}", "1 is not of type 'string'"),
    "a version that knows less": ("ray.io/v1", "ray.io/v1alpha1", "'deletionStrategy"),
    "a version that does not exist": ("ray.io/v1", "ray.io/v2", "ray.io/v2 RayJob is no kind"),
}

CORE = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: image
        env:
        - {name: A, value: "1"}
"""
BROKEN_CORE = {
    "a typing error": ("matchLabels", "matchLabel", "'matchLabel' was unexpected"),
    "a number as an environment value": ('value: "1"', "value: 1", "1 is not of type 'string'"),
    "a field that must be there": ("selector: {matchLabels: {app: web}}", "replicas: 1", "'selector' is a required"),
    "an old version": ("apps/v1", "apps/v1beta1", "apps/v1beta1 Deployment is no kind"),
    "an invented kind": ("kind: Deployment", "kind: Deploiment", "apps/v1 Deploiment is no kind"),
}

OTHER = """
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata: {name: ray}
spec:
  selector: {matchLabels: {app: web}}
  podMetricsEndpoints:
  - {port: metrics, interval: 15s}
"""
BROKEN_OTHER = {
    "a typing error": ("podMetricsEndpoints", "podMetricEndpoints", "'podMetricEndpoints' was unexpected"),
    "a typing error in an entry": ("interval", "intervall", "'intervall' was unexpected"),
    "a duration without a unit": ("15s", '"15"', "does not match"),
    "no port": ("port: metrics, ", "", "'port' is a required property"),
    "a typing error in the metadata": ("{name: ray}", "{name: ray, lables: {}}", "'lables' was unexpected"),
}


def broken(good: str, was: str, instead: str) -> Any:
    assert good.count(was) == 1, f"'{was}' must stand once in the good example"
    return yaml.safe_load(good.replace(was, instead))


def test_there_is_something_to_look_at() -> None:
    assert {"dev", "prod"} <= set(OVERLAYS)
    assert {
        "autoscaling",
        "gcs-fault-tolerance",
        "kueue",
        "monitoring",
        "mtls",
        "network-policy",
        "raycronjob",
        "throughput",
        "tls",
    } == set(COMPONENTS)


def faults_of(combination: str, *, of_ray: bool) -> list[str]:
    trees = [resource.tree for resource in rendering_of(combination).resources]
    chosen = [tree for tree in trees if tree["apiVersion"].startswith("ray.io/") == of_ray]
    assert len(chosen) >= 5
    return [fault for tree in chosen for fault in faults(tree)]


@pytest.mark.parametrize("combination", combinations())
def test_an_api_server_would_take_every_object(combination: str) -> None:
    assert faults_of(combination, of_ray=False) == []


@needs_crds
@pytest.mark.parametrize("combination", combinations())
def test_an_api_server_with_kuberay_would_take_every_object_of_ray(combination: str) -> None:
    assert faults_of(combination, of_ray=True) == []


@pytest.mark.parametrize("good", [CORE, OTHER, pytest.param(RAY, marks=needs_crds)], ids=["core", "other", "ray"])
def test_good_examples_are_good(good: str) -> None:
    assert faults(yaml.safe_load(good)) == []


@needs_crds
@pytest.mark.parametrize("was, instead, said", BROKEN_RAY.values(), ids=BROKEN_RAY)
def test_a_fault_in_a_ray_object_is_found(was: str, instead: str, said: str) -> None:
    assert any(said in fault for fault in faults(broken(RAY, was, instead)))


@pytest.mark.parametrize("was, instead, said", BROKEN_CORE.values(), ids=BROKEN_CORE)
def test_a_fault_in_a_core_object_is_found(was: str, instead: str, said: str) -> None:
    assert any(said in fault for fault in faults(broken(CORE, was, instead)))


@pytest.mark.parametrize("was, instead, said", BROKEN_OTHER.values(), ids=BROKEN_OTHER)
def test_a_fault_in_an_object_of_another_operator_is_found(was: str, instead: str, said: str) -> None:
    assert any(said in fault for fault in faults(broken(OTHER, was, instead)))


def test_every_pod_of_a_ray_object_is_found() -> None:
    assert [place for place, _ in pod_templates(yaml.safe_load(RAY))] == [
        "spec.rayClusterSpec.headGroupSpec.template",
        "spec.rayClusterSpec.workerGroupSpecs[0].template",
    ]
