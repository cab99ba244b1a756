"""The report: complete in itself, safe with hostile names, and holding the numbers of the run."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest

from flts_ray.evaluation.plots import Forecast, LossCurve
from flts_ray.evaluation.report import MAX_SERIES, render_report
from flts_ray.evaluation.report_data import (
    Check,
    ConfigRow,
    QualityRow,
    ReportData,
    SamplingRow,
    ScoreRow,
    SeriesForecast,
    VerdictView,
)

pytestmark = pytest.mark.unit

HOSTILE = '<script>alert("x")</script>{{ 7*7 }}"\'><img src=http://evil.example/x>'


def series(name: str, error: float = 1e7) -> SeriesForecast:
    time = np.datetime64("2018-03-01T00:00:00", "ns") + np.arange(900) * np.timedelta64(120, "s")
    actual = 1e8 + 5e7 * np.sin(np.arange(900) / 50)
    guess = actual + error
    data = Forecast(time=time, actual=actual, forecast=guess, lower=guess - 3e7, upper=guess + 3e7, step_s=120.0)
    return SeriesForecast(series=name, target="down", model="gru", data=data, scores={"rmse_bits": 7.861e7})


def report(**changes: object) -> ReportData:
    data = ReportData(
        identifier="PobleSec",
        created="2026-11-23 02:20 UTC",
        verdict=VerdictView(
            state="promoted",
            reasons=("gru: scaled RMSE 0.0345 is below ridge's 0.0353.",),
            headline="GRU is the new champion.",
            champion="gru, version 7",
            checks=(
                Check(name="Beats the baselines", passed=True, detail="78.6 against 80.5 Mbit"),
                Check(name="Beats the champion", passed=False, detail="78.6 against 77.9 Mbit"),
                Check(name="Significant", passed=None, detail="not required"),
            ),
        ),
        leaderboard=(
            ScoreRow(
                model="gru", role="candidate",
                scores={"rmse_bits": 7.861e7, "mae_bits": 4.12e7, "skill_vs_persistence": 0.1418, "coverage_90": 0.901,
                        "composite": 0.02291, "mase": 1.0512, "interval_width_bits": 1.74e8, "fit_s": 6.4,
                        "dm_p_vs_persistence": 2e-10},
            ),
            ScoreRow(model="ridge", role="baseline", scores={"rmse_bits": 8.05e7, "skill_vs_persistence": 0.121}),
            ScoreRow(model="seasonal_naive", role="baseline",
                     scores={"rmse_bits": 1.631e8, "skill_vs_persistence": -0.78}),
            ScoreRow(model="lstm", role="candidate", scores={"rmse_bits": None}, note="diverged in epoch 2"),
        ),
        winner="gru",
        coverage=0.9,
        horizon=3,
        step_s=120.0,
        protocol="Rolling origins over 3,982 rows.",
        forecasts=(series("PobleSec"),),
        hourly_error={"gru": np.full(24, 4e7), "persistence": np.full(24, 5e7)},
        horizon_rmse={"gru": np.array([7e7, 8e7, 9e7])},
        losses=(LossCurve(model="gru", epoch=[1, 2], train_loss=[0.5, 0.3], val_rmse=[0.6, 0.4]),),
        quality=(
            QualityRow(series="PobleSec", split="train", rows=15927, gaps=4, missing_values=31, zeros=17,
                       constant_columns=("mcs_up_var",), regime_break="falls by 41% on 2018-02-20"),
        ),
        dropped={"Gracia": "column 'up' lacks 73% of its values"},
        sampling=(SamplingRow(series="PobleSec", split="train", strategy="random", requested=5000, source_rows=15927,
                              kept_rows=5000, seed=42),),
        config=(ConfigRow(key="training.epochs", value="8", origin="environment EPOCHS"),
                ConfigRow(key="training.batch_size", value="128")),
        identities={"run_id": "9f3c1e2a", "dataset_id": "d-5b1f", "config_hash": "7c1a" * 16},
        versions={"ray": "2.60.0"},
        timings={"preprocess": 2.1, "train gru": 61.0},
    )  # fmt: skip
    return dataclasses.replace(data, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def html() -> str:
    return render_report(report())


class Page(HTMLParser):
    """Collects tags, attributes and the text that a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, key, value or "") for key, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def test_the_page_loads_nothing(html: str) -> None:
    page = Page(html)
    loads = {"src", "href", "xlink:href", "srcset", "action", "data", "poster", "background", "formaction"}
    for tag, key, value in page.attributes:
        if key in loads:
            assert value.startswith(("#", "data:,")), f"<{tag} {key}={value}>"
    for target in re.findall(r"url\(([^)]*)\)", html):
        assert target.strip("'\"").startswith("#")
    assert "@import" not in html
    assert not {"iframe", "object", "embed", "base", "img"} & set(page.tags)
    assert page.tags.count("script") == 1


