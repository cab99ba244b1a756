"""Peer (a): FastAPI and uvicorn in one process, typed requests and answers, the forecast computed in the handler.

A forecast takes about a millisecond, so it runs on the event loop: handing it to a thread costs more than it gives.
"""

import argparse
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, create_model

from benchmarks.serve.peer import Answerer
from flts_ray.errors import FltsError


class Model(BaseModel):
    version: str
    kind: str


class Step(BaseModel):
    step: int
    time: str
    target: str
    value: float
    lower: float | None
    upper: float | None


class Notice(BaseModel):
    code: str
    message: str


class Forecast(BaseModel):
    series: str
    unit: str
    steps: list[Step]
    warnings: list[Notice]


class Response(BaseModel):
    model: Model
    forecasts: list[Forecast]


def make_app(answerer: Answerer) -> FastAPI:
    """The application."""
    names = next(iter(answerer.bundle.manifest.transforms.values())).columns
    fields: dict[str, Any] = dict.fromkeys(names, (list[float | None], ...))
    columns_model = create_model("Columns", time=(list[str], ...), **fields)
    history_model = create_model("History", series=(str | None, None), columns=(columns_model, ...))
    request_model: Any = create_model("Request", history=(history_model, ...))
    app = FastAPI()

    @app.get("/healthz")
    async def healthz() -> str:
        return "ok"

    @app.post("/v1/forecast")
    async def forecast(request: request_model) -> Response:
        history = request.history
        columns = {name: getattr(history.columns, name) for name in names}
        try:
            answer = answerer.answer(history.series, history.columns.time, columns)
        except FltsError as error:
            raise HTTPException(422, str(error)) from error
        return Response.model_validate(answer)

    return app


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--runtime", choices=("torch", "onnx"), default="torch")
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    app = make_app(Answerer(given.bundle, version=given.version, runtime=given.runtime))
    uvicorn.run(app, host="127.0.0.1", port=given.port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
