"""Who is let in: a request that could not be answered in time is refused before its body is read.

A count alone does not do: a body may hold one history of 30 rows or 64 of thousands. So what was let in is also
weighed, by what requests of its length have cost the processor lately.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from flts_ray.errors import BusyError

SHARE = 0.25
"""Part of a request's time that the work before it may take, by the processor's clock: the machine has more to do."""

RATE = 0.05
"""Weight of the latest cost in the mean."""


class Admission:
    """Counts and weighs the requests in progress. Costs may be reported from any thread.

    Args:
        max_requests: Requests in progress at most.
    """

    def __init__(self, max_requests: int) -> None:
        self._max_requests = max_requests
        self._requests, self._bytes = 0, 0
        self._read_s_per_byte = self._queries_per_byte = self._compute_s_per_query = 0.0
        self._lock = threading.Lock()

    @property
    def requests(self) -> int:
        """Requests in progress."""
        return self._requests

    @property
    def ahead_s(self) -> float:
        """Seconds of the processor that they will take, about."""
        per_byte = self._read_s_per_byte + self._queries_per_byte * self._compute_s_per_query
        return self._bytes * per_byte

    @contextmanager
    def admitted(self, length: int, *, deadline_s: float) -> Iterator[None]:
        """Inside, a request is in progress. Enter and leave on the event loop.

        Args:
            length: Bytes of its body, as announced.
            deadline_s: Seconds it has.

        Raises:
            BusyError: If it would have to wait too long.
        """
        if self._requests >= self._max_requests or self.ahead_s > SHARE * deadline_s:
            raise BusyError(f"{self._requests} requests are in progress and more would be late: ask again later")
        self._requests += 1
        self._bytes += length
        try:
            yield
        finally:
            self._requests -= 1
            self._bytes -= length

    def read(self, *, length: int, queries: int, cpu_s: float) -> None:
        """A body was read and checked."""
        with self._lock:
            self._read_s_per_byte = _mean(self._read_s_per_byte, cpu_s / max(length, 1))
            self._queries_per_byte = _mean(self._queries_per_byte, queries / max(length, 1))

    def computed(self, *, queries: int, cpu_s: float) -> None:
        """Forecasts were computed."""
        with self._lock:
            self._compute_s_per_query = _mean(self._compute_s_per_query, cpu_s / max(queries, 1))


def _mean(before: float, latest: float) -> float:
    return latest if before == 0.0 else before + RATE * (latest - before)
