"""``POST /predict`` of the former service: its bodies and its answers, with forecasts that are right.

What differs, and why: the first forecast is one step after the last row; values are in the unit of the reports; times
with a zone are converted as in training and answered in their zone; and a body without data is an error, because
the answer to what some other client sent last is none.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from flts_ray.errors import HistoryError, Problem
from flts_ray.inference.engine import Engine
from flts_ray.inference.history import read_history
from flts_ray.inference.queries import Forecast, Query
from flts_ray.inference.times import read_times
from serve.answers import time_texts
from serve.bodies import OffLoop, announced_bytes, parse, read_body
from serve.exchange import Exchange, exchange_of
from serve.forecasting import STEP_BYTES, ask, current_model
from serve.problems import Refusal, invalid
from serve.questions import MOST_COLUMNS, Question, check_horizon
from serve.schemas import LegacyRequest
from serve.service import LoadedModel, Service

INDEX_COLUMNS = ("ts", "timestamp", "time", "date")
"""Where the times are looked for after ``index_col``."""

NAME_PREFIX = "flts-"
"""Of registered models; the rest of the name is what the former service called the identifier."""


class LegacyHandler:
    """Answers clients of the former service.

    Args:
        service: The replica.
        off_loop: Where long bodies are read.
    """

    def __init__(self, service: Service, off_loop: OffLoop) -> None:
        self._service, self._settings, self._off_loop = service, service.settings.serve, off_loop

    async def answer(self, request: Request) -> Response:
        """Answer one request.

        Raises:
            Refusal: 400 where the request is invalid, as the former service had it.
        """
        try:
            return await self._answer(request)
        except Refusal as refusal:
            if refusal.status != 422:
                raise
            raise invalid(refusal.problems, status=400) from None

    async def _answer(self, request: Request) -> Response:
        exchange = exchange_of(request.scope)
        model = current_model(self._service)
        with self._service.admission.admitted(announced_bytes(request), deadline_s=exchange.left_s):
            return await self._forecast(request, model, exchange)

    async def _forecast(self, request: Request, model: LoadedModel, exchange: Exchange) -> Response:
        body = await read_body(request, self._settings.max_body_bytes)
        length = request.query_params.get("inference_length")
        question = await self._off_loop(len(body), lambda: self._read(body, length, model.engine))
        exchange.series = 1
        result = (await ask(self._service, model, [question], exchange))[0]
        if isinstance(result, Refusal):
            raise result
        steps = STEP_BYTES * len(result.time)
        content = await self._off_loop(steps, lambda: _written(model, result, question.offset_s, exchange.request_id))
        exchange.answered_by(model)
        return Response(content, media_type="application/json")

    def _read(self, body: bytes, length: str | None, engine: Engine) -> Question:
        started = time.thread_time()
        question = self._question(body, length, engine)
        self._service.admission.read(length=len(body), queries=1, cpu_s=time.thread_time() - started)
        return question

    def _question(self, body: bytes, length: str | None, engine: Engine) -> Question:
        """What is asked.

        Args:
            body: JSON.
            length: ``inference_length`` of the address, which goes before that of the body.
            engine: What will answer.

        Raises:
            Refusal: If it cannot be.
        """
        sent = parse(LegacyRequest, body)
        horizon = sent.inference_length if length is None else _number(length)
        problems = check_horizon(horizon, "inference_length", self._settings)
        if problems:
            raise invalid(problems)
        index = _index_column(sent)
        try:
            columns = _sorted(sent.data, index)
            checked = read_history(
                engine.bundle.manifest,
                series=sent.series,
                time=columns.pop(index),
                columns=columns,
                settings=self._settings,
                field="data",
                unknown="ignore",
            )
        except HistoryError as error:
            raise invalid([_renamed(problem, index) for problem in error.problems]) from None
        query = Query(
            history=checked.frame,
            horizon=horizon,
            levels=engine.levels,
            adapt_rows=self._settings.interval_rows,
            notices=checked.notices,
        )
        return Question(query, checked.offset_s, "data")


def _number(length: str) -> int:
    if length.isascii() and length.isdecimal() and len(length) < 10:
        return int(length)
    problem = Problem("inference_length", f"{length[:40]!r} is not a number of steps", "send an integer from 1")
    raise invalid([problem])


def _index_column(sent: LegacyRequest) -> str:
    """The column of the times.

    Raises:
        Refusal: If there is none, or what is there is no table.
    """
    if not sent.data:
        raise invalid([Problem("data", "it is empty", "send the latest rows, column by column")])
    if len(sent.data) > MOST_COLUMNS:
        raise invalid([Problem("data", f"there are {len(sent.data)} columns", "send those that the model reads")])
    names = (*((sent.index_col,) if sent.index_col else ()), *INDEX_COLUMNS)
    found: str | None = next((name for name in names if name in sent.data), None)
    if found is None:
        fix = f"send them in one of {', '.join(names)}, or say in index_col where they are"
        raise invalid([Problem("data", "no column holds the times", fix)])
    problems = [
        Problem(f"data.{name}", "is not a list", "send a list with one value, or null, per time")
        for name, values in sent.data.items()
        if not isinstance(values, list)
    ]
    if problems:
        raise invalid(problems)
    return found


def _sorted(data: Mapping[str, list[Any]], index: str) -> dict[str, list[Any]]:
    """The columns with their rows in order of time, as the former service had them.

    Raises:
        HistoryError: If a time cannot be read.
    """
    given = data[index]
    if not given or any(len(values) != len(given) for values in data.values()):
        return dict(data)  # read_history says what is wrong
    time, _ = read_times(given, lambda row: f"data.{index}[{row}]")
    if (np.diff(time) >= np.timedelta64(0)).all():
        return dict(data)
    order = np.argsort(time, kind="stable").tolist()
    return {name: [values[row] for row in order] for name, values in data.items()}


def _renamed(problem: Problem, index: str) -> Problem:
    """A problem with the path that the value has in these bodies."""
    if problem.field == "data.series":
        return Problem("series", problem.reason, problem.fix)
    path = problem.field.removeprefix("data.columns.")
    if path == problem.field:
        return problem
    name, bracket, row = path.partition("[")
    return Problem(f"data.{index if name == 'time' else name}{bracket}{row}", problem.reason, problem.fix)


def _written(model: LoadedModel, forecast: Forecast, offset_s: int | None, request_id: str) -> bytes:
    columns = next(iter(model.engine.bundle.manifest.transforms.values())).columns
    rows = zip(time_texts(forecast.time, offset_s), forecast.values.tolist(), strict=True)
    empty = dict.fromkeys(columns)
    return to_json(
        {
            "status": "SUCCESS",
            "identifier": model.name.removeprefix(NAME_PREFIX),
            "run_id": model.run_id,
            "predictions": [
                {"ts": time, **empty, **dict(zip(forecast.targets, values, strict=True))} for time, values in rows
            ],
            "req_id": request_id,
            "cached": False,
        },
        inf_nan_mode="null",
    )
