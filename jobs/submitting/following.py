"""Follows a job to its end: its log as it comes, over connections that break, and what became of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from flts_ray.errors import ClusterError, InfrastructureError
from jobs.submitting.client import JobState
from jobs.submitting.log import JobLog

RETRY_S = 2.0
SILENCE_S = 30.0
"""Seconds without a line after which the job is asked for: a connection can be dead and say nothing."""

OUT_OF_SIGHT_S = 180.0
"""Seconds without any answer after which the job is given up."""


class Watched(Protocol):
    """What is needed of a cluster to follow a job on it: see :class:`jobs.submitting.client.JobClient`."""

    def find(self, submission_id: str) -> JobState | None:
        """What has become of a job."""

    def tail(self, submission_id: str) -> AsyncIterator[str]:
        """Its log from the beginning to its end."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """What earlier attempts under the same name left in the log, which Ray goes on with.

    Attributes:
        node: The node that they ran on; on another there is a new log.
        chars: Length of what they left.
    """

    node: str | None = None
    chars: int = 0


async def follow(
    client: Watched,
    submission_id: str,
    log: JobLog,
    *,
    earlier: Earlier = Earlier(),
    retry_s: float = RETRY_S,
    out_of_sight_s: float = OUT_OF_SIGHT_S,
) -> JobState:
    """Feed a job's log to ``log`` until it ends, every line once.

    Args:
        client: The cluster.
        submission_id: The job.
        log: Takes the lines.
        earlier: What of the log is not its.
        retry_s: Seconds between attempts to reconnect.
        out_of_sight_s: Seconds without an answer after which to give up.

    Returns:
        How it ended.

    Raises:
        InfrastructureError: If the cluster has not answered for so long, or has forgotten the job.
    """
    seen: int | None = None  # characters of the log that are dealt with
    answered = time.monotonic()
    while True:
        try:
            state = _known(client.find(submission_id), submission_id)
            position = 0
            async for text in _alive(client, submission_id):
                answered = time.monotonic()
                if seen is None:
                    node = _known(client.find(submission_id), submission_id).node
                    seen = earlier.chars if node == earlier.node else 0
                position += len(text)
                if position > seen:
                    log.feed(text[-(position - seen) :])
                    seen = position
            state = _known(client.find(submission_id), submission_id)
            answered = time.monotonic()
            if state.ended:
                log.close()
                return state
        except ClusterError as error:
            if time.monotonic() - answered > out_of_sight_s:
                raise InfrastructureError(
                    f"job {submission_id} is out of sight, and may still be running: {error}"
                ) from error
        await asyncio.sleep(retry_s)


async def _alive(client: Watched, submission_id: str) -> AsyncIterator[str]:
    """The log's pieces; ends when a job has ended, even where the connection keeps silent about it."""
    pieces = client.tail(submission_id)
    while True:
        piece = asyncio.ensure_future(anext(pieces, None))
        try:
            while not (await asyncio.wait({piece}, timeout=SILENCE_S))[0]:
                if _known(client.find(submission_id), submission_id).ended:
                    return
            text = piece.result()
        finally:
            if not piece.done():
                piece.cancel()
                with suppress(asyncio.CancelledError):
                    await piece
        if text is None:
            return
        yield text


def _known(state: JobState | None, submission_id: str) -> JobState:
    if state is None:
        raise InfrastructureError(
            f"the cluster no longer knows job {submission_id} (its head was started anew?): the same command with "
            "--submission-id goes on from what the job had finished"
        )
    return state
