"""Forecasts over HTTP: what is answered to requests that are right."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from flts_ray.errors import BusyError, FltsError
from flts_ray.inference.queries import Forecast, Query
from serve.schemas import ForecastResponse
from tests.serve.conftest import Served
from tests.serve.here import as_rows, client, here

pytestmark = pytest.mark.unit

FORECAST = "/v1/forecast"


def test_a_forecast_is_what_the_engine_says(served: Served) -> None:
    service = here(served.settings, served.bundle)
    with client(service) as http:
        answer = http.post(FORECAST, json={"history": served.history(), "levels": [0.8, 0.95]})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-model-version"] == "3"
    [(request_id, version, query, forecast)] = service.recorded
    assert (request_id, version) == (answer.headers["x-request-id"], "3")
    body = answer.json()
    manifest = served.bundle.manifest
    assert body["model"] == {
        "name": "flts-alpha",
        "version": "3",
        "run_id": "run-1",
        "dataset_id": manifest.identity.dataset_id,
        "kind": "gru",
    }
    [entry] = body["forecasts"]
    assert (entry["series"], entry["unit"], entry["targets"]) == ("alpha", "bits", ["down"])
    assert (entry["step_s"], entry["direct_steps"], entry["method"]) == (600.0, 1, "direct")
    assert entry["origin"] == str(query.history.time[-1].astype("datetime64[s]"))
    [step] = entry["steps"]
    assert step["time"] == str((query.history.time[-1] + np.timedelta64(600, "s")).astype("datetime64[s]"))
    assert (step["step"], step["target"], step["value"]) == (1, "down", forecast.values[0, 0])
    assert [interval["level"] for interval in step["intervals"]] == [0.8, 0.95]
    assert [interval["lower"] for interval in step["intervals"]] == forecast.lower[:, 0, 0].tolist()
    assert (step["lower"], step["upper"]) == (forecast.lower[0, 0, 0], forecast.upper[0, 0, 0])
    assert {warning["code"] for warning in entry["warnings"]} == {notice.code for notice in forecast.notices}


def test_columns_and_rows_in_any_order_give_the_same_bytes(served: Served) -> None:
    names = list(served.columns())
    random.Random(0).shuffle(names)
    straight, shuffled = served.columns(), served.columns(order=names)
    assert list(straight) != list(shuffled)
    with served.client() as http:
        bodies = {
            http.post(FORECAST, json={"history": {"series": "alpha", form: rows}}).content
            for form, rows in (
                ("columns", straight),
                ("columns", shuffled),
                ("rows", as_rows(straight)),
                ("rows", as_rows(shuffled)),
                ("rows", as_rows(shuffled)),
            )
        }
    assert len(bodies) == 1


def test_defaults_are_those_of_the_model_and_of_the_settings(served: Served) -> None:
    service = here(served.settings, served.bundle, interval_rows=7)
    with client(service) as http:
        assert http.post(FORECAST, json={"history": served.history()}).status_code == 200
    query: Query = service.recorded[0][2]
    assert (query.horizon, query.adapt_rows) == (served.bundle.manifest.horizon, 7)
    assert query.levels == (served.settings.evaluation.coverage,)


def test_steps_beyond_the_trained_ones_are_called_recursive(served: Served) -> None:
    with served.client() as http:
        answer = http.post(FORECAST, json={"history": served.history(), "horizon": 4})
    [entry] = answer.json()["forecasts"]
    assert entry["method"] == "recursive"
    assert [step["step"] for step in entry["steps"]] == [1, 2, 3, 4]
    times = np.array([step["time"] for step in entry["steps"]], dtype="datetime64[s]")
    assert (np.diff(times) == np.timedelta64(600, "s")).all()


@pytest.mark.parametrize("zone", ["Z", "+01:00", "-03:30"])
def test_times_are_answered_in_the_zone_in_which_they_were_sent(served: Served, zone: str) -> None:
    with served.client() as http:
        plain = http.post(FORECAST, json={"history": served.history()}).json()["forecasts"][0]
        zoned = http.post(FORECAST, json={"history": served.history(zone=zone)}).json()["forecasts"][0]
    assert zoned["origin"] == plain["origin"] + zone
    assert zoned["steps"][0]["time"] == plain["steps"][0]["time"] + zone


def test_fractions_of_a_second_are_kept(served: Served) -> None:
    history = served.history()
    history["columns"]["time"] = [f"{time}.250" for time in history["columns"]["time"]]
    with served.client() as http:
        [entry] = http.post(FORECAST, json={"history": history}).json()["forecasts"]
    assert np.datetime64(entry["origin"]) == np.datetime64(history["columns"]["time"][-1])


def test_of_several_histories_a_bad_one_fails_alone(served: Served) -> None:
    bad = served.history("beta")
    bad["columns"]["down"][-1] = "many"
    histories = [served.history("alpha"), bad, served.history("beta"), "nothing", {"series": 5}]
    service = here(served.settings, served.bundle)
    with client(service) as http:
        answer = http.post(FORECAST, json={"histories": histories})
        alone = http.post(FORECAST, json={"history": histories[2]}).json()["forecasts"][0]
    assert answer.status_code == 200
    entries = answer.json()["forecasts"]
    assert [entry["series"] for entry in entries] == ["alpha", "beta", "beta", None, None]
    assert entries[2]["steps"][0]["time"] == alone["steps"][0]["time"]
    assert entries[2]["steps"][0]["value"] == pytest.approx(alone["steps"][0]["value"], rel=1e-6)
    assert entries[1]["error"]["title"] == "Unprocessable Content"
    assert [entry["error"]["problems"][0]["field"] for entry in (entries[1], entries[3], entries[4])] == [
        "histories[1].columns.down[29]",
        "histories[3]",
        "histories[4].series",
    ]
    assert len(service.recorded) == 3


def test_only_bad_histories_are_refused_with_the_problems_of_all(served: Served) -> None:
    with served.client() as http:
        answer = http.post(FORECAST, json={"histories": [{"series": "gamma"}, {"columns": {"time": []}}]})
    assert answer.status_code == 422
    fields = {problem["field"].partition("]")[0] for problem in answer.json()["problems"]}
    assert fields == {"histories[0", "histories[1"}


def test_a_history_that_the_engine_refuses_fails_alone(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    service = here(served.settings, served.bundle)
    forecast = service.forecast

    async def second_is_late(*args: object, **how: object) -> list[Forecast | FltsError]:
        first, *_ = await forecast(*args, **how)  # type: ignore[arg-type]
        return [first, BusyError("32 long forecasts wait already")]

    monkeypatch.setattr(service, "forecast", second_is_late)
    with client(service) as http:
        answer = http.post(FORECAST, json={"histories": [served.history(), served.history()]})
    assert answer.status_code == 200
    good, late = answer.json()["forecasts"]
    assert "steps" in good
    assert late["error"]["title"] == "Service Unavailable"
    assert "32 long forecasts" in late["error"]["problems"][0]["reason"]


def test_equal_requests_give_equal_bytes(served: Served) -> None:
    content = {"history": served.history(), "horizon": 3}
    with served.client() as http:
        answers = [http.post(FORECAST, json=content, headers={"X-Request-ID": str(i)}) for i in range(3)]
    assert len({answer.content for answer in answers}) == 1


def test_long_bodies_are_answered_like_short_ones(served: Served) -> None:
    frame = served.rows["alpha"]
    content = {"histories": [served.history(rows=len(frame))] * 3, "horizon": 300}
    assert len(json.dumps(content)) > 64 * 1024
    with served.client() as http:
        entries = http.post(FORECAST, json=content).json()["forecasts"]
        short = http.post(FORECAST, json={"history": content["histories"][0]})  # type: ignore[index]
    assert len(entries) == 3
    first = short.json()["forecasts"][0]["steps"][0]["value"]
    assert [len(entry["steps"]) for entry in entries] == [300, 300, 300]
    assert entries[2]["steps"][0]["value"] == pytest.approx(first, rel=1e-6)


def test_bounds_that_the_model_cannot_give_are_null(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    service = here(served.settings, served.bundle)
    forecast = service.forecast

    async def without_bounds(*args: object, **how: object) -> list[Forecast | FltsError]:
        found = await forecast(*args, **how)  # type: ignore[arg-type]
        return [replace(f, lower=f.lower * np.nan, upper=f.upper * np.inf) for f in found if isinstance(f, Forecast)]

    monkeypatch.setattr(service, "forecast", without_bounds)
    with client(service) as http:
        answer = http.post(FORECAST, json={"history": served.history()})
    step = answer.json()["forecasts"][0]["steps"][0]
    assert (step["lower"], step["upper"], step["intervals"][0]["lower"]) == (None, None, None)
    ForecastResponse.model_validate_json(answer.content)


def test_the_service_says_how_it_is(served: Served) -> None:
    with served.client() as http:
        assert http.get("/healthz").json() == {"status": "ok", "replica": "here"}
        ready = http.get("/readyz")
        story = http.get("/v1/model")
    assert ready.json() == {"state": "ready", "version": "3"}
    assert ready.headers["x-model-version"] == story.headers["x-model-version"] == "3"
    told, manifest = story.json(), served.bundle.manifest
    assert (told["name"], told["version"], told["run_id"]) == ("flts-alpha", "3", "run-1")
    assert (told["lookback"], told["step_s"], told["target_unit"]) == (manifest.lookback, manifest.step_s, "bits")
    assert told["features"] == list(manifest.feature_names)
    assert (told["scaler_sha256"], told["metrics"]) == ("0" * 64, {"mae": None})
    assert (told["status"]["state"], told["status"]["loaded"], told["previous_version"]) == ("ready", "3", "")


def test_without_a_champion_the_service_lives_and_is_not_ready(served: Served) -> None:
    service = here(served.settings, None, retry_after_s=1.2)
    with client(service) as http:
        assert http.get("/healthz").status_code == 200
        for answer in (
            http.get("/readyz"),
            http.get("/v1/model"),
            http.post(FORECAST, json={"history": served.history()}),
            http.post("/predict", json={"data": served.columns()}),
        ):
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "2"
            assert "promoted" in answer.json()["detail"]
            assert "x-model-version" not in answer.headers
    assert {outcome for route, outcome in service.instruments.requests if route != "/healthz"} == {"not_ready"}


def test_a_replica_that_is_about_to_end_answers_and_takes_no_more_clients(served: Served) -> None:
    service = here(served.settings, served.bundle)
    service.draining = True
    with client(service) as http:
        assert http.get("/healthz").status_code == 200
        assert http.post(FORECAST, json={"history": served.history()}).status_code == 200
        ready = http.get("/readyz")
    assert (ready.status_code, "about to end" in ready.json()["detail"]) == (503, True)


def test_a_new_champion_answers_from_the_next_request_on(served: Served) -> None:
    service = here(served.settings, served.bundle)
    with client(service) as http:
        service.models.previous = service.models.current
        assert service.models.current is not None
        service.models.current = replace(service.models.current, version="4")
        answer = http.post(FORECAST, json={"history": served.history()})
        assert http.get("/v1/model").json()["previous_version"] == "3"
    assert (answer.headers["x-model-version"], answer.json()["model"]["version"]) == ("4", "4")


def test_another_origin_is_let_in_only_if_it_is_named(served: Served) -> None:
    asked = {"Origin": "https://board.example", "Access-Control-Request-Method": "POST"}
    with client(here(served.settings, served.bundle), token="a-secret-token") as http:
        assert "access-control-allow-origin" not in http.options(FORECAST, headers=asked).headers
    service = here(served.settings, served.bundle, cors_origins=("https://board.example",))
    with client(service, token="a-secret-token") as http:
        allowed = http.options(FORECAST, headers=asked)
        assert allowed.headers["access-control-allow-origin"] == "https://board.example"
        refused = http.post(FORECAST, json={}, headers={"Origin": "https://board.example"})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://board.example"
        stranger = http.options(FORECAST, headers={**asked, "Origin": "https://other.example"})
        assert "access-control-allow-origin" not in stranger.headers


@pytest.mark.parametrize("path", ["/v1/forecasts", "/healthz/", "/docs/nothing", "/page/../etc/passwd"])
def test_other_addresses_are_not_found(served: Served, path: str) -> None:
    with served.client() as http:
        answer = http.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


def test_other_methods_are_told_the_right_one(served: Served) -> None:
    with served.client() as http:
        for method, path, allowed in (("GET", FORECAST, "POST"), ("DELETE", "/v1/model", "GET, HEAD")):
            answer = http.request(method, path)
            assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
            assert answer.headers["content-type"] == "application/problem+json"


def test_what_is_answered_is_what_is_described(served: Served) -> None:
    bad = served.history()
    bad["columns"]["up"] = []
    with served.client() as http:
        answer = http.post(FORECAST, json={"histories": [served.history(), bad], "horizon": 2, "levels": [0.6, 0.99]})
    described = ForecastResponse.model_validate_json(answer.content)
    assert described.model_dump(mode="json") == answer.json()
