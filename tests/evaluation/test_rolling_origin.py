"""Where a backtest cuts the train rows, and who takes part."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flts_ray.config_experiments import BacktestSettings
from flts_ray.errors import ConfigError, TooFewRowsError
from flts_ray.evaluation.rolling_origin import backtest_id, contenders, cuts, plan
from tests.stages import Bench, make_bench

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("cuts"), ("alpha", "beta"), backtest={"windows": 2, "test_rows": 40})


@st.composite
def splits(draw: st.DrawFn) -> tuple[int, BacktestSettings]:
    """Train rows of a station that is long enough, and how to cut them."""
    windows, test_rows, gap = draw(st.integers(1, 6)), draw(st.integers(1, 50)), draw(st.integers(0, 30))
    settings = BacktestSettings(
        windows=windows,
        test_rows=test_rows,
        gap_rows=gap,
        mode=draw(st.sampled_from(("expanding", "sliding"))),
        train_rows=draw(st.integers(0, 200)),
    )
    return windows * test_rows + gap + draw(st.integers(1, 300)), settings


@given(splits())
def test_the_scored_rows_are_the_last_train_rows_each_once(split: tuple[int, BacktestSettings]) -> None:
    rows, settings = split
    found = cuts(rows, settings)
    scored = [row for cut in found for row in range(cut.first_scored, cut.stop)]
    assert scored == list(range(rows - settings.windows * settings.test_rows, rows))
    assert [cut.stop - cut.first_scored for cut in found] == [settings.test_rows] * settings.windows


@given(splits())
def test_what_is_learnt_from_lies_before_the_gap_before_what_is_scored(split: tuple[int, BacktestSettings]) -> None:
    rows, settings = split
    for cut in cuts(rows, settings):
        assert 0 <= cut.start < cut.learn_stop
        assert cut.learn_stop + settings.gap_rows == cut.first_scored


@given(splits())
def test_an_expanding_window_starts_at_the_first_row_and_a_sliding_one_keeps_its_width(
    split: tuple[int, BacktestSettings],
) -> None:
    rows, settings = split
    found = cuts(rows, settings)
    widths = [cut.learn_stop - cut.start for cut in found]
    if settings.mode == "expanding":
        assert {cut.start for cut in found} == {0}
        assert widths == sorted(widths)
    elif settings.train_rows == 0:
        assert found[0].start == 0
        assert len(set(widths)) == 1
    else:
        assert widths == [min(settings.train_rows, cut.learn_stop) for cut in found]


def test_a_station_that_is_too_short_is_left_out_with_numbers(bench: Bench) -> None:
    alpha, beta = bench.dataset.frames
    dataset = dataclasses.replace(bench.dataset, frames=(alpha, dataclasses.replace(beta, train_rows=87)))
    found = plan(dataset, bench.settings)
    assert [cut.first_scored for cut in found.cuts["alpha"]] == [160, 200]
    reason = "it has 87 train rows, and 2 windows of 40 rows need 88: lower backtest.windows or backtest.test_rows"
    assert found.left_out == {"beta": reason}
    enough = dataclasses.replace(bench.dataset, frames=(alpha, dataclasses.replace(beta, train_rows=88)))
    assert plan(enough, bench.settings).left_out == {}


def test_no_station_that_is_long_enough_is_an_error(bench: Bench) -> None:
    with pytest.raises(TooFewRowsError, match=r"series 'alpha': it has 240 train rows, and 3 windows of 80 rows need"):
        plan(bench.dataset, bench.with_settings(backtest={"windows": 3, "test_rows": 80}))


def test_every_candidate_and_every_baseline_takes_part(bench: Bench) -> None:
    tuned = bench.with_settings(windows={"lookback": 9})
    found = contenders(bench.settings, tuned=("lstm", tuned))
    assert [(c.name, c.kind, c.role) for c in found] == [
        ("gru", "gru", "candidate"),
        ("tuned", "lstm", "candidate"),
        ("persistence", "persistence", "baseline"),
        ("moving_average", "moving_average", "baseline"),
        ("seasonal_naive", "seasonal_naive", "baseline"),
        ("ridge", "ridge", "baseline"),
    ]
    assert [c.lookback for c in found] == [4, 9, 1, 1, 1, 4]


def test_persistence_is_always_compared_with(bench: Bench) -> None:
    only = bench.with_settings(backtest={"models": ("ridge",)})
    assert [c.name for c in contenders(only)] == ["persistence", "ridge"]


def test_an_unknown_model_is_refused_by_name(bench: Bench) -> None:
    wrong = bench.with_settings(backtest={"models": ("gru", "tuned")})
    with pytest.raises(ConfigError, match="names 'tuned', which is no model of this run: choose from gru, persistence"):
        contenders(wrong)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"run": {"force": True}}, True),
        ({"backtest": {"enabled": True}}, True),
        ({"serve": {"port": 8123}}, True),
        ({"backtest": {"gap_rows": 3}}, False),
        ({"backtest": {"models": ("ridge",)}}, False),
        ({"baselines": {"ridge_alpha": 2.0}}, False),
        ({"training": {"epochs": 3}}, False),
    ],
)
def test_the_id_tells_what_shapes_the_table(bench: Bench, change: dict[str, dict[str, object]], same: bool) -> None:
    def name(settings) -> str:  # type: ignore[no-untyped-def]
        return backtest_id(bench.dataset.dataset_id, settings, contenders(settings))

    assert (name(bench.with_settings(**change)) == name(bench.settings)) is same
