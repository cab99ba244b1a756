from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from flts_ray.errors import ConfigError, InfrastructureError
from jobs.entry import Job
from jobs.submitting import submission
from jobs.submitting.client import JobClient, JobState
from jobs.submitting.following import Earlier
from jobs.submitting.log import JobLog
from jobs.submitting.request import JobRequest, make_request
from jobs.submitting.submission import Ending, ending_of, start, stopped_with_us

pytestmark = pytest.mark.unit


def request(*extra: str) -> JobRequest:
    return make_request(
        Job.PIPELINE, submission_id="r1", config=None, config_name="", assignments=(), extra=extra, commit=""
    )


@dataclass
class FakeClient:
    state: JobState | None = None
    calls: list[str] = field(default_factory=list)

    def find(self, submission_id: str) -> JobState | None:
        return self.state

    def log(self, submission_id: str) -> str:
        return "12345"

    def delete(self, submission_id: str) -> None:
        self.calls.append("delete")

    def submit(self, request: JobRequest, folder: Path) -> None:
        self.calls.append("submit")


def started(state: JobState | None, *, wanted: JobRequest) -> tuple[Earlier, list[str], str]:
    client, said = FakeClient(state), list[str]()
    earlier = start(cast(JobClient, client), wanted, Path(), said.append)
    return earlier, client.calls, " ".join(said)


def known(status: str, made: JobRequest, code: int | None = None) -> JobState:
    return JobState(status, code, "why\nmore", "n1", made.metadata)


def test_a_name_is_used_once_and_a_failure_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "SETTLE_S", 0)
    assert started(None, wanted=request())[:2] == (Earlier(), ["submit"])
    assert started(known("RUNNING", request()), wanted=request())[:2] == (Earlier(), [])
    assert started(known("SUCCEEDED", request()), wanted=request())[:2] == (Earlier(), [])
    for status in ("FAILED", "STOPPED"):
        earlier, calls, said = started(known(status, request()), wanted=request("--force"))
        assert (earlier, calls) == (Earlier("n1", 5), ["delete", "submit"])
        assert f"r1 has {status.lower()} before" in said


@pytest.mark.parametrize("status", ["PENDING", "RUNNING", "SUCCEEDED"])
def test_a_name_of_something_else_is_refused(status: str) -> None:
    with pytest.raises(ConfigError, match=r"r1 .* with other arguments"):
        started(known(status, request()), wanted=request("--force"))


def log_of(text: str) -> JobLog:
    log = JobLog(lambda line: None)
    log.feed(text)
    log.close()
    return log


def test_an_ending_is_the_jobs_own() -> None:
    made = request()
    assert ending_of("r1", known("SUCCEEDED", made, 0), log_of("")) == Ending(0, "")
    assert ending_of("r1", known("STOPPED", made), log_of("")) == Ending(143, "job r1 was stopped")
    failed = known("FAILED", made, 18)
    assert ending_of("r1", failed, log_of("error: no such file\n")).reason == (
        "job r1 ended with exit code 18: no such file"
    )
    assert ending_of("r1", failed, log_of("Traceback:\nKeyError: 3\n")).reason.endswith(": KeyError: 3")
    assert ending_of("r1", failed, log_of("")).reason.endswith(": why")
    for code in (-9, 137):
        killed = ending_of("r1", known("FAILED", made, code), log_of("{"))
        assert killed.code == 137
        assert killed.reason.startswith("job r1 was killed")


def test_a_job_that_ray_lost_has_no_code_of_its_own() -> None:
    with pytest.raises(InfrastructureError, match="job r1 was lost: why: submit it again"):
        ending_of("r1", known("FAILED", request()), log_of(""))


@pytest.mark.parametrize("end", [KeyboardInterrupt(), SystemExit(143)])
def test_whoever_interrupts_before_the_log_is_followed_stops_the_job(end: BaseException) -> None:
    class Submitted(FakeClient):
        def stop(self, submission_id: str) -> None:
            self.calls.append("stop")
            self.state = known("STOPPED", request())

    client, said = Submitted(known("PENDING", request())), list[str]()
    with pytest.raises(type(end)), stopped_with_us(cast(JobClient, client), "r1", said.append):
        raise end
    assert client.calls == ["stop"]
    assert "--submission-id r1 resumes it" in said[0]


def test_an_interruption_before_the_job_is_there_stops_nothing() -> None:
    client = FakeClient(None)
    with pytest.raises(KeyboardInterrupt), stopped_with_us(cast(JobClient, client), "r1", lambda _: None):
        raise KeyboardInterrupt
    assert client.calls == []
