"""What is wrong with a request, as RFC 9457 problem details. Nothing of the inside gets out: no traces, no paths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from flts_ray.errors import BusyError, DataError, DeadlineError, HistoryError, Problem
from flts_ray.telemetry.logging import LOGGER
from serve.exchange import exchange_of

MEDIA_TYPE = "application/problem+json"

TITLES: Mapping[int, str] = {
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
    500: "Internal Server Error",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}

MOST_PROBLEMS = 50
"""Problems that an answer lists; a body of nonsense has one a value."""


_REASONS = {"missing": "is required", "extra_forbidden": "is not a known field"}
_FIXES = {
    "missing": "add it",
    "extra_forbidden": "remove it, or correct its name",
    "model_type": "send an object",
    "dict_type": "send an object",
    "list_type": "send a list",
    "string_type": "send a string",
    "int_type": "send an integer",
    "float_type": "send a number",
    "finite_number": "send a finite number",
    "json_invalid": "send valid JSON",
}


class Refusal(Exception):
    """A request that gets no forecast.

    Args:
        status: HTTP status.
        detail: What was wrong, in a sentence, and what to do.
        problems: The same, field by field.
        headers: More headers of the answer.
        outcome: How the request is counted, unless its status says.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        problems: Sequence[Problem] = (),
        *,
        headers: Mapping[str, str] | None = None,
        outcome: str = "",
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.problems = status, detail, tuple(problems)
        self.headers, self.outcome = dict(headers or {}), outcome

    @property
    def title(self) -> str:
        """Its status in words."""
        return TITLES.get(self.status, "Error")

    def listed(self) -> list[dict[str, str]]:
        """Its problems as an answer lists them."""
        shown = self.problems[:MOST_PROBLEMS]
        return [{"field": problem.field, "reason": problem.reason, "fix": problem.fix} for problem in shown]


def invalid(problems: Sequence[Problem], *, status: int = 422) -> Refusal:
    """The refusal of a request whose content is wrong."""
    what = "one thing is wrong" if len(problems) == 1 else f"{len(problems)} things are wrong"
    more = f" (the first {MOST_PROBLEMS})" if len(problems) > MOST_PROBLEMS else ""
    return Refusal(status, f"{what} with the request: see problems{more}", problems)


def combined(refusals: Sequence[Refusal]) -> Refusal:
    """One refusal for several parts of a request: their problems together if all are the client's, else the gravest."""
    if all(refusal.status == 422 for refusal in refusals):
        return invalid([problem for refusal in refusals for problem in refusal.problems])
    return max(refusals, key=lambda refusal: refusal.status)


def not_ready(reason: str, retry_after_s: float) -> Refusal:
    """The refusal while there is no model to answer with."""
    return Refusal(503, reason, headers=retry_after(retry_after_s), outcome="not_ready")


def refusal_for(error: Exception, *, field: str = "request", retry_after_s: float = 1.0) -> Refusal:
    """The refusal of a request that ended in an error.

    Args:
        error: What happened. What is not the client's doing is logged, and told without particulars.
        field: Part of the request that it befell.
        retry_after_s: What a client is told to wait if the service is busy.
    """
    match error:
        case Refusal():
            return error
        case HTTPException():
            return _of_routing(error)
        case RequestValidationError():
            return invalid(problems_of(error.errors()))
        case HistoryError():
            return invalid(error.problems)
        case DataError():
            return invalid([Problem(field, str(error), "send what the message asks for")])
        case DeadlineError():
            return Refusal(504, str(error), [Problem(field, str(error), "ask for less, or again later")])
        case BusyError():
            busy = Problem(field, str(error), "ask again later")
            return Refusal(503, str(error), [busy], headers=retry_after(retry_after_s))
    LOGGER.error("request_failed", exc_info=error, extra={"fields": {"field": field}})
    return broken()


def _of_routing(error: HTTPException) -> Refusal:
    """The refusal of an address or method that there is not."""
    headers = dict(error.headers or {})
    detail = str(error.detail)
    if error.status_code == 404:
        detail = "there is nothing at this address: /docs lists what there is"
    elif allowed := headers.get("Allow"):
        headers["Allow"] = ", ".join(sorted(allowed.split(", ")))
        detail = f"this address takes {headers['Allow']} only"
    return Refusal(error.status_code, detail, headers=headers)


def broken() -> Refusal:
    """The refusal after a fault of our own."""
    return Refusal(500, "the service failed on this request and has logged why: report its request id")


def problem_response(request: Request, refusal: Refusal) -> Response:
    """The answer to a request that is refused; notes the outcome for metrics and access log."""
    exchange = exchange_of(request.scope)
    exchange.outcome = refusal.outcome
    document = {
        "type": "about:blank",
        "title": refusal.title,
        "status": refusal.status,
        "detail": refusal.detail,
        "problems": refusal.listed(),
        "request_id": exchange.request_id,
    }
    return Response(to_json(document), status_code=refusal.status, headers=refusal.headers, media_type=MEDIA_TYPE)


def problems_of(errors: Sequence[Mapping[str, Any]], field: str = "") -> list[Problem]:
    """What pydantic found, in words for the client.

    Args:
        errors: Its list.
        field: Path of what was validated; empty for the whole body.
    """
    return [
        Problem(
            path_of(error["loc"], field) or "body",
            _REASONS.get(error["type"]) or error["msg"].replace("Input should be", "must be"),
            _FIXES.get(error["type"], "correct it: /docs says what is expected"),
        )
        for error in errors
    ]


def path_of(parts: Sequence[int | str], field: str = "") -> str:
    """A path such as ``histories[3].series``."""
    for part in parts:
        field += f"[{part}]" if isinstance(part, int) else f".{part}" if field else part
    return field


def retry_after(seconds: float) -> dict[str, str]:
    """The header that says when to try again; whole seconds, as the standard has it."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}
