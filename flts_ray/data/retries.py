"""Trying again while a store is down: for a bounded time, and saying so once."""

from __future__ import annotations

import errno
import http.client
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential, wait_random

from flts_ray.config import StorageSettings
from flts_ray.data.addresses import reason_of
from flts_ray.data.s3 import request_timeout_s
from flts_ray.redaction import redacted
from flts_ray.telemetry.logging import event

FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 5.0

TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
TRANSIENT_CODES = frozenset(
    {
        "ConditionalRequestConflict",
        "IncompleteBody",
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
    }
)
TRANSIENT_ERRNO = frozenset(
    {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.ESTALE, errno.EAGAIN}
)

_T = TypeVar("_T")


class OutageError(Exception):
    """A store did not come back in time; ``__cause__`` is what it last did.

    Attributes:
        seconds: For how long it was tried.
    """

    def __init__(self, seconds: float) -> None:
        """Take the time that was spent."""
        super().__init__(f"tried for {seconds:.1f} s")
        self.seconds = seconds


def persistently(call: Callable[[], _T], *, place: str, settings: StorageSettings) -> _T:
    """Call until it succeeds or fails for good; while the store is down, again and again until ``deadline_s``.

    Args:
        call: What may be repeated.
        place: What messages call the place.
        settings: ``deadline_s`` and ``timeout_s``.

    Raises:
        OutageError: If the store was still down after ``deadline_s``.
        Exception: Whatever ``call`` raised, if trying again would change nothing.
    """
    outage = _Outage(place, settings)
    answer = Retrying(
        retry=retry_if_exception(is_transient),
        wait=wait_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S) + wait_random(0, FIRST_WAIT_S),
        stop=outage.is_over,
        before=outage.attempt,
        before_sleep=outage.announce,
        retry_error_callback=outage.give_up,
    )(call)
    outage.end()
    return answer


class _Outage:
    """The clock of one outage: it starts with the first attempt that failed, so long transfers keep their retries."""

    def __init__(self, place: str, settings: StorageSettings) -> None:
        self._place = place
        self._deadline_s = settings.deadline_s
        self._timeout_s = request_timeout_s(settings)
        self._attempt_s = 0.0
        self._began_s: float | None = None
        self._announced = False

    def attempt(self, state: RetryCallState) -> None:
        self._attempt_s = time.monotonic()

    def is_over(self, state: RetryCallState) -> bool:
        """Whether another attempt, were it as long as the last, would end too late."""
        now_s = time.monotonic()
        lost_s = min(now_s - self._attempt_s, self._timeout_s)  # what came before was progress
        if self._began_s is None:
            self._began_s = now_s - lost_s
        return now_s + state.upcoming_sleep + lost_s - self._began_s > self._deadline_s

    def announce(self, state: RetryCallState) -> None:
        if not self._announced:
            self._announced = True
            event(
                "storage_retry",
                level=logging.WARNING,
                place=redacted(self._place),
                reason=_reason(state),
                deadline_s=self._deadline_s,
            )

    def give_up(self, state: RetryCallState) -> None:
        raise OutageError(self._seconds()) from (state.outcome.exception() if state.outcome else None)

    def end(self) -> None:
        if self._announced:
            event("storage_recovered", place=redacted(self._place), seconds=round(self._seconds(), 3))

    def _seconds(self) -> float:
        return time.monotonic() - (self._began_s if self._began_s is not None else self._attempt_s)


def _reason(state: RetryCallState) -> str:
    error = state.outcome.exception() if state.outcome else None
    return reason_of(error) if error else ""


def is_failure(error: BaseException) -> bool:
    """Whether a disk, a network or an S3 server raised this, and no mistake of the program."""
    if isinstance(error, OSError | http.client.HTTPException):  # TimeoutError is an OSError
        return True
    import aiohttp
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    return isinstance(error, BotoCoreError | ClientError | ResponseParserError | aiohttp.ClientError)


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed in a moment: no answer, a broken one, or the server's own trouble."""
    if isinstance(error, FileNotFoundError | PermissionError | FileExistsError) or not is_failure(error):
        return False
    status, code = answer_of(error)
    if code:
        return status in TRANSIENT_STATUS or code in TRANSIENT_CODES
    import aiohttp
    from botocore import exceptions as boto
    from botocore.parsers import ResponseParserError

    if isinstance(error, boto.SSLError):
        return False
    broken = (
        boto.HTTPClientError
        | boto.ConnectionError
        | boto.IncompleteReadError
        | ResponseParserError
        | aiohttp.ClientError
        | http.client.HTTPException
        | ConnectionError
        | TimeoutError
    )
    return isinstance(error, broken) or (isinstance(error, OSError) and error.errno in TRANSIENT_ERRNO)


def answer_of(error: BaseException | None) -> tuple[int, str]:
    """HTTP status and error code of the S3 answer behind an error; 0 and empty if there was none."""
    response = getattr(error, "response", None) or getattr(getattr(error, "__cause__", None), "response", None)
    if not isinstance(response, dict):
        return 0, ""
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return int(status), str(response.get("Error", {}).get("Code") or status)
