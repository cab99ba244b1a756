"""Waits for what a run needs from others: the store, the tracker, and the reports it is to read.

In a cluster everything starts at once, so a run that begins first would fail for want of what is about to be there.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from flts_ray.config import Settings
from flts_ray.doctor.findings import Finding, run_checks
from flts_ray.doctor.sources import source_checks
from flts_ray.doctor.storage import storage_checks
from flts_ray.doctor.tracking import tracking_checks
from flts_ray.telemetry.logging import ERROR, WARNING, event

POLL_S = 2.0
REMIND_S = 30.0
"""Seconds after which what is missing is said again although nothing has changed."""


def wait_for_services(
    settings: Settings, limit_s: float, *, sleep: Callable[[float], None] = time.sleep
) -> list[Finding]:
    """Look until store, tracker and sources answer, or until the time is over; say what is missing meanwhile.

    Args:
        settings: Where they are.
        limit_s: Seconds to wait at most.
        sleep: Waits between two looks.

    Returns:
        What the last look found: of these services only, since what earlier runs left behind must not keep a run
        from being taken up again.
    """
    began_s = time.monotonic()
    said: tuple[str, ...] = ()
    said_s = began_s
    while True:
        found = run_checks([storage_checks(settings), tracking_checks(settings), source_checks(settings)])
        missing = tuple(f"{one.check} ({one.place}): {one.detail}" for one in found if one.state == "trouble")
        now_s = time.monotonic()
        waited_s = round(now_s - began_s, 1)
        if not missing:
            event("services_answer", waited_s=waited_s)
            return found
        if waited_s >= limit_s:
            event("services_missing", level=ERROR, missing=missing, waited_s=waited_s)
            return found
        if missing != said or now_s - said_s >= REMIND_S:
            event("services_awaited", level=WARNING, missing=missing, waited_s=waited_s, limit_s=limit_s)
            said, said_s = missing, now_s
        sleep(min(POLL_S, max(0.0, limit_s - waited_s)))
