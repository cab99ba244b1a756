"""The OpenAPI document and the page made of it; and the application fuzzed against its own document."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

from serve.api import create_app
from tests.serve.conftest import Served
from tests.serve.here import HereService, as_rows, client, here

pytestmark = pytest.mark.unit

OPERATIONS = {
    "/v1/forecast": "post",
    "/predict": "post",
    "/v1/model": "get",
    "/readyz": "get",
    "/healthz": "get",
}
CONFORMANCE = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
REPEATABLE = settings(
    max_examples=30,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def service(served: Served) -> HereService:
    return here(served.settings, served.bundle)


@pytest.fixture(scope="module")
def operations(service: HereService) -> dict[str, APIOperation[Any, Any, Any, Any]]:
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(service))
    return {path: schema[path][method] for path, method in OPERATIONS.items()}


def test_every_route_is_described(service: HereService) -> None:
    app = create_app(service)
    with client(service) as http:
        described = http.get("/openapi.json").json()["paths"]
    undescribed = {"/openapi.json", "/docs", "/docs/reference.css"}
    assert {route.path for route in app.routes} == set(described) | undescribed  # type: ignore[attr-defined]
    assert {path: next(iter(item)) for path, item in described.items()} == OPERATIONS


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("path", OPERATIONS)
def test_answers_to_anything_are_as_described(
    operations: dict[str, APIOperation[Any, Any, Any, Any]], path: str, mode: GenerationMode
) -> None:
    checks = [*CONFORMANCE, negative_data_rejection]

    @REPEATABLE
    @given(case=operations[path].as_strategy(generation_mode=mode))
    def fuzz(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(checks=checks)

    fuzz()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("2018-02-07T01:00:00Z"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


@pytest.mark.parametrize("form", ["columns", "rows", "several", "legacy"])
def test_answers_to_nearly_right_requests_are_as_described(
    served: Served, operations: dict[str, APIOperation[Any, Any, Any, Any]], service: HereService, form: str
) -> None:
    columns = served.columns(rows=6)
    bodies: dict[str, dict[str, Any]] = {
        "columns": {"history": {"series": "alpha", "columns": columns}, "horizon": 2, "levels": [0.8, 0.9]},
        "rows": {"history": {"series": "beta", "rows": as_rows(columns)}, "adapt_rows": 3},
        "several": {"histories": [served.history(rows=6), served.history("beta", rows=6)]},
        "legacy": {"data": columns, "series": "alpha", "index_col": "time", "inference_length": 2},
    }
    right = bodies[form]
    operation = operations["/predict" if form == "legacy" else "/v1/forecast"]
    places = list(paths_in(right))
    seen = set()

    @REPEATABLE
    @given(data=st.data())
    def fuzz(data: st.DataObject) -> None:
        body = copy.deepcopy(right)
        for place in data.draw(st.lists(st.sampled_from(places), max_size=2)):
            put(body, place, data.draw(JSON))
        case = operation.Case(body=body, media_type="application/json")
        answer = case.call_and_validate(checks=CONFORMANCE)
        seen.add(answer.status_code)

    fuzz()
    assert seen == {200, 400 if form == "legacy" else 422}


def test_the_document_has_the_limits_of_the_settings(served: Served) -> None:
    service = here(served.settings, served.bundle, max_horizon=17, max_histories=3)
    with client(service) as http:
        document = http.get("/openapi.json").json()
    fields = document["components"]["schemas"]["ForecastRequest"]["properties"]
    assert fields["horizon"]["anyOf"][0] == {"type": "integer", "minimum": 1, "maximum": 17}
    assert fields["histories"]["anyOf"][0]["maxItems"] == 3
    assert document["components"]["schemas"]["LegacyRequest"]["properties"]["inference_length"]["maximum"] == 17


def test_the_token_is_in_the_document_if_there_is_one(service: HereService) -> None:
    with client(service) as http:
        assert "security" not in http.get("/openapi.json").json()
    with client(service, token="the-secret-token") as http:
        answer = http.get("/openapi.json", headers={"Authorization": "Bearer the-secret-token"})
    document = answer.json()
    assert document["security"] == [{"token": []}]
    assert document["paths"]["/healthz"]["get"]["security"] == []
    assert "401" in document["paths"]["/v1/forecast"]["post"]["responses"]
    assert "the-secret-token" not in answer.text


def test_the_examples_lack_nothing_but_rows(served: Served, service: HereService) -> None:
    with client(service) as http:
        content = http.get("/openapi.json").json()["paths"]["/v1/forecast"]["post"]["requestBody"]["content"]
        examples = content["application/json"]["examples"]
        for example in examples.values():
            answer = http.post("/v1/forecast", json=example["value"])
            reasons = {problem["reason"] for problem in answer.json()["problems"]}
            assert answer.status_code == 422
            assert any("rows were sent, the model reads" in reason for reason in reasons)
            assert all("rows were sent" in reason or "station" in reason for reason in reasons)


def test_the_page_shows_every_operation_without_scripts(service: HereService) -> None:
    with client(service) as http:
        page, style = http.get("/docs"), http.get("/docs/reference.css")
    assert (page.status_code, style.headers["content-type"]) == (200, "text/css; charset=utf-8")
    for path in OPERATIONS:
        assert f"<code>{path}</code>" in page.text
    for name in ("ForecastRequest", "ProblemDocument", "SeriesForecast"):
        assert f'id="schema-{name}"' in page.text
    assert "<script" not in page.text
    assert "style=" not in page.text
    assert "//cdn" not in page.text
    assert "default-src 'self'" in page.headers["content-security-policy"]


def test_the_page_and_the_document_know_their_prefix(service: HereService) -> None:
    app = create_app(service)
    app.root_path = "/flts"
    with TestClient(app) as http:
        assert http.get("/openapi.json").json()["servers"] == [{"url": "/flts"}]
        assert 'href="/flts/openapi.json"' in http.get("/docs").text


def paths_in(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places of a JSON value that can be replaced."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*before, key)
        yield from paths_in(inner, (*before, key))


def put(value: Any, place: tuple[Any, ...], new: Any) -> None:
    """Replace one place, if it is still there."""
    for key in place[:-1]:
        value = value[key] if isinstance(value, dict | list) and has(value, key) else None
    if isinstance(value, dict | list) and has(value, place[-1]):
        value[place[-1]] = new


def has(value: dict[Any, Any] | list[Any], key: Any) -> bool:
    return key in value if isinstance(value, dict) else isinstance(key, int) and key < len(value)
