"""The page of the service: its files, and the GET routes that feed it.

The files are read once, when the routes are made. They load nothing from anywhere else and hold no inline script or
style, so the strictest content security policy lets them pass.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

from flts_ray.errors import FltsError, HistoryError, InfrastructureError
from flts_ray.telemetry import logging as log
from serve.exchange import exchange_of
from serve.forecasting import current_model
from serve.problems import TITLES, Refusal, invalid
from serve.schemas import ProblemDocument
from serve.service import LoadedModel, Service
from serve.stories import Stories
from serve.story_schemas import RecentRows, Stations, Story

FOLDER = "page"
FILES: Mapping[str, str] = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "chart.js": "text/javascript; charset=utf-8",
    "rows.js": "text/javascript; charset=utf-8",
    "story.js": "text/javascript; charset=utf-8",
    "texts.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "vendor/uPlot.iife.min.js": "text/javascript; charset=utf-8",
    "vendor/uPlot.min.css": "text/css; charset=utf-8",
    "vendor/uPlot.LICENSE": "text/plain; charset=utf-8",
}
INDEX = "index.html"
DEFAULT_ROWS = 4000


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file of the page, as it is sent."""

    content: bytes
    media_type: str
    etag: str

    def answer(self, request: Request) -> Response:
        """The file, or that the browser's copy is still good."""
        headers = {
            "ETag": self.etag,
            "Cache-Control": "no-cache",  # keep it, but ask: the next version of the service has the same addresses
        }
        if self.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


def page_files() -> dict[str, PageFile]:
    """The files of the page by name, from the installed package."""
    folder = files("serve") / FOLDER
    found = {}
    for name, media_type in FILES.items():
        content = folder.joinpath(name).read_bytes()
        found[name] = PageFile(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:16]}"')
    return found


def router(service: Service) -> APIRouter:
    """The routes of the page, to be included in the application.

    The GETs that read stores are plain functions: FastAPI runs those in a thread, off the event loop.

    Args:
        service: The replica.
    """
    routes, stories, known = APIRouter(tags=["page"]), Stories(service.settings), page_files()
    most = service.settings.serve.max_rows
    last_rows = Query(min(DEFAULT_ROWS, most), ge=1, le=most, description="How many rows at most.")

    @routes.get("/", include_in_schema=False)
    def index(request: Request) -> Response:
        return known[INDEX].answer(request)

    for name, file in known.items():
        routes.add_api_route(f"/{FOLDER}/{name}", file.answer, include_in_schema=False)

    @routes.get("/v1/stations", **_documented(Stations, "What can be forecast", 503))
    def stations(request: Request) -> Response:
        return _told(request, service, stories.stations)

    @routes.get("/v1/history", **_documented(RecentRows, "The latest rows of a station", 404, 422, 503))
    def history(
        request: Request,
        series: Annotated[str | None, Query(max_length=200, description="Station; may be left out if one.")] = None,
        rows: int = last_rows,
    ) -> Response:
        return _told(request, service, lambda model: stories.history(model, series, rows))

    @routes.get("/v1/leaderboard", **_documented(Story, "Leaderboard and verdict of the model's run", 404, 503))
    def leaderboard(request: Request) -> Response:
        return _told(request, service, stories.story)

    return routes


def _told(request: Request, service: Service, tell: Callable[[LoadedModel], BaseModel]) -> Response:
    """What is told of the model that answers now.

    Raises:
        Refusal: If there is no model, or its stores do not have or do not give what is asked for.
    """
    model = current_model(service)
    try:
        document = tell(model)
    except HistoryError as error:
        raise invalid(error.problems) from error
    except FltsError as error:
        raise _unavailable(error, service.settings.serve.retry_after_s) from error
    exchange_of(request.scope).answered_by(model)
    return Response(document.model_dump_json(), media_type="application/json")


def _unavailable(error: FltsError, retry_after_s: float) -> Refusal:
    """Why a story cannot be told. The particulars, which may name places, go to the log only."""
    log.event("story_unavailable", level=log.WARNING, error=error.name, reason=str(error))
    if isinstance(error, InfrastructureError):
        return Refusal(
            503,
            "the store that holds it does not answer: ask again later (forecasts do not need it)",
            headers={"Retry-After": str(max(1, math.ceil(retry_after_s)))},
        )
    return Refusal(
        404,
        "the stores of this service do not hold it: let storage.root and tracking.uri name those of the run that made "
        "the model (its log says what is missing; forecasts do not need it)",
    )


def _documented(model: type[BaseModel], summary: str, *problems: int) -> dict[str, Any]:
    """Arguments of a route for the OpenAPI document; the handlers serialise by themselves, in their thread."""
    return {
        "summary": summary,
        "response_class": Response,
        "responses": {
            200: {"model": model},
            **{status: {"description": TITLES[status], "model": ProblemDocument} for status in problems},
        },
    }
