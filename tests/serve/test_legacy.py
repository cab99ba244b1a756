"""The former service's ``/predict``: its bodies still work, and are now answered right."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from tests.serve.conftest import Served
from tests.serve.here import client, here

pytestmark = pytest.mark.unit

RAW = {"inference_length": 1, "index_col": "ts"}


def body(served: Served, **fields: Any) -> dict[str, Any]:
    """What an old client sends for one of the stations."""
    return {"data": served.columns(time="ts"), "series": "alpha", **RAW, **fields}


def test_the_answer_is_the_forecast_of_the_next_step_in_bits(served: Served) -> None:
    service = here(served.settings, served.bundle)
    with client(service) as http:
        answer = http.post("/predict", json=body(served, inference_length=3))
        forecast = http.post("/v1/forecast", json={"history": served.history(), "horizon": 3}).json()["forecasts"][0]
    assert answer.status_code == 200
    assert answer.headers["x-model-version"] == "3"
    told = answer.json()
    assert {name: told[name] for name in ("status", "identifier", "run_id", "cached")} == {
        "status": "SUCCESS",
        "identifier": "alpha",
        "run_id": "run-1",
        "cached": False,
    }
    assert told["req_id"] == answer.headers["x-request-id"]
    assert [row["ts"] for row in told["predictions"]] == [step["time"] for step in forecast["steps"]]
    last = np.datetime64(body(served)["data"]["ts"][-1])
    assert np.datetime64(told["predictions"][0]["ts"]) == last + np.timedelta64(600, "s")
    assert [row["down"] for row in told["predictions"]] == [step["value"] for step in forecast["steps"]]
    columns = served.bundle.manifest.transforms["alpha"].columns
    assert all(list(row) == ["ts", *columns] for row in told["predictions"])
    assert {row[name] for row in told["predictions"] for name in columns if name != "down"} == {None}


def test_the_length_in_the_address_goes_before_that_of_the_body(served: Served) -> None:
    with served.client() as http:
        answer = http.post("/predict?inference_length=2", json=body(served, inference_length=5))
    assert len(answer.json()["predictions"]) == 2


@pytest.mark.parametrize("name", ["ts", "timestamp", "time", "date", "when"])
def test_times_are_found_by_name(served: Served, name: str) -> None:
    fields = {"index_col": "when"} if name == "when" else {"index_col": None}
    with served.client() as http:
        answer = http.post("/predict", json=body(served, data=served.columns(time=name), **fields))
    assert answer.status_code == 200


def test_rows_may_come_in_any_order_and_columns_may_be_more(served: Served) -> None:
    straight = served.columns(time="ts")
    order = list(range(30))
    random.Random(1).shuffle(order)
    mixed = {name: [values[i] for i in order] for name, values in reversed(straight.items())}
    mixed["weather"] = ["rain"] * 30
    with served.client() as http:
        expected = http.post("/predict", json=body(served)).json()["predictions"]
        answer = http.post("/predict", json=body(served, data=mixed, client="old", verbose=True))
    assert answer.json()["predictions"] == expected


def test_times_with_a_zone_are_answered_in_it(served: Served) -> None:
    with served.client() as http:
        answer = http.post("/predict", json=body(served, data=served.columns(time="ts", zone="+02:00")))
    assert answer.json()["predictions"][0]["ts"].endswith("+02:00")


def test_one_clients_data_never_answers_another(served: Served) -> None:
    with served.client() as http:
        assert http.post("/predict", json=body(served)).status_code == 200
        contents: list[dict[str, Any]] = [{}, {"data": {}}, {"data": None}, RAW]
        for content in contents:
            answer = http.post("/predict", json=content)
            assert (answer.status_code, answer.json()["problems"][0]["field"]) == (400, "data")


def flawed(served: Served) -> dict[str, tuple[dict[str, Any], str]]:
    """Bodies with a flaw, and where it is."""
    good = served.columns(time="ts")
    again = [good["ts"][1], *good["ts"][1:]]
    return {
        "no times": (body(served, data=served.columns(time="clock")), "data"),
        "unreadable time": (body(served, data={**good, "ts": ["never", *good["ts"][1:]]}), "data.ts[0]"),
        "no rows": (body(served, data={name: [] for name in good}), "data.ts"),
        "a time twice": (body(served, data={**good, "ts": again}), "data.ts[1]"),
        "a text": (body(served, data={**good, "down": ["much", *good["down"][1:]]}), "data.down[0]"),
        "a missing column": (
            body(served, data={name: values for name, values in good.items() if name != "up"}),
            "data.up",
        ),
        "a short column": (body(served, data={**good, "up": [1.0]}), "data.up"),
        "no list": (body(served, data={**good, "up": 1.0}), "data.up"),
        "no table": (body(served, data=[1, 2]), "data"),
        "too many columns": (body(served, data={f"c{i}": [] for i in range(2000)}), "data"),
        "too far": (body(served, inference_length=721), "inference_length"),
        "no step": (body(served, inference_length=0), "inference_length"),
        "half a step": (body(served, inference_length=0.5), "inference_length"),
        "a station unknown": (body(served, series="gamma"), "series"),
    }


def test_a_flaw_is_a_400_that_names_it(served: Served) -> None:
    service = here(served.settings, served.bundle)
    found = {}
    with client(service) as http:
        for name, (content, _) in flawed(served).items():
            answer = http.post("/predict", json=content)
            assert isinstance(answer.json()["detail"], str)
            found[name] = (answer.status_code, answer.json()["problems"][0]["field"])
    assert found == {name: (400, field) for name, (_, field) in flawed(served).items()}
    assert not service.recorded


@pytest.mark.parametrize("length", ["0", "-1", "721", "two", "1.5", "", "9" * 30, "٣"])
def test_a_length_in_the_address_that_makes_no_sense_is_a_400(served: Served, length: str) -> None:
    with served.client() as http:
        answer = http.post("/predict", params={"inference_length": length}, json=body(served))
    assert (answer.status_code, answer.json()["problems"][0]["field"]) == (400, "inference_length")


def test_slowness_is_a_504(served: Served) -> None:
    service = here(served.settings, served.bundle, deadline_s=0.05)
    service.delay_s = 60
    with client(service) as http:
        answer = http.post("/predict", json=body(served))
    assert (answer.status_code, isinstance(answer.json()["detail"], str)) == (504, True)
