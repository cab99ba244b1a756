from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flts_ray.config import EvaluationSettings
from flts_ray.evaluation.conformal import adaptive_intervals, initial_state
from flts_ray.evaluation.intervals import covered, rolling_minimum

pytestmark = pytest.mark.unit
SETTINGS = EvaluationSettings()


def drifting(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Forecasts and right-skewed outcomes whose noise has a daily wave and triples half-way."""
    random = np.random.default_rng(seed)
    t = np.arange(rows)
    level = 100.0 + 60.0 * np.sin(2 * np.pi * t / 720)
    noise = 0.1 * (1.0 + 0.6 * np.sin(2 * np.pi * t / 240)) * np.where(t > rows // 2, 3.0, 1.0)
    return level, level * np.exp(noise * random.gumbel(size=rows) - noise * 0.58)


def calibrated(forecast, actual, *, step=1, options=SETTINGS):
    state = initial_state(forecast, actual, actual, options, step=step)
    return adaptive_intervals(forecast, actual, state)[2]


@pytest.mark.parametrize(("step", "tolerance"), [(1, 0.01), (5, 0.015), (30, 0.025)])
@pytest.mark.parametrize("seed", [0, 1])
def test_coverage_holds_under_drift(step, tolerance, seed):
    forecast, actual = drifting(6000, seed)
    state = calibrated(forecast[:1500], actual[:1500], step=step)
    lower, upper, _ = adaptive_intervals(forecast[1500:], actual[1500:], state)
    hits = covered(actual[1500:], lower, upper)
    assert hits.mean() == pytest.approx(0.9, abs=tolerance)
    assert (lower >= 0).all()
    assert (lower <= forecast[1500:]).all()
    assert (forecast[1500:] <= upper).all()
    if step == 1:
        assert rolling_minimum(hits) > 0.84


def test_intervals_widen_with_the_noise():
    forecast, actual = drifting(6000)
    state = calibrated(forecast[:1500], actual[:1500])
    lower, upper, _ = adaptive_intervals(forecast[1500:], actual[1500:], state)
    width = (upper - lower) / forecast[1500:]
    assert np.median(width[2500:]) > 2 * np.median(width[:1400])


@pytest.mark.parametrize("coverage", [0.8, 0.95])
def test_other_coverages(coverage):
    options = EvaluationSettings(coverage=coverage)
    forecast, actual = drifting(5000)
    state = calibrated(forecast[:1000], actual[:1000], options=options)
    lower, upper, _ = adaptive_intervals(forecast[1000:], actual[1000:], state)
    assert covered(actual[1000:], lower, upper).mean() == pytest.approx(coverage, abs=0.01)


def test_twenty_rows_are_enough_to_calibrate():
    forecast, actual = drifting(520)
    state = calibrated(forecast[:20], actual[:20])
    lower, upper, _ = adaptive_intervals(forecast[20:], actual[20:], state)
    assert covered(actual[20:], lower, upper).mean() == pytest.approx(0.9, abs=0.03)


def test_without_any_score_there_is_no_interval_until_one_arrives():
    empty = np.zeros(0)
    state = initial_state(empty, empty, np.array([1.0, 2.0]), SETTINGS, step=2)
    lower, upper, _ = adaptive_intervals(np.full(5, 10.0), np.full(5, 11.0), state)
    assert np.isnan(lower[:2]).all()
    assert np.isfinite(lower[2:]).all()
    assert (upper[2:] > 10.0).all()


def test_targets_that_can_be_negative_get_symmetric_unclipped_bounds():
    random = np.random.default_rng(0)
    actual = random.normal(size=2000)
    forecast = np.zeros(2000)
    state = calibrated(forecast[:500], actual[:500])
    lower, upper, _ = adaptive_intervals(forecast[500:], actual[500:], state)
    np.testing.assert_allclose(lower, -upper)
    assert covered(actual[500:], lower, upper).mean() == pytest.approx(0.9, abs=0.01)


def test_constant_series_and_non_finite_forecasts_are_survived():
    forecast = np.full(50, 5.0)
    forecast[30] = np.nan
    state = calibrated(np.full(20, 5.0), np.full(20, 5.0))
    lower, upper, _ = adaptive_intervals(forecast, np.full(50, 5.0), state)
    assert np.isnan(lower[30])
    keep = np.arange(50) != 30
    np.testing.assert_allclose(lower[keep], 5.0)
    np.testing.assert_allclose(upper[keep], 5.0)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(0, 299), st.integers(0, 2**31), st.sampled_from(["nan", "noise"]))
def test_outcomes_not_yet_known_change_nothing(step, origin, seed, how):
    forecast, actual = drifting(400, seed=1)
    state = calibrated(forecast[:100], actual[:100], step=step)
    forecast, actual = forecast[100:], actual[100:]
    lower, upper, _ = adaptive_intervals(forecast, actual, state)
    # At this origin the outcomes of forecasts made `step` rows ago or earlier are known, later ones are not.
    altered = actual.copy()
    unknown = slice(max(origin - step + 1, 0), None)
    altered[unknown] = np.nan if how == "nan" else np.random.default_rng(seed).gamma(1.0, 1e3, size=300)[unknown]
    again_lower, again_upper, _ = adaptive_intervals(forecast, altered, state)
    assert np.array_equal(lower[: origin + 1], again_lower[: origin + 1])
    assert np.array_equal(upper[: origin + 1], again_upper[: origin + 1])


def test_an_outcome_counts_as_soon_as_it_is_known():
    forecast, actual = drifting(200)
    state = calibrated(forecast[:100], actual[:100], step=3).settled()
    altered = actual[100:].copy()
    altered[10] *= 50.0
    _, upper, _ = adaptive_intervals(forecast[100:], actual[100:], state)
    _, changed, _ = adaptive_intervals(forecast[100:], altered, state)
    assert np.array_equal(upper[:13], changed[:13])
    assert changed[13] > upper[13]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 10), st.lists(st.integers(0, 300), max_size=4))
def test_cutting_the_rows_into_calls_gives_the_same_intervals(step, cuts):
    forecast, actual = drifting(300)
    actual[50:60] = np.nan
    start = initial_state(forecast, actual, actual, SETTINGS, step=step)
    whole_lower, whole_upper, whole_state = adaptive_intervals(forecast, actual, start)
    state, lowers, uppers = start, [], []
    for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), 300], strict=True):
        lower, upper, state = adaptive_intervals(forecast[a:b], actual[a:b], state)
        state = type(state).model_validate_json(state.model_dump_json())
        lowers.append(lower)
        uppers.append(upper)
    np.testing.assert_array_equal(np.concatenate(lowers), whole_lower)
    np.testing.assert_array_equal(np.concatenate(uppers), whole_upper)
    assert state == whole_state


def test_skipped_origins_delay_nothing():
    forecast, actual = drifting(60)
    state = calibrated(forecast, actual, step=5).settled()
    origins = np.array([100, 101, 110], dtype=np.int64)
    after = adaptive_intervals(forecast[:3], actual[:3], state, origins=origins)[2]
    assert [p.due for p in after.pending] == [115]
    assert after.next_origin == 111


def test_only_the_latest_scores_are_kept_in_the_order_they_came():
    forecast, actual = drifting(300)
    options = EvaluationSettings(calibration_rows=40)
    short, long = calibrated(forecast, actual, options=options).settled(), calibrated(forecast, actual).settled()
    assert len(short.scores) == 40
    assert short.scores == long.scores[-40:]
