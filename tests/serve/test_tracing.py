"""Requests as a collector sees them: one span each, in the caller's trace, with a link to what made the model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from flts_ray.errors import FltsError
from flts_ray.inference.queries import Forecast, Query
from serve.access_log import AccessLog
from serve.admission import Admission
from serve.api import create_app
from serve.compute import Lanes
from serve.exchange import Exchange
from serve.instruments import NullInstruments
from serve.service import LoadedModel
from serve.tracing import request_traces
from tests.serve.asgi import Wire
from tests.serve.conftest import Served
from tests.serve.here import HereService, here
from tests.serve.test_compute import batch
from tests.telemetry.receiver import Receiver, receiving

pytestmark = pytest.mark.unit

FORECAST = "/v1/forecast"
CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
MAKER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SERVER = 2


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def service(served: Served, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> HereService:
    """A replica that computes in lanes, as real ones do, and whose model a traced run made."""
    monkeypatch.setattr("serve.compute.serve.batch", batch)
    telemetry = served.settings.telemetry.model_copy(update={"otlp_endpoint": receiver.endpoint})
    made = here(served.settings.model_copy(update={"telemetry": telemetry}), served.bundle)
    model = made.models.current
    assert model is not None
    made.models.current = replace(model, details={**model.details, "tags": {"traceparent": MAKER}})
    lanes: list[Lanes] = []

    async def forecast(
        model: LoadedModel, queries: Sequence[Query], *, deadline_s: float
    ) -> list[Forecast | FltsError]:
        if not lanes:
            lanes.append(Lanes(NullInstruments(), Admission(64), max_batch_size=8, max_long=2))
        return await lanes[0].run(model.engine, queries, deadline_s=deadline_s)

    monkeypatch.setattr(made, "forecast", forecast)
    return made


def ask(service: HereService, *requests: tuple[str, dict[str, str], Any]) -> list[Wire]:
    """Send requests at once; all their spans have arrived afterwards."""
    traces = request_traces(service.settings.telemetry)
    app = create_app(service, traces=traces)
    wires = [Wire([json.dumps(body).encode()]) for _, _, body in requests]

    async def together() -> None:
        await asyncio.gather(
            *(
                wire.request(
                    app,
                    path,
                    method="POST" if body is not None else "GET",
                    headers=[("content-type", "application/json"), *headers.items()],
                )
                for wire, (path, headers, body) in zip(wires, requests, strict=True)
            )
        )

    asyncio.run(together())
    if traces is not None:
        traces.close()
    return wires


def test_a_request_is_a_span_in_the_callers_trace_that_refers_to_the_models_run(
    service: HereService, served: Served, receiver: Receiver
) -> None:
    headers = {"traceparent": CALLER, "x-request-id": "r-1"}
    [wire] = ask(service, (FORECAST, headers, {"histories": [served.history()] * 2}))
    assert wire.status == 200
    span = receiver.one(f"POST {FORECAST}")
    assert (span.trace_id, span.parent_id, span.kind) == (CALLER[3:35], CALLER[36:52], SERVER)
    assert span.links == [(MAKER[3:35], MAKER[36:52])]
    assert (
        span.attributes.items()
        >= {
            "http.request.method": "POST",
            "http.route": FORECAST,
            "http.response.status_code": 200,
            "http.response.body.size": len(wire.sent[1]["body"]),
            "flts.request_id": "r-1",
            "flts.outcome": "ok",
            "flts.model.version": "3",
            "flts.series": 2,
        }.items()
    )
    assert span.resource["service.name"] == "flts-serve"
    parts = {child.name: child for child in receiver.spans if child.parent_id == span.span_id}
    assert set(parts) == {"read", "wait", "compute", "write"}
    assert all(part.seconds >= 0 for part in parts.values())


def test_requests_computed_together_each_have_the_batch_in_their_own_trace(
    service: HereService, served: Served, receiver: Receiver
) -> None:
    body = {"history": served.history()}
    ask(service, *[(FORECAST, {}, body) for _ in range(3)])
    spans = receiver.named(f"POST {FORECAST}")
    assert len({span.trace_id for span in spans}) == 3
    computed = receiver.named("compute")
    assert {part.parent_id for part in computed} == {span.span_id for span in spans}
    assert max(part.attributes["flts.batch.size"] for part in computed) > 1


def test_refusals_and_failures_are_told_apart(service: HereService, served: Served, receiver: Receiver) -> None:
    service.models.current = None
    ask(service, (FORECAST, {}, {"history": served.history()}), ("/v1/nowhere", {"traceparent": "nonsense"}, None))
    refused = receiver.one(f"POST {FORECAST}")
    assert (refused.failed, refused.attributes["error.type"], refused.links) == (True, "503", [])
    missing = receiver.one("GET unmatched")
    assert (missing.failed, missing.attributes["flts.outcome"], missing.parent_id) == (False, "invalid", "")


def test_probes_and_traces_that_the_caller_does_not_keep_are_not_sent(
    service: HereService, served: Served, receiver: Receiver
) -> None:
    unsampled = {"traceparent": CALLER[:-2] + "00"}
    ask(service, ("/healthz", {}, None), ("/readyz", {}, None), (FORECAST, unsampled, {"history": served.history()}))
    assert receiver.spans == []


def test_a_line_of_the_access_log_names_the_trace_that_began_here(
    service: HereService, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[Exchange] = []
    monkeypatch.setattr(AccessLog, "note", lambda self, exchange: noted.append(exchange))
    ask(service, ("/v1/model", {}, None))
    assert noted[0].fields()["trace_id"] == receiver.one("GET /v1/model").trace_id


def test_a_client_that_leaves_leaves_a_span(service: HereService, receiver: Receiver) -> None:
    traces = request_traces(service.settings.telemetry)
    assert traces is not None
    wire = Wire([b'{"history"'], leaves=True)
    asyncio.run(wire.request(create_app(service, traces=traces), FORECAST))
    traces.close()
    assert receiver.one(f"POST {FORECAST}").attributes["flts.outcome"] == "disconnected"


def test_without_a_collector_there_are_no_traces(served: Served) -> None:
    assert request_traces(served.settings.telemetry) is None
