"""The OpenAPI document: what is sent and answered, written down from the models of :mod:`serve.schemas`.

The handlers read raw bodies, so the framework cannot know what they take; it adds only the routes of the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from flts_ray import __version__
from flts_ray.config import RAW_COLUMNS
from flts_ray.config_serving import ServeSettings
from serve import schemas
from serve.docs_page import docs_css, docs_html
from serve.problems import MEDIA_TYPE
from serve.questions import HIGHEST_LEVEL, LOWEST_LEVEL

REF = "#/components/schemas/{model}"

MODELS: tuple[type[BaseModel], ...] = (
    schemas.ForecastRequest,
    schemas.ForecastResponse,
    schemas.Health,
    schemas.LegacyRequest,
    schemas.LegacyResponse,
    schemas.ModelStory,
    schemas.ProblemDocument,
    schemas.Ready,
)

DESCRIPTION = """Forecasts of base-station load by the champion model.

Every answer carries `X-Request-ID`; answers of a model carry `X-Model-Version`. Errors are RFC 9457 problem details
with every problem found: field, reason, fix."""

_HEADERS = {
    "X-Request-ID": {"description": "Identifies the request in logs.", "schema": {"type": "string"}},
    "X-Model-Version": {"description": "Version that answered.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}},
    "WWW-Authenticate": {"description": "How to authenticate.", "schema": {"type": "string"}},
}
_TIMEOUT = {
    "name": "X-Request-Timeout-Seconds",
    "in": "header",
    "description": "Seconds that the client waits. Shortens the deadline of the service, never lengthens it.",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}
_EXAMPLE_ROWS = ("2018-02-05T23:20:00", "2018-02-05T23:30:00", "2018-02-05T23:40:00")


class Reference:
    """Serves the document, for programs and for people; it is made when it is first asked for.

    Args:
        app: The application; its own routes, such as those of the page, are documented by the framework.
        settings: Limits.
        token: Whether a bearer token is asked for.
    """

    def __init__(self, app: FastAPI, settings: ServeSettings, *, token: bool) -> None:
        self._app, self._settings, self._token = app, settings, token

    @cached_property
    def document(self) -> dict[str, Any]:
        """The OpenAPI document."""
        return document(self._settings, token=self._token, framework=self._app.openapi())

    async def json(self, request: Request) -> Response:
        """``GET /openapi.json``."""
        root = request.scope.get("root_path", "")
        servers = {"servers": [{"url": root}]} if root else {}
        return Response(to_json({**self.document, **servers}), media_type="application/json")

    async def page(self, request: Request) -> Response:
        """``GET /docs``."""
        base = str(request.base_url).rstrip("/")
        return HTMLResponse(docs_html(self.document, base=base, root=request.scope.get("root_path", "")))

    async def style(self, request: Request) -> Response:
        """``GET /docs/reference.css``."""
        return Response(docs_css(), media_type="text/css")


def document(settings: ServeSettings, *, token: bool, framework: Mapping[str, Any]) -> dict[str, Any]:
    """The whole document.

    Args:
        settings: Limits.
        token: Whether a bearer token is asked for.
        framework: Document of the routes that the framework knows.
    """
    _, definitions = models_json_schema([(model, "validation") for model in MODELS], ref_template=REF)
    components: dict[str, Any] = {**framework.get("components", {}).get("schemas", {}), **definitions["$defs"]}
    _limit(components, settings)
    built: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "flts-ray", "version": __version__, "description": DESCRIPTION},
        "paths": {**_paths(), **_corrected(framework.get("paths", {}))},
        "components": {"schemas": dict(sorted(components.items()))},
    }
    if token:
        built["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        built["security"] = [{"token": []}]
        for path, item in built["paths"].items():
            for operation in item.values():
                if path in {"/healthz", "/readyz"}:
                    operation["security"] = []
                else:
                    operation["responses"]["401"] = _problem(
                        "The bearer token is missing or wrong.", "WWW-Authenticate"
                    )
    return built


def _paths() -> dict[str, Any]:
    return {
        "/v1/forecast": {
            "post": _operation(
                "forecast",
                "Forecast what follows a history, or several",
                "Columns are found by name and may stand in any order. Beyond the steps that the model was trained for "
                "forecasts are made from forecasts. Of several histories a bad one fails alone, unless all are bad.",
                schemas.ForecastResponse,
                "The forecasts, in the order of the histories.",
                request=schemas.ForecastRequest,
                examples=_forecast_examples(),
                problems=(400, 413, 415, 422, 500, 503, 504),
                model_header=True,
            )
        },
        "/predict": {
            "post": _operation(
                "predict",
                "Forecast, in the form of the former service",
                "Kept for clients that cannot change. Rows are sorted by time; columns unknown to the model are "
                "ignored. Errors are problem details, whose detail is where it was; invalid content is 400.",
                schemas.LegacyResponse,
                "The forecast; columns that are not forecast are null.",
                request=schemas.LegacyRequest,
                examples={"columns": {"value": {"inference_length": 1, "data": _example("ts"), "index_col": "ts"}}},
                parameters=[
                    {
                        "name": "inference_length",
                        "in": "query",
                        "description": "Steps to forecast; goes before that of the body.",
                        "schema": {"type": "integer", "minimum": 1},
                    }
                ],
                problems=(400, 413, 415, 500, 503, 504),
                model_header=True,
            )
        },
        "/v1/model": {
            "get": _operation(
                "model",
                "The model that answers",
                "What it reads, where it comes from, how well it did, and how this replica stands with the registry.",
                schemas.ModelStory,
                "The model's story.",
                problems=(400, 500, 503, 504),
                model_header=True,
            )
        },
        "/readyz": {
            "get": _operation(
                "ready",
                "Whether a model is loaded and tried",
                "For load balancers.",
                schemas.Ready,
                "Requests will be answered.",
                problems=(400, 500, 503, 504),
                model_header=True,
            )
        },
        "/healthz": {
            "get": _operation(
                "health",
                "Whether the process is alive",
                "With or without a model.",
                schemas.Health,
                "It is.",
                problems=(400, 500, 504),
            )
        },
    }


def _corrected(paths: Mapping[str, Any]) -> dict[str, Any]:
    """The framework's routes with the errors that all routes have, in the form that they have them."""
    corrected: dict[str, Any] = {}
    for path, item in paths.items():
        corrected[path] = {}
        for method, operation in item.items():
            own = operation["responses"]
            statuses = {400, 500, 503, 504} | {int(status) for status in own if status >= "400"}
            errors = {str(s): _problem(_MEANINGS[s], *_EXTRA.get(s, ())) for s in sorted(statuses)}
            answers = {status: response for status, response in own.items() if status < "400"}
            parameters = [*operation.get("parameters", ()), _TIMEOUT]
            corrected[path][method] = {**operation, "parameters": parameters, "responses": {**answers, **errors}}
    return corrected


