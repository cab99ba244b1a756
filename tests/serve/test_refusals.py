"""Requests that are wrong: refused before anything is computed, with the place, the reason and the cure."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from serve.schemas import ProblemDocument
from tests.serve.conftest import Served
from tests.serve.here import as_rows, client, here

pytestmark = pytest.mark.unit

FORECAST = "/v1/forecast"
Change = Callable[[dict[str, Any]], Any]


def with_cell(name: str, value: Any, row: int = 4) -> Change:
    """The body with one cell of the history changed."""

    def change(body: dict[str, Any]) -> Any:
        body["history"]["columns"][name][row] = value
        return body

    return change


def with_column(name: str, values: Any) -> Change:
    def change(body: dict[str, Any]) -> Any:
        body["history"]["columns"][name] = values
        return body

    return change


def with_fields(**fields: Any) -> Change:
    return lambda body: {**body, **fields}


def with_history(**fields: Any) -> Change:
    return lambda body: {**body, "history": {**body["history"], **fields}}


def without(name: str) -> Change:
    def change(body: dict[str, Any]) -> Any:
        del body["history"]["columns"][name]
        return body

    return change


def as_row_form(change: Callable[[list[dict[str, Any]]], Any]) -> Change:
    """The body in rows form, with its rows changed."""

    def changed(body: dict[str, Any]) -> Any:
        rows = as_rows(body["history"]["columns"])
        return {"history": {"series": "alpha", "rows": change(rows)}}

    return changed


def swapped(body: dict[str, Any]) -> Any:
    times = body["history"]["columns"]["time"]
    times[3], times[4] = times[4], times[3]
    return body


def repeated(body: dict[str, Any]) -> Any:
    times = body["history"]["columns"]["time"]
    times[4] = times[3]
    return body


def off_grid(body: dict[str, Any]) -> Any:
    times = body["history"]["columns"]["time"]
    times[-1] = times[-1][:-2] + "30"
    return body


def in_kilobits(body: dict[str, Any]) -> Any:
    columns = body["history"]["columns"]
    columns["down"] = [value / 1000 for value in columns["down"]]
    return body


def cut(rows: int) -> Change:
    def change(body: dict[str, Any]) -> Any:
        columns = body["history"]["columns"]
        body["history"]["columns"] = {name: values[:rows] for name, values in columns.items()}
        return body

    return change


def renamed_in_row(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows[3]["dwon"] = rows[3].pop("down")
    return rows


# name: (change, status, field of the first problem)
FLAWS: dict[str, tuple[Change, int, str]] = {
    "an empty object": (lambda body: {}, 422, "history"),
    "a list": (lambda body: [], 422, "body"),
    "null": (lambda body: None, 422, "body"),
    "both history and histories": (lambda body: {**body, "histories": [body["history"]]}, 422, "history"),
    "no histories": (lambda body: {"histories": []}, 422, "histories"),
    "too many histories": (lambda body: {"histories": [{}] * 65}, 422, "histories"),
    "histories that are none": (lambda body: {"histories": {}}, 422, "histories"),
    "an unknown field": (with_fields(horizn=2), 422, "horizn"),
    "an unknown field of the history": (with_history(station="alpha"), 422, "history.station"),
    "a history that is a text": (with_fields(history="alpha"), 422, "history"),
    "neither columns nor rows": (lambda body: {"history": {"series": "alpha"}}, 422, "history"),
    "both columns and rows": (with_history(rows=[]), 422, "history"),
    "columns that are a list": (with_history(columns=[1]), 422, "history.columns"),
    "a column that is a number": (with_column("up", 5), 422, "history.columns.up"),
    "no rows": (as_row_form(lambda rows: []), 422, "history.rows"),
    "rows that are an object": (as_row_form(lambda rows: rows[0]), 422, "history.rows"),
    "a row that is a number": (as_row_form(lambda rows: [*rows, 5]), 422, "history.rows[30]"),
    "a row that names a column wrong": (as_row_form(renamed_in_row), 422, "history.rows[3]"),
    "rows without times": (as_row_form(lambda rows: [{"down": 1.0}] * 9), 422, "history.rows.time"),
    "no times": (without("time"), 422, "history.columns.time"),
    "an unknown station": (with_history(series="gamma"), 422, "history.series"),
    "a station that is a number": (with_history(series=5), 422, "history.series"),
    "an unknown column": (with_column("rain", [1.0] * 30), 422, "history.columns.rain"),
    "a thousand unknown columns": (
        lambda body: {"history": {"columns": {f"c{i}": [] for i in range(2000)}}},
        422,
        "history.columns",
    ),
    "a missing column": (without("rb_up"), 422, "history.columns.rb_up"),
    "a column that is too short": (with_column("up", [1.0] * 29), 422, "history.columns.up"),
    "too few rows": (cut(3), 422, "history.columns.time"),
    "no rows in the columns": (cut(0), 422, "history.columns.time"),
    "a text for a number": (with_cell("down", "1e8"), 422, "history.columns.down[4]"),
    "true for a number": (with_cell("down", True), 422, "history.columns.down[4]"),
    "NaN": (with_cell("down", float("nan")), 422, "history.columns.down[4]"),
    "Infinity": (with_cell("up", float("inf")), 422, "history.columns.up[4]"),
    "a number beyond all": (with_cell("up", 10**400), 422, "history.columns.up[4]"),
    "another unit": (in_kilobits, 422, "history.columns.down"),
    "a time that is none": (with_cell("time", "yesterday"), 422, "history.columns.time[4]"),
    "a time that is null": (with_cell("time", None), 422, "history.columns.time[4]"),
    "a time beyond all": (with_column("time", [10**400] * 30), 422, "history.columns.time[0]"),
    "a time with a zone among others": (with_cell("time", "2018-02-07T01:00:00Z"), 422, "history.columns.time[4]"),
    "a time that repeats": (repeated, 422, "history.columns.time[4]"),
    "times out of order": (swapped, 422, "history.columns.time[4]"),
    "a time off the grid": (off_grid, 422, "history.columns.time[29]"),
    "a horizon of none": (with_fields(horizon=0), 422, "horizon"),
    "a horizon too long": (with_fields(horizon=721), 422, "horizon"),
    "a horizon that is a text": (with_fields(horizon="2"), 422, "horizon"),
    "a level too low": (with_fields(levels=[0.9, 0.5]), 422, "levels[1]"),
    "a level too high": (with_fields(levels=[0.999]), 422, "levels[0]"),
    "a level twice": (with_fields(levels=[0.9, 0.8, 0.9]), 422, "levels[2]"),
    "six levels": (with_fields(levels=[0.6, 0.7, 0.8, 0.9, 0.95, 0.99]), 422, "levels"),
    "no levels": (with_fields(levels=[]), 422, "levels"),
    "a level that is NaN": (with_fields(levels=[float("nan")]), 422, "levels[0]"),
    "rows to adapt by below none": (with_fields(adapt_rows=-1), 422, "adapt_rows"),
    "too many rows to adapt by": (with_fields(adapt_rows=20_001), 422, "adapt_rows"),
}


@pytest.mark.parametrize("name", FLAWS)
def test_a_flaw_is_named(served: Served, name: str) -> None:
    change, status, field = FLAWS[name]
    service = here(served.settings, served.bundle)
    content = json.dumps(change({"history": served.history()}))
    with client(service) as http:
        answer = http.post(FORECAST, content=content, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    document = ProblemDocument.model_validate_json(answer.content)
    assert document.status == status
    assert document.request_id == answer.headers["x-request-id"]
    assert document.problems[0].field == field
    assert all(problem.reason and problem.fix for problem in document.problems)
    assert not service.recorded
    assert service.instruments.requests == [(FORECAST, "invalid")]


def test_every_flaw_is_named_at_once(served: Served) -> None:
    history = served.history()
    history["columns"]["down"][2] = "x"
    history["columns"]["up"][5] = float("nan")
    history["columns"]["time"][7] = "z"
    content = json.dumps({"history": history, "horizon": 0, "levels": [0.9, 2.0]})
    with served.client() as http:
        outer = http.post(FORECAST, content=content, headers={"Content-Type": "application/json"}).json()
        content = json.dumps({"history": history})
        inner = http.post(FORECAST, content=content, headers={"Content-Type": "application/json"}).json()
    assert "horizon" in {problem["field"] for problem in outer["problems"]}
    assert {problem["field"] for problem in inner["problems"]} == {
        "history.columns.down[2]",
        "history.columns.up[5]",
        "history.columns.time[7]",
    }


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"history": }', b"\xff\xfe", b"[" * 10_000, b"{'history': 1}", b'{"a": 1} x']
)
def test_what_is_not_json_is_a_bad_request(served: Served, content: bytes) -> None:
    with served.client() as http:
        answer = http.post(FORECAST, content=content, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["detail"]) == (400, "the body is not JSON")


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json; charset=utf-8", 200),
        ("Application/JSON", 200),
        ("", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/json; charset=utf-16", 415),
        ("application/jsonl", 415),
    ],
)
def test_only_json_is_read(served: Served, kind: str, status: int) -> None:
    content = json.dumps({"history": served.history()})
    with served.client() as http:
        answer = http.post(FORECAST, content=content, headers={"Content-Type": kind} if kind else {})
    assert answer.status_code == status
    if status == 415:
        assert answer.json()["problems"][0]["field"] == "Content-Type"


def test_compressed_bodies_are_not_read(served: Served) -> None:
    with served.client() as http:
        answer = http.post(FORECAST, json={}, headers={"Content-Encoding": "gzip"})
    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "identity")


def test_a_body_that_says_it_is_too_long_is_not_even_read(served: Served) -> None:
    with client(here(served.settings, served.bundle, max_body_bytes=4096)) as http:
        answer = http.post(FORECAST, content=b"x" * 4097, headers={"Content-Type": "application/json"})
        fits = http.post(FORECAST, content=b" " * 4096, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["problems"][0]["field"]) == (413, "body")
    assert fits.status_code == 400


def test_many_problems_are_counted_and_the_first_are_listed(served: Served) -> None:
    with served.client() as http:
        answer = http.post(FORECAST, json={"histories": [{}] * 60})
    document = answer.json()
    assert len(document["problems"]) == 50
    assert "60 things are wrong" in document["detail"]
