"""The routes of the page: its files and what feeds it, with the problems that a browser may meet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from serve.pages import FILES, page_files, router
from tests.serve.here import HereModels, HereService, client
from tests.serve.site import RUN_NAME, Champion, make_champion
from tests.services.ports import free_ports

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Champion:
    return make_champion(tmp_path_factory.mktemp("pages"))


@pytest.fixture(scope="module")
def site(champion: Champion) -> TestClient:
    return visit(champion.service())


def visit(service: HereService, token: str = "") -> TestClient:
    return client(service, token=token, pages=router(service))


def problem(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["status"] == status
    return found


def test_every_file_of_the_page_is_shipped_and_named() -> None:
    folder = Path(__file__).resolve().parents[2] / "serve" / "page"
    there = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert there == set(FILES)


def test_the_page_needs_nothing_that_a_strict_policy_forbids(site: TestClient) -> None:
    answer = site.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    for forbidden in (" style=", " onclick=", "<style", "http://", "https://", "//cdn"):
        assert forbidden not in answer.text


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_sent_once_and_then_only_asked_about(site: TestClient, name: str) -> None:
    first = site.get(f"/page/{name}")
    assert first.status_code == 200
    assert first.content == page_files()[name].content
    assert first.headers["cache-control"] == "no-cache"
    again = site.get(f"/page/{name}", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert site.get(f"/page/{name}", headers={"If-None-Match": '"other"'}).status_code == 200


def test_no_other_file_can_be_reached(site: TestClient) -> None:
    for path in ("/page/", "/page/../pages.py", "/page/%2e%2e/pages.py", "/page/vendor"):
        assert site.get(path).status_code == 404


def test_the_stories_are_told_with_the_models_version(site: TestClient) -> None:
    stations = site.get("/v1/stations")
    assert [station["series"] for station in stations.json()["stations"]] == ["alpha", "beta"]
    assert stations.headers["x-model-version"] == "1"
    story = site.get("/v1/leaderboard").json()
    assert (story["run"], story["model"]["version"]) == (RUN_NAME, "1")


def test_history_can_be_sent_back_as_it_came(site: TestClient) -> None:
    rows = site.get("/v1/history", params={"series": "alpha", "rows": 60}).json()
    history = {"series": "alpha", "columns": {"time": rows["time"], **rows["columns"]}}
    answer = site.post("/v1/forecast", json={"history": history, "horizon": 2})
    assert answer.status_code == 200, answer.text
    assert answer.json()["forecasts"][0]["origin"] == rows["time"][-1]


@pytest.mark.parametrize(("query", "field"), [("series=gamma", "series"), ("series=alpha&rows=0", "rows")])
def test_a_wrong_question_is_answered_with_what_is_wrong(site: TestClient, query: str, field: str) -> None:
    found = problem(site.get(f"/v1/history?{query}"), 422)
    assert field in found["problems"][0]["field"]


def test_without_a_champion_there_is_no_story_yet(champion: Champion) -> None:
    site = visit(HereService(champion.bench.settings, HereModels()))
    assert site.get("/").status_code == 200
    for path in ("/v1/stations", "/v1/history", "/v1/leaderboard"):
        answer = site.get(path)
        problem(answer, 503)
        assert int(answer.headers["retry-after"]) >= 1


def test_what_no_store_holds_is_not_found_and_told_without_addresses(champion: Champion, tmp_path: Path) -> None:
    site = visit(champion.service(storage={"root": str(tmp_path / "empty")}))
    found = problem(site.get("/v1/history", params={"series": "alpha"}), 404)
    assert "storage.root" in found["detail"]
    assert str(tmp_path) not in str(found)
    assert site.get("/v1/stations").status_code == 200


def test_a_store_that_is_away_may_be_asked_again(champion: Champion) -> None:
    (port,) = free_ports(1)
    site = visit(champion.service(tracking={"uri": f"http://127.0.0.1:{port}", "timeout_s": 0.5}))
    answer = site.get("/v1/leaderboard")
    problem(answer, 503)
    assert int(answer.headers["retry-after"]) >= 1


def test_with_a_token_the_page_opens_and_the_stories_do_not(champion: Champion) -> None:
    site = visit(champion.service(), token="secret")
    assert site.get("/").status_code == 200
    assert site.get("/page/page.js").status_code == 200
    problem(site.get("/v1/stations"), 401)
    assert site.get("/v1/stations", headers={"Authorization": "Bearer secret"}).status_code == 200


def test_the_routes_are_documented(site: TestClient) -> None:
    paths = site.get("/openapi.json").json()["paths"]
    assert {"/v1/stations", "/v1/history", "/v1/leaderboard"} <= set(paths)
    assert {"200", "404", "422", "503"} <= set(paths["/v1/history"]["get"]["responses"])
    assert "/" not in paths