def _operation(
    name: str,
    summary: str,
    description: str,
    response: type[BaseModel],
    answer: str,
    *,
    request: type[BaseModel] | None = None,
    examples: Mapping[str, Any] | None = None,
    parameters: list[dict[str, Any]] | None = None,
    problems: tuple[int, ...] = (),
    model_header: bool = False,
) -> dict[str, Any]:
    names = ("X-Request-ID", "X-Model-Version") if model_header else ("X-Request-ID",)
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "description": description,
        "parameters": [*(parameters or []), _TIMEOUT],
        "responses": {
            "200": {
                "description": answer,
                "headers": {header: _HEADERS[header] for header in names},
                "content": {"application/json": {"schema": {"$ref": REF.format(model=response.__name__)}}},
            },
            **{str(status): _problem(_MEANINGS[status], *_EXTRA.get(status, ())) for status in problems},
        },
    }
    if request is not None:
        content = {"schema": {"$ref": REF.format(model=request.__name__)}, "examples": dict(examples or {})}
        operation["requestBody"] = {"required": True, "content": {"application/json": content}}
    return operation


_MEANINGS: Mapping[int, str] = {
    400: "The body is not JSON, or a header or parameter makes no sense.",
    404: "There is no such thing here.",
    413: "The body is too long.",
    415: "The body is not declared as JSON.",
    422: "Something that was sent is wrong; problems says all of it.",
    500: "The service failed; it has logged why.",
    503: "No model is loaded yet, or the service is busy: try again.",
    504: "There was no answer within the deadline.",
}
_EXTRA: Mapping[int, tuple[str, ...]] = {503: ("Retry-After",)}


def _problem(description: str, *headers: str) -> dict[str, Any]:
    names = ("X-Request-ID", *headers)
    return {
        "description": description,
        "headers": {name: _HEADERS[name] for name in names},
        "content": {MEDIA_TYPE: {"schema": {"$ref": REF.format(model=schemas.ProblemDocument.__name__)}}},
    }


def _forecast_examples() -> dict[str, Any]:
    columns = _example("time")
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return {
        "columns": {
            "summary": "By column (a model reads more rows than these: see lookback in /v1/model)",
            "value": {"history": {"series": "PobleSec", "columns": columns}},
        },
        "rows": {
            "summary": "By row, with two intervals",
            "value": {"history": {"series": "PobleSec", "rows": rows}, "levels": [0.8, 0.95]},
        },
        "several": {
            "summary": "Several histories, three steps",
            "value": {"histories": [{"series": "PobleSec", "columns": columns}], "horizon": 3},
        },
    }


def _example(time: str) -> dict[str, list[Any]]:
    values = {"down": 1.5e8, "up": 2e7}
    columns = {name: [values.get(name, 10.0)] * len(_EXAMPLE_ROWS) for name in RAW_COLUMNS}
    return {time: list(_EXAMPLE_ROWS), **columns}


def _limit(components: Mapping[str, Any], settings: ServeSettings) -> None:
    """Write the limits that come from the settings into the schemas of the requests."""
    fields = components[schemas.ForecastRequest.__name__]["properties"]
    _typed(fields["horizon"])["maximum"] = settings.max_horizon
    _typed(fields["adapt_rows"])["maximum"] = settings.max_rows
    _typed(fields["histories"])["maxItems"] = settings.max_histories
    levels = _typed(fields["levels"])
    levels["uniqueItems"] = True
    levels["items"] |= {"exclusiveMinimum": LOWEST_LEVEL, "exclusiveMaximum": HIGHEST_LEVEL}
    components[schemas.LegacyRequest.__name__]["properties"]["inference_length"]["maximum"] = settings.max_horizon


def _typed(field: Mapping[str, Any]) -> dict[str, Any]:
    """The branch of an optional field that is not null."""
    branch: dict[str, Any] = next(branch for branch in field["anyOf"] if branch.get("type") != "null")
    return branch
