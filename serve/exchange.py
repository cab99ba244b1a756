"""What is known of one request while it is answered: shared by the middleware and the handlers through the scope."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.types import Scope

if TYPE_CHECKING:
    from serve.service import LoadedModel

KEY = "flts.exchange"
MAX_ID_CHARS = 128

OUTCOMES: Mapping[int, str] = {401: "unauthorized", 429: "refused", 503: "refused", 504: "deadline"}

_TRACE_PARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")


class Exchange:
    """A request and how it is being answered.

    Attributes:
        headers: Of the request, by lower-case name.
        path: Below the application's root.
        request_id: As it came, else a new one.
        stamped: Whether something in front of the application gave the id, and so also puts it into the answer.
        started: Clock at arrival, in seconds of ``time.perf_counter``.
        deadline_s: Seconds after ``started`` by which the answer is due.
        status: Of the answer; 0 before it starts.
        bytes_sent: Length of the answer's body.
        outcome: How the request is counted; empty: as its status says.
        series: Histories in the request.
        model_version: Version that answered; empty if none did.
        made_by: Traceparent of the run that made that version; empty if it is not known.
        trace_id: Of the request, as it came or as it was begun here; empty without one.
    """

    __slots__ = (
        "bytes_sent",
        "deadline_s",
        "headers",
        "made_by",
        "model_version",
        "outcome",
        "path",
        "request_id",
        "scope",
        "series",
        "stamped",
        "started",
        "status",
        "trace_id",
    )

    def __init__(self, scope: Scope, deadline_s: float) -> None:
        self.started = time.perf_counter()
        self.scope = scope
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        root, path = scope.get("root_path", ""), scope["path"]
        self.path = path[len(root) :] if root and path.startswith(root) else path
        given = self.headers.get(b"x-request-id", b"")
        self.stamped = b"x-request-id" in self.headers
        self.request_id = given.decode("latin-1")[:MAX_ID_CHARS] or os.urandom(16).hex()
        self.deadline_s = deadline_s
        self.status = self.bytes_sent = self.series = 0
        self.outcome = self.model_version = self.made_by = ""
        trace = _TRACE_PARENT.fullmatch(self.headers.get(b"traceparent", b""))
        self.trace_id = trace.group(1).decode() if trace else ""
        scope[KEY] = self

    @property
    def elapsed_s(self) -> float:
        """Seconds since the request arrived."""
        return time.perf_counter() - self.started

    @property
    def left_s(self) -> float:
        """Seconds until the answer is due; at least a moment, so that whoever is given them says that they passed."""
        return max(self.deadline_s - self.elapsed_s, 1e-3)

    @property
    def route(self) -> str:
        """Template of the path, so that there are few of them."""
        return str(getattr(self.scope.get("route"), "path", "")) or "unmatched"

    def answered_by(self, model: LoadedModel) -> None:
        """Take down which model answered."""
        self.model_version = model.version
        self.made_by = model.details.get("tags", {}).get("traceparent", "")

    @property
    def counted_as(self) -> str:
        """The outcome, as :meth:`serve.service.Instruments.request` names it."""
        if self.outcome:
            return self.outcome
        if self.status < 400:
            return "ok"
        return OUTCOMES.get(self.status, "invalid" if self.status < 500 else "error")

    def fields(self) -> dict[str, Any]:
        """What the access log says of it."""
        return {
            "method": self.scope["method"],
            "route": self.route,
            "status": self.status,
            "outcome": self.counted_as,
            "seconds": round(self.elapsed_s, 6),
            "request_id": self.request_id,
            "trace_id": self.trace_id,
            "series": self.series,
            "model_version": self.model_version,
            "bytes": self.bytes_sent,
        }


def exchange_of(scope: Scope) -> Exchange:
    """The exchange that the middleware put into the scope of a request."""
    found: Exchange = scope[KEY]
    return found
