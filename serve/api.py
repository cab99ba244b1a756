"""The HTTP application of a replica: routes, problems, and the one layer around them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from flts_ray.config_serving import ServeSettings
from flts_ray.errors import FltsError
from serve.access_log import AccessLog, to_stderr
from serve.bodies import OffLoop
from serve.forecasting import ForecastHandler
from serve.legacy import LegacyHandler
from serve.middleware import FrontDesk
from serve.openapi import Reference
from serve.problems import Refusal, problem_response, refusal_for
from serve.service import Service
from serve.status import StatusHandlers
from serve.tracing import RequestTraces

SENT_ACROSS = ("Authorization", "Content-Type", "X-Request-ID", "X-Request-Timeout-Seconds", "traceparent")
SEEN_ACROSS = ("X-Request-ID", "X-Model-Version", "Retry-After")


def create_app(
    service: Service,
    *,
    token: str = "",
    pages: APIRouter | None = None,
    write_log: Callable[[str], None] = to_stderr,
    traces: RequestTraces | None = None,
) -> FastAPI:
    """The application of a replica.

    Args:
        service: The replica.
        token: Bearer token that all but the probes must show; empty: none.
        pages: More routes, such as those of the page; they may raise :class:`serve.problems.Refusal`.
        write_log: Takes the lines of the access log, in a thread.
        traces: Makes spans of requests; None: there are none.
    """
    settings = service.settings.serve
    access_log = AccessLog(write_log)

    async def refuse(request: Request, error: Exception) -> Response:
        return problem_response(request, refusal_for(error, retry_after_s=settings.retry_after_s))

    desk = Middleware(
        FrontDesk,
        instruments=service.instruments,
        access_log=access_log,
        deadline_s=settings.deadline_s,
        token=token,
        traces=traces,
    )
    app = FastAPI(
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=_writing(access_log),
        middleware=[*_cross_origin(settings), desk],
        exception_handlers=dict.fromkeys((Refusal, FltsError, HTTPException, RequestValidationError), refuse),
    )
    app.router.redirect_slashes = False  # clients do not send a body twice: a typing error is better said
    reference = Reference(app, settings, token=bool(token))
    status, off_loop = StatusHandlers(service), OffLoop()
    app.router.routes += [
        Place("/v1/forecast", ForecastHandler(service, off_loop).answer, methods=["POST"]),
        Place("/predict", LegacyHandler(service, off_loop).answer, methods=["POST"]),
        Place("/healthz", status.health),
        Place("/readyz", status.ready),
        Place("/v1/model", status.model),
        Place("/openapi.json", reference.json),
        Place("/docs", reference.page),
        Place("/docs/reference.css", reference.style),
    ]
    if pages is not None:
        app.include_router(pages)
    return app


class Place(Route):
    """A route that says in the scope which one it is, as those of the framework do."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """See ``starlette.routing.Route.matches``."""
        match, found = super().matches(scope)
        if match is not Match.NONE:
            found["route"] = self
        return match, found


def _writing(access_log: AccessLog) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        access_log.flush()

    return lifespan


def _cross_origin(settings: ServeSettings) -> list[Middleware]:
    """Lets the pages of some origins call; around the desk, because browsers ask first, and without the token."""
    if not settings.cors_origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=SENT_ACROSS,
            expose_headers=SEEN_ACROSS,
        )
    ]
