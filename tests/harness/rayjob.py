"""What KubeRay 1.7 makes of a RayJob in K8sJobMode: a cluster, a submitter, a status; anew after a failure."""

from __future__ import annotations

import contextlib
import copy
import json
import threading
import time
from dataclasses import dataclass, field

import yaml

from tests.harness.cluster import Cluster, suffix
from tests.harness.kuberay import PORTS, RayCluster, auth
from tests.harness.objects import Applied, Manifest
from tests.harness.pod import Pod
from tests.harness.services import wait_until

TERMINAL = ("SUCCEEDED", "FAILED", "STOPPED")
STATUS_LIMIT_S = 300.0
"""How long the operator asks a head that does not answer; then it gives the job up."""
NEVER_AGAIN = ("DeadlineExceeded", "JobStatusCheckTimeoutExceeded")


@dataclass
class Attempt:
    """One cluster and one submission.

    Attributes:
        ray: The cluster.
        job_id: The submission id.
        submitter: Its pod, once the cluster is ready.
        status: The job's status, as Ray told it last.
        why: What ended the attempt.
    """

    ray: RayCluster
    job_id: str
    submitter: Pod | None = None
    status: str = ""
    why: str = ""


@dataclass
class RayJob(Applied):
    """A RayJob.

    Attributes:
        cluster: Where it runs.
        status: New, Initializing, Running, Retrying, Complete or Failed: its jobDeploymentStatus.
        attempts: One after the other.
    """

    cluster: Cluster
    status: str = "New"
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return self.status in ("Complete", "Failed")

    def start(self) -> None:
        threading.Thread(target=self._control, name=self.name, daemon=True).start()

    def wait(self, timeout_s: float) -> None:
        """Wait until the job has succeeded.

        Raises:
            RuntimeError: If it failed.
        """
        wait_until(lambda: self.over, timeout_s, self.story)
        if self.status != "Complete":
            raise RuntimeError(self.story())

    def log(self) -> str:
        """What the submitters of all attempts showed: the log of the job."""
        return "\n".join(each.submitter.log("ray-job-submitter") for each in self.attempts if each.submitter)

    def story(self) -> str:
        told = [f"RayJob {self.name} is {self.status}"]
        for each in self.attempts:
            told += [f"{each.job_id}: {each.status} ({each.why})", each.ray.story()]
            told += [each.submitter.story(80)] if each.submitter else []
        return "\n".join(told)

    def _control(self) -> None:
        started = time.monotonic()
        for number in range(int(self.spec.get("backoffLimit", 0)) + 1):
            self.status = "Retrying" if number else "Initializing"
            attempt = Attempt(
                RayCluster(f"{self.name}-{suffix()}", self.spec["rayClusterSpec"], self.cluster),
                f"{self.name}-{suffix()}",
            )
            self.attempts.append(attempt)
            attempt.ray.start()
            if self._runs(attempt, started):
                attempt.why = self._follow(attempt, started)
            if self.cluster.ending.is_set():
                return
            # A second cluster is made only after the first is gone. A rule's ttl is for people who look.
            if attempt.submitter is not None and not attempt.submitter.over:
                attempt.submitter.delete(0.0)
            attempt.ray.stop()
            if attempt.status == "SUCCEEDED":
                self.status = "Complete"
                return
            if attempt.why in NEVER_AGAIN:
                break
        self.status = "Failed"

    def _runs(self, attempt: Attempt, started: float) -> bool:
        """Wait for the cluster, and submit.

        Returns:
            Whether the submitter was started.
        """
        limit_s = float(self.spec.get("preRunningDeadlineSeconds", 1e9))
        until = time.monotonic() + limit_s
        while not attempt.ray.ready:
            if self.cluster.ending.wait(0.1):
                return False
            if time.monotonic() > min(until, started + float(self.spec.get("activeDeadlineSeconds", 1e9))):
                attempt.why = "PreRunningDeadlineExceeded"
                return False
        attempt.submitter = self.cluster.pod(f"{self.name}-submitter-{suffix()}", self._submitter(attempt))
        self.status = "Running"
        return True

    def _follow(self, attempt: Attempt, started: float) -> str:
        """Watch submitter and job until both have ended, as the operator does.

        Returns:
            Why the attempt is over.
        """
        assert attempt.submitter is not None
        heard = time.monotonic()
        while not self.cluster.ending.wait(0.5):
            if time.monotonic() > started + float(self.spec.get("activeDeadlineSeconds", 1e9)):
                return "DeadlineExceeded"
            with contextlib.suppress(OSError):  # not submitted yet, or the head is lost
                attempt.status = attempt.ray.dashboard(f"/api/jobs/{attempt.job_id}")["status"]
                heard = time.monotonic()
            if time.monotonic() > heard + STATUS_LIMIT_S:
                return "JobStatusCheckTimeoutExceeded"
            if attempt.status in TERMINAL and attempt.submitter.over:
                return f"the job is {attempt.status}"
            if attempt.submitter.phase == "Failed" and attempt.status not in TERMINAL:
                return "SubmissionFailed"
        return "the cluster ends"

    def _submitter(self, attempt: Attempt) -> Manifest:
        template: Manifest = copy.deepcopy(self.spec["submitterPodTemplate"])
        template.setdefault("metadata", {}).setdefault("labels", {}).update(
            {"ray.io/originated-from-crd": "RayJob", "ray.io/originated-from-cr-name": self.name,
             "app.kubernetes.io/created-by": "kuberay-operator"}
        )  # fmt: skip
        container = template["spec"]["containers"][0]
        container.setdefault("env", []).extend(
            [
                {"name": "PYTHONUNBUFFERED", "value": "1"},
                {"name": "RAY_DASHBOARD_ADDRESS", "value": f"{attempt.ray.host}:{PORTS['dashboard']}"},
                {"name": "RAY_JOB_SUBMISSION_ID", "value": attempt.job_id},
                *auth(self.spec["rayClusterSpec"], attempt.ray.name),
            ]
        )
        if "command" not in container:
            container["command"], container["args"] = ["/bin/bash", "-ec", "--"], [submission(self.spec)]
        return template


def submission(spec: Manifest) -> str:
    """The operator's script for a submitter: entrypoint and runtime environment stand in it for a shell."""
    at = "--address http://$RAY_DASHBOARD_ADDRESS"
    submit = f"ray job submit {at} --no-wait"
    if text := spec.get("runtimeEnvYAML"):
        submit += f" --runtime-env-json {json.dumps(json.dumps(yaml.safe_load(text)))}"
    if metadata := spec.get("metadata"):
        submit += f" --metadata-json {json.dumps(json.dumps(metadata))}"
    submit += f" --submission-id $RAY_JOB_SUBMISSION_ID -- {spec['entrypoint']}"
    known = f"ray job status {at} $RAY_JOB_SUBMISSION_ID"
    return f"if ! {known} >/dev/null 2>&1 ; then {submit} ; fi ; ray job logs {at} --follow $RAY_JOB_SUBMISSION_ID"
