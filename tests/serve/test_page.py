"""The page in a real browser: what a person sees is what the API says, whatever state the service is in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from flts_ray.errors import BusyError
from serve.api import create_app
from serve.pages import router
from tests.serve.browser import CHROMIUM, Tab, browser, open_tab
from tests.serve.here import HereService
from tests.serve.site import Champion, make_champion, serving

pytestmark = [pytest.mark.service, pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")]

DRAWN = "document.querySelector('#chart canvas') && !document.querySelector('#forecast').ariaBusy"


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Champion:
    return make_champion(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def service(champion: Champion) -> HereService:
    return champion.service()


@pytest.fixture(scope="module")
def address(service: HereService) -> Iterator[str]:
    with serving(create_app(service, pages=router(service))) as found:
        yield found


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with browser(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.fixture
def tab(chromium: str) -> Iterator[Tab]:
    with open_tab(chromium) as found:
        found.look()
        yield found


@pytest.fixture
def page(tab: Tab, address: str) -> Tab:
    tab.open(address)
    tab.until(f"{DRAWN} && document.querySelector('#board tbody tr')")
    return tab


def rows_of(address: str, series: str = "alpha") -> dict[str, list[Any]]:
    told = requests.get(f"{address}/v1/history", params={"series": series, "rows": 10_000}, timeout=30).json()
    return {"time": told["time"], **told["columns"]}


def asked(address: str, columns: dict[str, list[Any]], *, series: str = "alpha", horizon: int, level: float) -> Any:
    body = {"history": {"series": series, "columns": columns}, "horizon": horizon, "levels": [level]}
    answer = requests.post(f"{address}/v1/forecast", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()["forecasts"][0]


def numbers(text: str) -> list[float]:
    """The amounts in a text, in bits."""
    sizes = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
    found = re.findall(r"([\u2212]?[\d,.]+) ([kMG]?)bit", text)
    return [float(value.replace("\u2212", "-").replace(",", "")) * sizes[prefix] for value, prefix in found]


def step_table(tab: Tab) -> list[list[float]]:
    """The amounts of every step: value, lower, upper, and what came and the error, where it is known."""
    rows = tab.evaluate("[...document.querySelectorAll('#steps tbody tr')].map(row => row.textContent)")
    return [numbers(re.sub(r"^[\d-]+ [\d:]{5}", "", row).replace("bit", "bit ")) for row in rows]


def ink(tab: Tab) -> int:
    """Pixels of the chart that something was drawn on."""
    return int(
        tab.evaluate(
            "(canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data"
            ".filter((value, i) => i % 4 === 3 && value > 0).length)(document.querySelector('#chart canvas'))"
        )
    )


def choose_origin(tab: Tab, back: int) -> None:
    tab.evaluate("document.querySelector('#steps tbody').replaceChildren()")
    tab.enter("#origin", str(int(tab.evaluate("document.querySelector('#origin').max")) - back))
    tab.until("document.querySelector('#steps tbody tr')")


def test_the_page_shows_the_forecast_of_the_api(page: Tab, address: str) -> None:
    wanted = asked(address, rows_of(address), horizon=10, level=0.9)["steps"]
    shown = step_table(page)
    assert len(shown) == 10
    for row, step in zip(shown, wanted, strict=True):
        assert row[:3] == pytest.approx([step["value"], step["lower"], step["upper"]], rel=1e-3)
    assert numbers(page.text("#tiles .tile:first-child")) == pytest.approx(shown[0], rel=1e-3)
    assert numbers(page.text("#answer"))[0] == pytest.approx(wanted[0]["value"], rel=1e-3)
    assert wanted[0]["time"].replace("T", " ")[:16] in page.text("#answer")
    assert ink(page) > 2000


def test_the_page_complains_of_nothing_and_asks_only_its_own_service(page: Tab, address: str) -> None:
    choose_origin(page, 5)
    assert page.complaints == []
    assert page.requests
    assert [url for url in page.requests if not url.startswith(f"{address}/")] == []


def test_horizon_and_level_are_asked_for(page: Tab, address: str) -> None:
    page.enter("#horizon", "3")
    page.until("document.querySelectorAll('#steps tbody tr').length === 3")
    page.enter("#level", "0.8")
    page.until("document.querySelector('#steps thead').textContent.includes('80 %')")
    wanted = asked(address, rows_of(address), horizon=3, level=0.8)["steps"]
    assert step_table(page)[2][:3] == pytest.approx([wanted[2][k] for k in ("value", "lower", "upper")], rel=1e-3)
    assert "30 min" in page.text("#horizon-time")


def test_an_earlier_origin_shows_what_came(page: Tab, address: str) -> None:
    rows = rows_of(address)
    choose_origin(page, 12)
    past = {name: values[:-12] for name, values in rows.items()}
    wanted = asked(address, past, horizon=10, level=0.9)["steps"]
    for i, (row, step) in enumerate(zip(step_table(page), wanted, strict=True)):
        came = rows["down"][len(past["time"]) + i]
        assert row[0] == pytest.approx(step["value"], rel=1e-3)
        assert row[3] == pytest.approx(came, rel=1e-3)
    assert "Inside the interval" in page.text("#tiles")
    assert page.text("#origin-time") == past["time"][-1].replace("T", " ")[:16]


def test_another_station_has_its_own_rows_and_scores(page: Tab, address: str) -> None:
    page.enter("#station", "beta", "change")
    page.until("document.querySelector('#answer').textContent.startsWith('beta')")
    wanted = asked(address, rows_of(address, "beta"), series="beta", horizon=10, level=0.9)["steps"]
    assert step_table(page)[0][0] == pytest.approx(wanted[0]["value"], rel=1e-3)
    page.until("document.querySelector('#board caption').textContent.includes('beta')")


def test_the_story_names_champion_rivals_reasons_and_data(page: Tab) -> None:
    assert page.evaluate("document.querySelector('#board tr.champion th').textContent").startswith("gru")
    board = page.text("#board")
    assert all(name in board for name in ("persistence", "ridge", "Coverage", "Skill"))
    page.click("#reasons summary")
    assert "beats persistence" in page.text("#reasons")
    facts = page.text("#facts")
    assert all(text in facts for text in ("flts-test version 1", "240 rows", "60 rows", "the last 4 rows", "day_sin"))


def test_own_rows_are_forecast_in_the_browser(page: Tab, address: str) -> None:
    page.enter("#source", "own", "change")
    page.click("#own-example")
    page.click("#own-use")
    page.until(f"document.querySelector('#own-said').textContent.startsWith('Read') && {DRAWN}")
    last = {name: values[-60:] for name, values in rows_of(address).items()}
    wanted = asked(address, last, horizon=10, level=0.9)["steps"]
    assert step_table(page)[0][0] == pytest.approx(wanted[0]["value"], rel=1e-3)


def test_own_rows_that_cannot_be_read_say_where_and_why(page: Tab) -> None:
    page.enter("#source", "own", "change")
    page.click("#own-example")
    text = page.evaluate("document.querySelector('#own-text').value").splitlines()
    text[2] = text[2].replace(",", ",many,", 1)
    for lines, said in ((text, "Line 3 has 13 cells"), (["time,down", "2018-01-01,1"], "lacks up, rnti_count")):
        page.enter("#own-text", "\n".join(lines))
        page.click("#own-use")
        assert said in page.text("#own-said")
        assert not page.shown("#chart canvas")


def test_a_refused_forecast_shows_the_problem_and_the_fix(page: Tab, address: str) -> None:
    page.enter("#source", "own", "change")
    page.click("#own-example")
    lines = page.evaluate("document.querySelector('#own-text').value").splitlines()
    lines[-1] = lines[-2]  # the same time twice
    page.enter("#own-text", "\n".join(lines))
    page.click("#own-use")
    page.until("document.querySelector('#chart .empty')?.textContent.includes('history')")
    columns = {name: values[-60:] for name, values in rows_of(address).items()}
    columns = {name: [*values[:-1], values[-2]] for name, values in columns.items()}
    body = {"history": {"series": "alpha", "columns": columns}}
    answer = requests.post(f"{address}/v1/forecast", json=body, timeout=30)
    (found,) = answer.json()["problems"]
    assert found["reason"] in page.text("#chart")
    assert found["fix"] in page.text("#chart")
    page.click("#earlier")  # the rows before are in order
    page.until(DRAWN)


def test_a_busy_service_is_asked_again(page: Tab, service: HereService) -> None:
    service.failure = BusyError("too many wait")
    page.click("#earlier")
    page.until("document.querySelector('#chart .empty')?.textContent.includes('too many wait')")
    service.failure = None
    page.until(DRAWN)


def test_the_slider_is_moved_by_keys_and_everything_has_a_name(page: Tab) -> None:
    before = page.text("#origin-time")
    page.evaluate("document.querySelector('#origin').focus()")
    page.press("ArrowLeft", 37)
    page.until(f"document.querySelector('#origin-time').textContent !== {before!r}")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "combobox", "slider", "spinbutton", "textbox", "link", "image", "table"}
    controls = [n for n in nodes if not n.get("ignored") and n.get("role", {}).get("value") in roles]
    assert len(controls) > 8
    assert [n for n in controls if not n.get("name", {}).get("value")] == []


def test_dark_and_narrow_screens_are_drawn_for(page: Tab) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    light, wide = page.evaluate(background), page.evaluate("document.querySelector('#chart canvas').clientWidth")
    page.look(width=390, height=800, scheme="dark")
    page.until(f"document.querySelector('#chart canvas').clientWidth < {wide} - 300")
    assert page.evaluate(background) != light
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert ink(page) > 1000


def test_without_a_champion_the_page_waits_for_one(tab: Tab, service: HereService, address: str) -> None:
    model, service.models.current = service.models.current, None
    try:
        tab.open(address)
        tab.until("document.querySelector('#state-title').textContent.includes('no champion')")
        assert "asks again every" in tab.text("#state")
        assert not tab.shown("#app")
    finally:
        service.models.current = model
    tab.until(DRAWN)
    assert not tab.shown("#state")


def test_without_stores_the_page_still_forecasts_own_rows(
    tab: Tab, champion: Champion, address: str, tmp_path: Path
) -> None:
    missing = champion.service(storage={"root": str(tmp_path / "empty")})
    columns = rows_of(address)
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    with serving(create_app(missing, pages=router(missing))) as alone:
        tab.open(alone)
        tab.until("document.querySelector('#chart .empty')?.textContent.includes('There are no recorded rows')")
        assert tab.shown("#own-text")
        tab.enter("#own-text", "\n".join(lines))
        tab.click("#own-use")
        tab.until(DRAWN)
        wanted = asked(alone, columns, horizon=10, level=0.9)["steps"]
        assert step_table(tab)[0][0] == pytest.approx(wanted[0]["value"], rel=1e-3)


def test_a_token_is_asked_for_and_kept_nowhere(tab: Tab, champion: Champion) -> None:
    locked = champion.service()
    with serving(create_app(locked, token="open sesame", pages=router(locked))) as alone:
        tab.open(alone)
        tab.until("document.querySelector('#token-form').checkVisibility()")
        for given, seen in (("wrong", "did not take"), ("open sesame", "")):
            tab.enter("#token", given)
            tab.click("#token-form button")
            tab.until(f"document.querySelector('#state-text').textContent.includes({seen!r})")
        tab.until(DRAWN)
        kept = tab.evaluate("localStorage.length + sessionStorage.length + document.cookie.length")
        assert kept == 0
        assert not any("sesame" in url for url in tab.requests)
