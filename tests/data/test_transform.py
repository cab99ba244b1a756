"""The transform is causal, learns from train rows only, and gives the same rows wherever it runs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flts_ray.config import Settings
from flts_ray.config_layers import load_settings
from flts_ray.data.features import calendar, grid_positions
from flts_ray.data.frame import RawFrame
from flts_ray.data.transform import Transform
from flts_ray.errors import MissingColumnError

pytestmark = pytest.mark.unit

COLUMNS = ("down", "up", "rnti_count")
STEP_S = 600.0


def configured(*assignments: str) -> Settings:
    return load_settings(assignments=[f"data.columns=[{','.join(COLUMNS)}]", *assignments], environ={}).settings


def station(rows: int, seed: int = 0, gaps: bool = False) -> RawFrame:
    rng = np.random.default_rng(seed)
    steps = np.where(rng.random(rows) < 0.02, rng.integers(2, 300, rows), 1) if gaps else np.ones(rows, dtype=int)
    time = np.datetime64("2026-01-05T00:00", "ns") + np.cumsum(steps) * np.timedelta64(600, "s")
    values = rng.gamma(2.0, 1e6, (rows, len(COLUMNS)))
    values[rng.random(values.shape) < 0.01] = np.nan
    return RawFrame(series="s", time=time, columns=COLUMNS, values=values)


def rows_of(raw: RawFrame, rows: slice) -> RawFrame:
    return RawFrame(series=raw.series, time=raw.time[rows], columns=raw.columns, values=raw.values[rows])


RECIPES = ["recipe=default", "recipe=classic", "features.lags=2"]


@pytest.mark.parametrize("recipe", RECIPES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(1, 399), gaps=st.booleans())
def test_rows_never_depend_on_later_rows(recipe: str, seed: int, cut: int, gaps: bool) -> None:
    raw = station(400, seed, gaps)
    transform = Transform.fit(rows_of(raw, slice(0, 300)), configured(recipe), STEP_S)
    whole = transform.apply(raw, 300)
    part = transform.apply(rows_of(raw, slice(0, cut)), cut)
    np.testing.assert_array_equal(part.features, whole.features[:cut])
    np.testing.assert_array_equal(part.targets, whole.targets[:cut])


def test_nothing_is_learnt_from_test_rows() -> None:
    raw = station(400)
    spoilt = RawFrame(series="s", time=raw.time, columns=raw.columns, values=raw.values.copy())
    spoilt.values[300:] *= 1000
    train = [rows_of(frame, slice(0, 300)) for frame in (raw, spoilt)]
    assert Transform.fit(train[0], configured(), STEP_S) == Transform.fit(train[1], configured(), STEP_S)


@pytest.mark.parametrize("recipe", RECIPES)
def test_shape_names_and_no_nan(recipe: str) -> None:
    raw = station(500, gaps=True)
    transform = Transform.fit(raw, configured(recipe), STEP_S)
    frame = transform.apply(raw, 500)
    assert frame.features.shape == (500, len(transform.feature_names))
    assert frame.features.dtype == np.float32
    assert np.isfinite(frame.features).all()
    assert np.isfinite(frame.targets).all()
    np.testing.assert_array_equal(frame.observed[:, 0], raw.column("down"))


def test_classic_has_the_seventeen_columns() -> None:
    classic = load_settings(options={"recipe": "classic"}, environ={}).settings
    raw = station(50)
    eleven = RawFrame(
        series="s", time=raw.time, columns=classic.data.columns, values=np.random.default_rng(0).random((50, 11))
    )
    names = Transform.fit(eleven, classic, STEP_S).feature_names
    assert len(names) == 17
    assert names[-6:] == (
        "min_of_day_sin",
        "min_of_day_cos",
        "day_of_week_sin",
        "day_of_week_cos",
        "day_of_year_sin",
        "day_of_year_cos",
    )


def test_minmax_stretches_train_to_the_unit_interval() -> None:
    raw = station(300)
    frame = Transform.fit(raw, configured("recipe=classic"), STEP_S).apply(raw, 300)
    np.testing.assert_allclose(frame.features.min(axis=0)[:3], 0, atol=1e-6)
    np.testing.assert_allclose(frame.features.max(axis=0)[:3], 1, atol=1e-6)


def test_history_of_context_rows_is_enough() -> None:
    raw = station(6000, seed=3)
    transform = Transform.fit(raw, configured(), STEP_S)
    whole = transform.apply(raw, 6000)
    tail = transform.apply(rows_of(raw, slice(6000 - transform.context_rows, 6000)), 0)
    np.testing.assert_allclose(tail.features[-1], whole.features[-1], rtol=1e-5, atol=1e-5)


def test_json_round_trip() -> None:
    raw = station(300)
    transform = Transform.fit(raw, configured(), STEP_S)
    again = Transform.model_validate_json(transform.model_dump_json())
    assert again == transform
    np.testing.assert_array_equal(again.apply(raw, 300).features, transform.apply(raw, 300).features)


def test_columns_are_taken_by_name() -> None:
    raw = station(300)
    transform = Transform.fit(raw, configured(), STEP_S)
    shuffled = RawFrame(series="s", time=raw.time, columns=COLUMNS[::-1], values=raw.values[:, ::-1])
    np.testing.assert_array_equal(transform.apply(shuffled, 0).features, transform.apply(raw, 0).features)
    with pytest.raises(MissingColumnError, match="lacks the column 'up'"):
        transform.apply(RawFrame(series="s", time=raw.time, columns=("down",), values=raw.values[:, :1]), 0)


def test_calendar_knows_the_day() -> None:
    monday_noon = np.array(["2026-01-05T12:00", "2026-01-10T06:00"], dtype="datetime64[ns]")
    np.testing.assert_allclose(calendar(monday_noon, "harmonics")[:, 0], [0, 1], atol=1e-12)
    np.testing.assert_array_equal(calendar(monday_noon, "harmonics")[:, 4], [0, 1])
    np.testing.assert_allclose(calendar(monday_noon, "cyclic")[0, :4], [0, -1, 0, 1], atol=1e-12)


def test_profile_is_yesterdays_value() -> None:
    rows = 400
    day = np.sin(2 * np.pi * np.arange(rows) / 144) + 2
    time = np.datetime64("2026-01-05", "ns") + np.arange(rows) * np.timedelta64(600, "s")
    raw = RawFrame(series="s", time=time, columns=("down",), values=day[:, None])
    settings_ = load_settings(assignments=["data.columns=[down]", "scaling.scaler=none"], environ={}).settings
    transform = Transform.fit(raw, settings_, STEP_S)
    frame = transform.apply(raw, rows)
    slope = frame.features[:, transform.feature_names.index("down_yesterday_slope")]
    np.testing.assert_allclose(slope[200:-1], np.diff(day)[200:], atol=0.01)
    assert (slope[:149] == 0).all()


def test_one_wrong_timestamp_does_not_ask_for_a_grid_of_years() -> None:
    time = np.array(["2026-01-05T00:00", "2026-01-05T00:10", "2199-01-05T00:20"], dtype="datetime64[ns]")
    positions = grid_positions(time, STEP_S)
    assert positions[1] == 1
    assert positions[2] < 10 * 144
    assert (positions[2] - positions[1]) % 144 == 1
