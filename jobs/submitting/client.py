"""The job server of a Ray cluster: the calls that are needed, with errors of our own."""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flts_ray.errors import BusyError, ClusterError
from flts_ray.redaction import redacted
from jobs.submitting.request import JobRequest

ADDRESS_NAMES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
RAY_LOGGERS = ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
"""Each has a level of its own and tells of uploads and of connections that end."""

CALL_TIMEOUT_S = 60
AGENT_WAIT_S = 60
"""Seconds that a head which has just started, or is overloaded, may need before it can take a job."""

AGENT_POLL_S = 1.0
ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})


@dataclass(frozen=True, slots=True)
class JobState:
    """What the cluster says of a job.

    Attributes:
        status: ``PENDING``, ``RUNNING``, ``SUCCEEDED``, ``FAILED`` or ``STOPPED``.
        exit_code: Of its process, negative for the signal that ended it; None if Ray saw none.
        message: Ray's own words.
        node: The node that its process runs on; None before it runs.
        metadata: What was put beside it.
    """

    status: str
    exit_code: int | None
    message: str
    node: str | None
    metadata: Mapping[str, str]

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.status in ENDED


class JobClient:
    """Connection to a cluster's job server.

    Args:
        address: ``http(s)://`` address of its dashboard, or ``host:port`` of the cluster itself.

    Raises:
        ClusterError: If it does not answer, or refuses us.
    """

    def __init__(self, address: str) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        from ray.job_submission import JobSubmissionClient

        for name in RAY_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        self.address = address
        with self._call("reach it"), _no_address_in_environment():
            self._client = JobSubmissionClient(address)
        self.dashboard: str = self._client.get_address()
        # Ray's client waits for ever on a head that is reached and does not answer.
        self._client._do_request = functools.partial(self._client._do_request, timeout=CALL_TIMEOUT_S)

    def page_of(self, submission_id: str) -> str:
        """Address of a job's page in the dashboard."""
        return f"{self.dashboard}/#/jobs/{submission_id}"

    def find(self, submission_id: str) -> JobState | None:
        """What has become of a job; None if the cluster knows none of that name.

        Raises:
            ClusterError: If the cluster does not answer.
        """
        with self._call(f"ask for job {submission_id}"):
            try:
                found = self._client.get_job_info(submission_id)
            except RuntimeError as error:
                if "status code 404" in str(error):
                    return None
                raise
        return JobState(
            status=found.status.value,
            exit_code=found.driver_exit_code,
            message=found.message or "",
            node=found.driver_node_id,
            metadata=found.metadata or {},
        )

    def submit(self, request: JobRequest, folder: Path) -> None:
        """Start a job.

        Args:
            request: What to run.
            folder: Its working directory, which is sent.

        Raises:
            BusyError: If there is a job of that name.
            ClusterError: If the cluster does not take it.
        """
        environment: dict[str, Any] = {"working_dir": str(folder), "env_vars": request.env_vars}
        until = time.monotonic() + AGENT_WAIT_S
        with self._call(f"submit job {request.submission_id}"):
            while True:
                try:
                    self._client.submit_job(
                        entrypoint=request.entrypoint,
                        submission_id=request.submission_id,
                        runtime_env=environment,
                        metadata=request.metadata,
                    )
                    return
                except RuntimeError as error:
                    if "already exists" in str(error):
                        raise BusyError(
                            f"job {request.submission_id} was submitted by someone else just now: run the same command "
                            "again to follow it"
                        ) from error
                    if "No available agent" not in str(error) or time.monotonic() > until:
                        raise
                time.sleep(AGENT_POLL_S)

    def stop(self, submission_id: str) -> None:
        """Ask a job to end; it is killed if it does not in time."""
        with self._call(f"stop job {submission_id}"):
            self._client.stop_job(submission_id)

    def delete(self, submission_id: str) -> None:
        """Forget a job that has ended, so that its name is free."""
        with self._call(f"delete job {submission_id}"):
            self._client.delete_job(submission_id)

    def log(self, submission_id: str) -> str:
        """All that a job has put out, in all its attempts on one node."""
        with self._call(f"read the log of job {submission_id}"):
            return str(self._client.get_job_logs(submission_id))

    async def tail(self, submission_id: str) -> AsyncIterator[str]:
        """What a job has put out from the beginning, and what it puts out until it ends.

        Raises:
            ClusterError: If the connection breaks.
        """
        import aiohttp

        with self._call(f"follow job {submission_id}"):
            try:
                async for text in self._client.tail_job_logs(submission_id):
                    yield text
            except aiohttp.ClientError as error:
                raise RuntimeError(str(error) or type(error).__name__) from error

    @contextmanager
    def _call(self, doing: str) -> Iterator[None]:
        from ray.exceptions import AuthenticationError

        try:
            yield
        except (OSError, RuntimeError, ValueError, AuthenticationError) as error:
            lines = [line.strip() for line in redacted(error).splitlines() if line.strip()]
            reason = (lines or [type(error).__name__])[0].rstrip(".")
            raise ClusterError(
                f"the Ray cluster at {redacted(self.address)}: could not {doing} ({reason}): check --address, that "
                "Ray runs there, and, if it asks for a token, RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or "
                "RAY_AUTH_TOKEN_PATH"
            ) from error


@contextmanager
def _no_address_in_environment() -> Iterator[None]:
    """Let the given address count: Ray's client prefers the environment's to it."""
    kept = {name: os.environ.pop(name) for name in ADDRESS_NAMES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
