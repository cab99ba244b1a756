"""The one layer around all routes: who asks, until when, and what is noted of the answer.

Pure ASGI, one layer instead of five, because every layer costs every request.
"""

from __future__ import annotations

import asyncio
import hmac
import math
from collections.abc import Sequence

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flts_ray.errors import Problem
from flts_ray.telemetry.logging import LOGGER
from serve.access_log import SILENT, AccessLog
from serve.exchange import Exchange
from serve.problems import Refusal, broken, invalid, problem_response
from serve.service import Instruments
from serve.tracing import RequestTraces

TIMEOUT_HEADER = b"x-request-timeout-seconds"
CLIENT_SHARE = 0.9
"""Part of the time a client gives that is used: the answer has to reach it, and Ray Serve, which reads the same header,
would otherwise be first with an answer of its own (408)."""

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/"})
OPEN_FOLDER = "/page/"
"""What is answered without a token: probes, and the page, which holds no data and asks for the token itself."""

POLICY = b"default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

Headers = Sequence[tuple[bytes, bytes]]


class FrontDesk:
    """Checks the token, keeps the deadline, answers what nobody else did, adds headers, counts and logs.

    Args:
        app: What answers.
        instruments: Is told of every request.
        access_log: Likewise.
        deadline_s: Seconds a request may take; a client can ask for less.
        token: Bearer token that every path but the probes' needs; empty: none.
        traces: Makes a span of every request but the probes'; None: there are no traces.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        instruments: Instruments,
        access_log: AccessLog,
        deadline_s: float,
        token: str = "",
        traces: RequestTraces | None = None,
    ) -> None:
        self._app, self._instruments, self._access_log = app, instruments, access_log
        self._deadline_s, self._token, self._traces = deadline_s, token.encode(), traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection; what is not HTTP passes untouched."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, self._deadline_s)
        if self._traces is None or exchange.path in SILENT:
            await self._answer(exchange, receive, send)
            return
        with self._traces.request(exchange):
            await self._answer(exchange, receive, send)

    async def _answer(self, exchange: Exchange, receive: Receive, send: Send) -> None:
        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = _completed(message.get("headers", ()), exchange)
            else:
                exchange.bytes_sent += len(message.get("body", b""))
            await send(message)

        try:
            refusal = await self._run(exchange, receive, noted)
            if refusal is not None:
                await problem_response(Request(exchange.scope), refusal)(exchange.scope, receive, noted)
        except asyncio.CancelledError:  # what Ray Serve does to the requests of clients that are gone
            exchange.outcome = "disconnected"
            raise
        except ClientDisconnect:
            exchange.outcome = "disconnected"
        finally:
            self._instruments.request(route=exchange.route, outcome=exchange.counted_as, seconds=exchange.elapsed_s)
            self._access_log.note(exchange)

    async def _run(self, exchange: Exchange, receive: Receive, send: Send) -> Refusal | None:
        """Let the application answer; a refusal if it did not."""
        limit = asyncio.timeout(None)
        try:
            self._check_token(exchange)
            exchange.deadline_s = self._deadline_of(exchange)
            async with asyncio.timeout(exchange.left_s) as limit:
                await self._app(exchange.scope, receive, send)
        except Refusal as refusal:
            return refusal
        except ClientDisconnect:
            raise
        except Exception as error:
            if exchange.status:  # too late for another answer: the server closes the connection
                raise
            if isinstance(error, TimeoutError) and limit.expired():
                return Refusal(504, f"no answer within {exchange.deadline_s:g} s: ask for less, or again later")
            where = {"request_id": exchange.request_id, "route": exchange.route}
            LOGGER.error("request_failed", exc_info=error, extra={"fields": where})
            return broken()
        return None

    def _check_token(self, exchange: Exchange) -> None:
        if not self._token or exchange.path in OPEN_PATHS or exchange.path.startswith(OPEN_FOLDER):
            return
        scheme, _, given = exchange.headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._token):
            return
        flaw = ', error="invalid_token"' if scheme else ""
        raise Refusal(
            401,
            "the bearer token is wrong" if scheme else "send the header Authorization: Bearer followed by the token",
            headers={"WWW-Authenticate": f'Bearer realm="flts"{flaw}'},
        )

    def _deadline_of(self, exchange: Exchange) -> float:
        given = exchange.headers.get(TIMEOUT_HEADER)
        if given is None:
            return self._deadline_s
        try:
            seconds = float(given)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            reason = f"{given.decode('latin-1')[:40]!r} is not a number of seconds above 0"
            raise invalid(
                [Problem("X-Request-Timeout-Seconds", reason, "send a number such as 2.5, or no such header")],
                status=400,
            )
        return min(self._deadline_s, CLIENT_SHARE * seconds)


def _completed(headers: Headers, exchange: Exchange) -> list[tuple[bytes, bytes]]:
    """The headers of an answer with those that all answers have."""
    found = dict(headers)
    added = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
    if found.get(b"content-type", b"").startswith(b"text/html"):
        added.append((b"content-security-policy", POLICY))
    if exchange.model_version:
        added.append((b"x-model-version", exchange.model_version.encode("latin-1", "replace")))
    if not exchange.stamped:
        added.append((b"x-request-id", exchange.request_id.encode("latin-1", "replace")))
    return [*headers, *(pair for pair in added if pair[0] not in found)]
