"""``POST /v1/forecast``: questions in, forecasts out, each history for itself."""

from __future__ import annotations

import time
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from flts_ray.inference.queries import Forecast
from flts_ray.telemetry import tracing
from serve.answers import answer_json, error_entry, forecast_entry
from serve.bodies import OffLoop, announced_bytes, read_body
from serve.exchange import Exchange, exchange_of
from serve.problems import Refusal, combined, not_ready, refusal_for
from serve.questions import Question, Unreadable, read_questions
from serve.service import LoadedModel, Service

STEP_BYTES = 256
"""About the length of one step of an answer: by it is guessed whether writing the answer is work for a thread."""


class ForecastHandler:
    """Answers requests for forecasts.

    Args:
        service: The replica.
        off_loop: Where long bodies are read.
    """

    def __init__(self, service: Service, off_loop: OffLoop) -> None:
        self._service, self._settings, self._off_loop = service, service.settings.serve, off_loop

    async def answer(self, request: Request) -> Response:
        """Answer one request.

        Raises:
            Refusal: If no history gets a forecast.
            BusyError: If too much is in progress already.
        """
        exchange = exchange_of(request.scope)
        model = current_model(self._service)
        with self._service.admission.admitted(announced_bytes(request), deadline_s=exchange.left_s):
            return await self._answer(request, model, exchange)

    async def _answer(self, request: Request, model: LoadedModel, exchange: Exchange) -> Response:
        body = await read_body(request, self._settings.max_body_bytes)
        with tracing.span("read"):
            entries = await self._off_loop(len(body), lambda: self._read(body, model))
        exchange.series = len(entries)
        results = await self._results(model, entries, exchange)
        forecasts = [result for result in results if isinstance(result, Forecast)]
        if not forecasts:
            raise combined([result for result in results if isinstance(result, Refusal)])
        length = STEP_BYTES * sum(len(forecast.time) for forecast in forecasts)
        with tracing.span("write"):
            content = await self._off_loop(length, lambda: _written(model, entries, results))
        exchange.answered_by(model)
        return Response(content, media_type="application/json")

    def _read(self, body: bytes, model: LoadedModel) -> list[Question | Unreadable]:
        started = time.thread_time()
        entries = read_questions(body, model.engine, self._settings)
        cpu_s = time.thread_time() - started
        self._service.admission.read(length=len(body), queries=len(entries), cpu_s=cpu_s)
        return entries

    async def _results(
        self, model: LoadedModel, entries: Sequence[Question | Unreadable], exchange: Exchange
    ) -> list[Forecast | Refusal]:
        """The forecast of every history, or why there is none; forecasts are recorded."""
        questions = [entry for entry in entries if isinstance(entry, Question)]
        outcomes = iter(await ask(self._service, model, questions, exchange))
        return [next(outcomes) if isinstance(entry, Question) else entry.refusal for entry in entries]


def current_model(service: Service) -> LoadedModel:
    """The model that answers now; one request takes one.

    Raises:
        Refusal: If there is none yet.
    """
    model = service.models.current
    if model is None:
        why = service.models.status().error
        reason = "no model has been promoted yet" if not why else "the promoted model cannot be served: see /v1/model"
        raise not_ready(reason, service.settings.serve.retry_after_s)
    return model


async def ask(
    service: Service, model: LoadedModel, questions: Sequence[Question], exchange: Exchange
) -> list[Forecast | Refusal]:
    """The outcome of every question, in order; forecasts go to the prediction log.

    Raises:
        DeadlineError: If there was no time for one.
    """
    queries = [question.query for question in questions]
    results: list[Forecast | Refusal] = []
    for question, outcome in zip(
        questions, await service.forecast(model, queries, deadline_s=exchange.left_s), strict=True
    ):
        if isinstance(outcome, Forecast):
            service.record(exchange.request_id, model, question.query, outcome)
            results.append(outcome)
        else:
            retry = service.settings.serve.retry_after_s
            results.append(refusal_for(outcome, field=question.field, retry_after_s=retry))
    return results


def _written(
    model: LoadedModel, entries: Sequence[Question | Unreadable], results: Sequence[Forecast | Refusal]
) -> bytes:
    parts = []
    for entry, result in zip(entries, results, strict=True):
        if isinstance(result, Refusal):
            parts.append(error_entry(entry.series, result))
        else:
            parts.append(forecast_entry(result, entry.offset_s))
    return answer_json(model, parts)
