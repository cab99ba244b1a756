"""What happens around every request: tokens, deadlines, identities, failures, metrics and the access log."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import APIRouter
from starlette.responses import HTMLResponse, Response
from starlette.types import Message

from flts_ray.errors import BundleError, StorageError
from flts_ray.telemetry.logging import LOGGER
from serve import access_log
from serve.access_log import AccessLog
from serve.api import create_app
from serve.exchange import Exchange
from tests.serve.asgi import Wire
from tests.serve.conftest import Served
from tests.serve.here import HereService, client, here

pytestmark = pytest.mark.unit

FORECAST = "/v1/forecast"
TOKEN = "a-token-of-the-test"


@pytest.fixture
def service(served: Served) -> HereService:
    return here(served.settings, served.bundle)


@pytest.fixture
def talkative() -> Iterator[None]:
    """Events of level info are on, as the entry point sets them."""
    level = LOGGER.level
    LOGGER.setLevel(logging.INFO)
    yield
    LOGGER.setLevel(level)


def requests_in(text: str) -> list[dict[str, Any]]:
    """The lines of the access log."""
    return [json.loads(line) for line in text.splitlines() if '"event": "request' in line]


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer wrong", "Basic " + TOKEN, TOKEN, "Bearer " + TOKEN + "x"])
def test_without_the_token_nothing_is_told(service: HereService, given: str) -> None:
    with client(service, token=TOKEN) as http:
        headers = {"Authorization": given} if given else {}
        for method, path in (("POST", FORECAST), ("GET", "/v1/model"), ("GET", "/docs"), ("GET", "/nowhere")):
            answer = http.request(method, path, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith('Bearer realm="flts"')
            assert answer.headers["content-type"] == "application/problem+json"
    assert {outcome for _, outcome in service.instruments.requests} == {"unauthorized"}


def test_the_token_opens_and_probes_need_none(service: HereService, served: Served) -> None:
    with client(service, token=TOKEN) as http:
        assert http.get("/healthz").status_code == 200
        assert http.get("/readyz").status_code == 200
        for scheme in ("Bearer", "bearer"):
            headers = {"Authorization": f"{scheme} {TOKEN}"}
            assert http.post(FORECAST, json={"history": served.history()}, headers=headers).status_code == 200


def test_probes_need_no_token_below_a_prefix(service: HereService) -> None:
    app, probe, other = create_app(service, token=TOKEN), Wire([b""]), Wire([b""])
    asyncio.run(probe.request(app, "/healthz", method="GET", root_path="/flts"))
    asyncio.run(other.request(app, "/v1/model", method="GET", root_path="/flts"))
    assert (probe.status, other.status) == (200, 401)


@pytest.mark.usefixtures("talkative")
def test_the_token_is_never_logged(
    service: HereService, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    service.failure = RuntimeError("broken")
    with client(service, token=TOKEN) as http, caplog.at_level(logging.DEBUG):
        http.post(FORECAST, json={}, headers={"Authorization": f"Bearer {TOKEN}"})
        http.post(FORECAST, json={}, headers={"Authorization": "Bearer another-secret"})
    written = capsys.readouterr().err
    assert len(requests_in(written)) == 2
    assert not any(secret in text for secret in (TOKEN, "another-secret") for text in (written, caplog.text))


def test_a_slow_forecast_is_given_up_at_the_deadline(served: Served) -> None:
    service = here(served.settings, served.bundle, deadline_s=0.05)
    service.delay_s = 60
    with client(service) as http:
        answer = http.post(FORECAST, json={"history": served.history()})
    assert (answer.status_code, answer.headers["content-type"]) == (504, "application/problem+json")
    assert service.instruments.requests == [(FORECAST, "deadline")]


def test_what_ignores_its_deadline_is_cut_off(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    service = here(served.settings, served.bundle, deadline_s=0.05)

    async def hang(*args: object, **how: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(service, "forecast", hang)
    with client(service) as http:
        answer = http.post(FORECAST, json={"history": served.history()})
    assert (answer.status_code, service.instruments.requests) == (504, [(FORECAST, "deadline")])


def test_a_body_that_does_not_come_is_given_up_at_the_deadline(served: Served) -> None:
    service = here(served.settings, served.bundle, deadline_s=0.05)

    class Stalled(Wire):
        async def receive(self) -> Message:
            await asyncio.sleep(60)
            raise AssertionError("the application waited on")

    wire = Stalled([])
    asyncio.run(wire.request(create_app(service), FORECAST))
    assert wire.status == 504


def test_a_client_shortens_the_deadline_and_never_lengthens_it(
    service: HereService, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []
    forecast = service.forecast

    async def watched(*args: object, deadline_s: float) -> object:
        given.append(deadline_s)
        return await forecast(*args, deadline_s=deadline_s)  # type: ignore[arg-type]

    monkeypatch.setattr(service, "forecast", watched)
    with client(service) as http:
        for seconds in ("4", "1000", "5e-1"):
            headers = {"X-Request-Timeout-Seconds": seconds}
            assert http.post(FORECAST, json={"history": served.history()}, headers=headers).status_code == 200
    longest = served.settings.serve.deadline_s
    assert 0.5 * 4 < given[0] < 4
    assert 4 < given[1] < longest
    assert given[2] < 0.5


@pytest.mark.parametrize("seconds", ["soon", "", "0", "-1", "nan", "inf", "1 s"])
def test_a_deadline_that_makes_no_sense_is_refused(service: HereService, seconds: str) -> None:
    with client(service) as http:
        answer = http.get("/v1/model", headers={"X-Request-Timeout-Seconds": seconds})
    assert (answer.status_code, answer.json()["problems"][0]["field"]) == (400, "X-Request-Timeout-Seconds")


def test_an_id_is_made_unless_one_came(service: HereService) -> None:
    app, without, with_one = create_app(service), Wire([b"{}"]), Wire([b"{}"])
    asyncio.run(without.request(app, FORECAST))
    headers = [("content-type", "application/json"), ("x-request-id", "of-the-proxy")]
    asyncio.run(with_one.request(app, FORECAST, headers=headers))
    [made] = without.header("x-request-id")
    assert json.loads(without.sent[1]["body"])["request_id"] == made
    assert json.loads(with_one.sent[1]["body"])["request_id"] == "of-the-proxy"
    assert with_one.header("x-request-id") == []  # whoever gave it also puts it into the answer


def test_a_body_in_pieces_is_counted_whatever_its_length_is_said_to_be(served: Served) -> None:
    app = create_app(here(served.settings, served.bundle, max_body_bytes=2048))
    for declared in ("10", "nonsense", None):
        wire = Wire([b"x" * 1000] * 10)
        length = [("content-length", declared)] if declared else [("transfer-encoding", "chunked")]
        asyncio.run(wire.request(app, FORECAST, headers=[("content-type", "application/json"), *length]))
        assert (wire.status, wire.read) == (413, 3)
    wire = Wire([b"{"])
    headers = [("content-type", "application/json"), ("content-length", "2049")]
    asyncio.run(wire.request(app, FORECAST, headers=headers))
    assert (wire.status, wire.read) == (413, 0)


def test_a_body_in_pieces_is_put_together(service: HereService, served: Served) -> None:
    content = json.dumps({"history": served.history()}).encode()
    wire = Wire([content[:100], b"", content[100:]])
    asyncio.run(wire.request(create_app(service), FORECAST))
    assert wire.status == 200


def test_a_client_that_leaves_gets_nothing_and_is_counted(service: HereService) -> None:
    wire = Wire([b'{"history"'], leaves=True)
    asyncio.run(wire.request(create_app(service), FORECAST))
    assert wire.sent == []
    assert service.instruments.requests == [(FORECAST, "disconnected")]


def test_a_request_that_is_cancelled_is_counted(service: HereService, served: Served) -> None:
    service.delay_s = 5

    async def leave() -> None:
        wire = Wire([json.dumps({"history": served.history()}).encode()])
        task = asyncio.create_task(wire.request(create_app(service), FORECAST))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    assert service.instruments.requests == [(FORECAST, "disconnected")]


@pytest.mark.parametrize("failure", [RuntimeError("secret inside"), BundleError("/home/secret inside")])
def test_a_failure_is_logged_with_its_trace_and_told_without(
    service: HereService, served: Served, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    service.failure = failure
    with client(service) as http:
        answer = http.post(FORECAST, json={"history": served.history()})
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    [record] = [record for record in caplog.records if record.message == "request_failed"]
    assert record.exc_info is not None
    assert record.exc_info[1] is failure
    assert service.instruments.requests == [(FORECAST, "error")]


def test_more_routes_are_refused_and_protected_like_the_own(service: HereService) -> None:
    pages = APIRouter()

    @pages.get("/")
    def page() -> Response:
        return HTMLResponse("<p>hello</p>")

    @pages.get("/v1/rows")
    def rows(rows: int) -> Response:
        raise StorageError(f"s3://secret/{rows}")

    with client(service, pages=pages) as http:
        index = http.get("/")
        invalid = http.get("/v1/rows?rows=many")
        broken = http.get("/v1/rows?rows=5")
        document = http.get("/openapi.json").json()
    assert "default-src 'self'" in index.headers["content-security-policy"]
    assert index.headers["x-content-type-options"] == "nosniff"
    assert (invalid.status_code, invalid.json()["problems"][0]["field"]) == (422, "query.rows")
    assert (broken.status_code, "secret" in broken.text) == (500, False)
    assert service.instruments.requests[:3] == [("/", "ok"), ("/v1/rows", "invalid"), ("/v1/rows", "error")]
    problem = document["paths"]["/v1/rows"]["get"]["responses"]["422"]["content"]
    assert list(problem) == ["application/problem+json"]


@pytest.mark.usefixtures("talkative")
def test_a_request_is_one_line_of_the_access_log(
    service: HereService, served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "X-Request-ID": "r-1"}
    with client(service) as http:
        answer = http.post(FORECAST, json={"histories": [served.history()] * 2}, headers=headers)
        http.get("/nowhere/secret-path", headers={"traceparent": "nonsense"})
        http.get("/healthz")
        http.get("/readyz")
    first, second = requests_in(capsys.readouterr().err)
    assert first.pop("ts").endswith("Z")
    assert first.pop("seconds") > 0
    assert first == {
        "level": "info",
        "event": "request",
        "method": "POST",
        "route": FORECAST,
        "status": 200,
        "outcome": "ok",
        "request_id": "r-1",
        "trace_id": trace,
        "series": 2,
        "model_version": "3",
        "bytes": len(answer.content),
    }
    assert (second["route"], second["status"], second["trace_id"]) == ("unmatched", 404, "")


def test_the_access_log_is_silent_where_info_is(
    service: HereService, served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LOGGER, "level", logging.WARNING)
    with client(service) as http:
        http.post(FORECAST, json={"history": served.history()})
    assert requests_in(capsys.readouterr().err) == []


@pytest.mark.usefixtures("talkative")
def test_the_access_log_hides_secrets_and_counts_what_it_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "hidden-value")
    monkeypatch.setattr(access_log, "MOST_WAITING", 2)
    written: list[str] = []

    async def note() -> None:
        log = AccessLog(written.append)
        for i in range(5):
            scope = {"method": "GET", "path": "/x", "headers": [(b"x-request-id", b"hidden-value %d" % i)]}
            log.note(Exchange(scope, 1.0))
        while not written:
            await asyncio.sleep(0.01)

    asyncio.run(note())
    [text] = written
    found = [json.loads(line) for line in text.splitlines()]
    assert [line["event"] for line in found] == ["request", "request", "access_log_lost"]
    assert found[2]["requests"] == 3
    assert "hidden-value" not in text
