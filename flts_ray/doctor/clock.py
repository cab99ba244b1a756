"""What an HTTP server says of itself without being asked much: that it answers, and what time it is there."""

from __future__ import annotations

import os
import ssl
import time
import urllib.error
import urllib.request
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import NamedTuple

from flts_ray.doctor.findings import Report
from flts_ray.errors import InfrastructureError

SLACK_S = 5.0
SIGNATURE_LIMIT_S = 900.0
"""S3 refuses a request whose signature is older or newer than a quarter of an hour."""


class Greeting(NamedTuple):
    """An answer.

    Attributes:
        status: Its HTTP status.
        body: Its first 4 kB.
        skew_s: Seconds by which the server's clock is ahead of this machine's; None if it told no time.
    """

    status: int
    body: str
    skew_s: float | None


def greet(url: str, *, method: str = "GET", timeout_s: float = 5.0) -> Greeting:
    """Ask for ``url`` and take whatever is answered, errors included.

    Raises:
        InfrastructureError: If nothing that speaks HTTP answers.
    """
    request = urllib.request.Request(url, method=method)
    context = ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE") or None)
    before = time.time()
    try:
        with urllib.request.urlopen(request, timeout=timeout_s, context=context) as answer:
            status, headers, body = answer.status, answer.headers, answer.read(4096)
    except urllib.error.HTTPError as error:
        with error:
            status, headers, body = error.code, error.headers, error.read(4096)
    except (OSError, HTTPException, ValueError) as error:
        inner = getattr(error, "reason", error)
        reason = getattr(inner, "strerror", None) or str(inner) or type(inner).__name__
        raise InfrastructureError(f"does not answer ({reason})") from error
    after = time.time()
    try:
        there = parsedate_to_datetime(headers["Date"]).timestamp()
    except (TypeError, ValueError):
        return Greeting(status, body.decode(errors="replace"), None)
    # The header counts whole seconds: any time from it until a second later is right.
    skew = there - after if there > after else min(0.0, there + 1 - before)
    return Greeting(status, body.decode(errors="replace"), skew)


def report_skew(report: Report, greeting: Greeting) -> None:
    """Say whether two clocks agree well enough."""
    skew = greeting.skew_s
    if skew is None:
        report.skipped("the server does not tell its time")
        return
    text = f"the server's clock is {abs(skew):,.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
    if abs(skew) > SIGNATURE_LIMIT_S:
        report.trouble(f"{text}: signed requests are refused", "set both clocks by NTP")
    elif abs(skew) > SLACK_S:
        report.warning(f"{text}: times in logs and runs do not match", "set both clocks by NTP")
    else:
        report.ok(f"within {SLACK_S:g} s of this machine's")
