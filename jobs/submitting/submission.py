"""One submission from its request to its exit code: started or joined, followed, stopped with its submitter."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flts_ray.errors import ClusterError, ConfigError, InfrastructureError
from jobs.submitting.client import JobClient, JobState
from jobs.submitting.following import Earlier, follow
from jobs.submitting.log import JobLog, reason_in
from jobs.submitting.request import STOP_WAIT_S, JobRequest

STOPPED_CODE = 143
KILLED_CODE = 137
SETTLE_S = 3.0
"""Seconds that Ray still watches a job that has ended, and would not watch another of its name."""

POLL_S = 1.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended.

    Attributes:
        code: Exit code: the job's own, 143 if it was stopped.
        reason: One sentence; empty if all is well.
    """

    code: int
    reason: str


def start(client: JobClient, request: JobRequest, folder: Path, say: Say) -> Earlier:
    """Start a job, or join the one of that name; one that failed or was stopped is started again.

    Args:
        client: The cluster.
        request: What to run.
        folder: The working directory to send.
        say: Told what is done.

    Returns:
        What earlier attempts left in its log.

    Raises:
        ConfigError: If another request runs or has succeeded under this name.
    """
    name = request.submission_id
    found = client.find(name)
    if found is None:
        client.submit(request, folder)
        say(f"submitted {request.job} as {name}")
        return Earlier()
    if found.status in ("FAILED", "STOPPED"):
        earlier = Earlier(found.node, len(client.log(name)))
        time.sleep(SETTLE_S)
        client.delete(name)
        client.submit(request, folder)
        say(f"{name} has {found.status.lower()} before: submitted again, goes on from what was finished")
        return earlier
    if found.metadata.get("request") != request.digest:
        raise ConfigError(
            f"job {name} {'has succeeded' if found.ended else 'runs'} with other arguments or settings: choose another "
            "--submission-id"
        )
    say(f"{name} has succeeded before: nothing is run again" if found.ended else f"{name} runs already: following it")
    return Earlier()


@contextmanager
def stopped_with_us(client: JobClient, name: str, say: Say) -> Iterator[None]:
    """Whoever interrupts what happens inside stops the job, from the moment that it is submitted.

    Args:
        client: The cluster.
        name: The job, which need not be there yet.
        say: Told what is done.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        say(f"stopping {name}, which closes its run first ({STOP_WAIT_S} s at most); --submission-id {name} resumes it")
        _stop(client, name)
        raise


def follow_to_the_end(client: JobClient, name: str, log: JobLog, earlier: Earlier) -> Ending:
    """Pass on a job's log until it ends.

    Args:
        client: The cluster.
        name: The job.
        log: Takes its log.
        earlier: What of the log is not its.

    Raises:
        InfrastructureError: If nobody can tell how it ended.
    """
    return ending_of(name, asyncio.run(follow(client, name, log, earlier=earlier)), log)


def _stop(client: JobClient, name: str) -> None:
    until = time.monotonic() + STOP_WAIT_S + 15
    why = ""
    while time.monotonic() < until:
        try:
            state = client.find(name)
            if state is None or state.ended:
                return
            client.stop(name)  # again and again: one that is still pending does not hear it
        except ClusterError as error:
            why = f" ({error})"
        time.sleep(POLL_S)
    raise InfrastructureError(f"job {name} was told to stop and may still run{why}: see `ray job status {name}`")


def ending_of(name: str, state: JobState, log: JobLog) -> Ending:
    """What a job's end means for whoever submitted it.

    Raises:
        InfrastructureError: If Ray lost it, so that it has no exit code.
    """
    if state.status == "SUCCEEDED":
        return Ending(0, "")
    if state.status == "STOPPED":
        return Ending(STOPPED_CODE, f"job {name} was stopped")
    first_line = (state.message.strip().splitlines() or ["Ray does not say why"])[0]
    if state.exit_code is None:
        raise InfrastructureError(f"job {name} was lost: {first_line.rstrip('.:')}: submit it again")
    code = state.exit_code if state.exit_code > 0 else 128 - state.exit_code
    if code == KILLED_CODE:
        return Ending(code, f"job {name} was killed (SIGKILL), most often for want of memory: give its node more")
    why = log.error or reason_in(log.document) or log.last or first_line.rstrip(":,")
    return Ending(code, f"job {name} ended with exit code {code}: {why}")