def test_the_one_script_is_the_one_that_the_policy_allows(html: str) -> None:
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = next(v for t, k, v in Page(html).attributes if t == "meta" and k == "content" and "default-src" in v)
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_hostile_names_stay_text() -> None:
    data = report(
        identifier=HOSTILE,
        verdict=VerdictView(state=HOSTILE, headline=HOSTILE, champion=HOSTILE, reasons=(HOSTILE,),
                            checks=(Check(name=HOSTILE, passed=True, detail=HOSTILE),)),
        leaderboard=(ScoreRow(model=HOSTILE, role=HOSTILE, scores={"rmse_bits": 1e8}, note=HOSTILE),),
        winner=HOSTILE,
        forecasts=(dataclasses.replace(series(HOSTILE), target=HOSTILE, model=HOSTILE),),
        hourly_error={HOSTILE: np.full(24, 1.0)},
        horizon_rmse={HOSTILE: np.ones(3)},
        losses=(LossCurve(model=HOSTILE, epoch=[1], train_loss=[1.0], val_rmse=[1.0]),),
        quality=(QualityRow(series=HOSTILE, split=HOSTILE, rows=1, constant_columns=(HOSTILE,), regime_break=HOSTILE),),
        dropped={HOSTILE: HOSTILE},
        config=(ConfigRow(key=HOSTILE, value=HOSTILE, origin=HOSTILE),),
        identities={HOSTILE: HOSTILE},
        timings={HOSTILE: 1.0},
        protocol=HOSTILE,
    )  # fmt: skip
    html = render_report(data)
    page = Page(html)
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert HOSTILE in unescape(html)  # shown as it is, its braces not evaluated


def test_the_numbers_of_the_run_are_there(html: str) -> None:
    text = Page(html).text
    for expected in (
        "78.61", "41.20", "14.2%", "90.1%", "0.02291", "1.051", "174.00", "6.4 s", "< 0.001",  # leaderboard
        "-78.0%", "diverged in epoch 2", "Mbit per 2 min", "Rolling origins over 3,982 rows.",
        "promoted", "GRU is the new champion.", "gru, version 7", "78.6 against 77.9 Mbit",
        "0.0345 is below ridge's 0.0353",  # verdict
        "15,927", "31", "17", "mcs_up_var", "falls by 41% on 2018-02-20", "Gracia", "lacks 73% of its values",  # data
        "random", "5,000", "42",  # sampling
        "training.epochs", "environment EPOCHS", "128",  # configuration
        "9f3c1e2a", "d-5b1f", "7c1a" * 16, "2.60.0", "1 min 1 s",  # identity, time
    ):  # fmt: skip
        assert expected in text, expected


def test_the_summary_says_how_good_the_forecast_is(html: str) -> None:
    text = Page(html).text
    assert (
        "GRU forecasts up to 3 steps (6 min) ahead and is off by 41.2 Mbit on average, with 14.2% less RMSE than "
        "repeating the last value; 90.1% of the outcomes lay inside its 90% interval."
    ) in text


def test_checks_show_passed_failed_and_open(html: str) -> None:
    assert [html.count(f'class="mark {mark}"') for mark in ("yes", "no", "open")] == [1, 1, 1]


def test_a_run_without_a_usable_candidate_still_has_a_report() -> None:
    data = report(
        verdict=VerdictView(state="no winner", headline="No candidate could be scored."),
        leaderboard=(ScoreRow(model="gru", role="candidate", scores={}, note="diverged"),),
        winner="", forecasts=(), hourly_error={}, horizon_rmse={}, losses=(), quality=(), dropped={}, sampling=(),
        config=(), identities={}, versions={}, timings={},
    )  # fmt: skip
    text = Page(render_report(data)).text
    assert "no champion has been promoted yet" in text
    assert "there is no forecast to judge" in text
    assert "diverged" in text


def test_a_zero_or_nan_score_does_not_break_the_table() -> None:
    rows = (
        ScoreRow(model="gru", role="candidate", scores={"rmse_bits": 0.0, "mae_bits": float("nan")}),
        ScoreRow(model="ridge", role="baseline", scores={"rmse_bits": 0.0}),
    )
    assert "gru" in Page(render_report(report(leaderboard=rows, forecasts=()))).text


def test_one_step_has_no_horizon_curve(html: str) -> None:
    assert "RMSE by steps ahead" in html
    assert "RMSE by steps ahead" not in render_report(
        report(horizon=1, horizon_rmse={"gru": np.array([7e7])}, forecasts=())
    )


def test_of_many_stations_the_worst_are_drawn_and_the_rest_counted() -> None:
    stations = tuple(series(f"station-{i}", error=1e6 * i) for i in range(MAX_SERIES + 3))
    page = Page(render_report(report(forecasts=stations)))
    drawn = [i for i in range(MAX_SERIES + 3) if f"station-{i}, down" in page.text]
    assert drawn == list(range(3, MAX_SERIES + 3))
    assert "3 more were scored" in page.text


def test_other_units_are_left_as_they_are() -> None:
    scores = {"rmse_bits": 12.5, "mae_bits": 8.25}
    data = report(unit="requests", forecasts=(), leaderboard=(ScoreRow(model="gru", role="candidate", scores=scores),))
    text = Page(render_report(data)).text
    assert "Errors in requests per 2 min" in text
    assert "12.50" in text


@pytest.mark.parametrize(("state", "tone"), [("promoted", "good"), ("kept", "calm"), ("no_winner", "warn")])
def test_the_colour_follows_the_verdict(state: str, tone: str) -> None:
    page = Page(render_report(report(verdict=VerdictView(state=state, headline="x"), forecasts=())))
    assert ("section", "class", f"card verdict {tone}") in page.attributes
    assert state.replace("_", " ") in page.text
