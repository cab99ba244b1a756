"""The intervals of an answer are those that evaluation gives at the same origin."""

from __future__ import annotations

import numpy as np
import pytest

from flts_ray.data.frame import RawFrame
from flts_ray.evaluation.backtest import backtest, common_origins
from flts_ray.evaluation.conformal import IntervalTracker
from flts_ray.evaluation.intervals import bands, covered, unpack
from flts_ray.inference.bands import calibrations, miss_rate
from flts_ray.inference.engine import Engine
from flts_ray.inference.queries import Forecast, Query
from tests.inference.bundles import Made, make_bundle, part

pytestmark = pytest.mark.unit

TRAIN_ROWS = 400


def asked(made: Made, history: RawFrame, adapt_rows: int, levels: tuple[float, ...] = (0.9,)) -> Forecast:
    horizon = made.bundle.manifest.horizon
    query = Query(history=history, horizon=horizon, levels=levels, adapt_rows=adapt_rows)
    (answer,) = Engine(made.bundle, runtime="torch").forecast([query])
    assert isinstance(answer, Forecast), answer
    return answer


def states_of(made: Made):
    return unpack(made.bundle.manifest.intervals, made.bundle.interval_arrays)["north"]


@pytest.mark.parametrize("last", [TRAIN_ROWS - 1, TRAIN_ROWS, TRAIN_ROWS + 30, 498])
def test_a_history_since_calibration_gets_evaluations_interval(last):
    made = make_bundle()
    frame, model = made.frames["north"], made.bundle.forecaster
    test = backtest(frame, model, common_origins(frame, [model]))
    wanted = bands(test.predictions, test.observed, test.origins, states_of(made))
    place = int(np.flatnonzero(test.origins == last)[0])
    found = asked(made, part(made.raws["north"], slice(0, last + 1)), last - (TRAIN_ROWS - 1))
    np.testing.assert_allclose(found.values, test.predictions[place], rtol=1e-6)
    np.testing.assert_allclose(found.lower[0], wanted.lower[place], rtol=1e-6)
    np.testing.assert_allclose(found.upper[0], wanted.upper[place], rtol=1e-6)


@pytest.mark.parametrize("horizon", [1, 4])
@pytest.mark.parametrize("adapt_rows", [0, 1, 7, 60])
@pytest.mark.parametrize("gap", [0, 20])
def test_it_is_evaluations_algorithm_over_the_latest_origins(horizon, adapt_rows, gap):
    made = make_bundle(horizon=horizon)
    raw = made.raws["north"]
    rows = np.concatenate([np.arange(0, 440), np.arange(440 + gap, 490)])
    history = part(raw, rows)
    frame = made.bundle.manifest.transforms["north"].apply(history, train_rows=0)
    last = len(history) - 1
    origins = np.arange(last - adapt_rows, last + 1)
    origins = origins[frame.segment[origins - 9] == frame.segment[origins]]
    test = backtest(frame, made.bundle.forecaster, origins)
    wanted = bands(test.predictions, test.observed, test.origins, states_of(made))
    found = asked(made, history, adapt_rows)
    np.testing.assert_allclose(found.lower[0], wanted.lower[-1], rtol=1e-6)
    np.testing.assert_allclose(found.upper[0], wanted.upper[-1], rtol=1e-6)
    assert np.isfinite(found.lower).all()


def test_a_request_does_not_change_the_calibration():
    made = make_bundle()
    engine, history = Engine(made.bundle), part(made.raws["north"], slice(0, 450))
    query = Query(history=history, horizon=1, levels=(0.9,), adapt_rows=40)
    first, other = engine.forecast([query, query])
    (again,) = engine.forecast([query])
    assert isinstance(first, Forecast)
    for answer in (other, again):
        assert isinstance(answer, Forecast)
        np.testing.assert_array_equal(answer.upper, first.upper)


def test_higher_levels_hold_lower_ones():
    made = make_bundle()
    levels = (0.5, 0.8, 0.9, 0.95, 0.99)
    found = asked(made, part(made.raws["north"], slice(0, 450)), 40, levels)
    assert (np.diff(found.lower[:, 0, 0]) <= 0).all()
    assert (np.diff(found.upper[:, 0, 0]) >= 0).all()
    assert found.lower[0, 0, 0] < found.values[0, 0] < found.upper[0, 0, 0]
    assert found.upper[-1, 0, 0] > found.upper[0, 0, 0]


@pytest.mark.parametrize("level", [0.5, 0.7, 0.95])
def test_other_levels_cover_what_they_promise(level):
    made = make_bundle()
    tracker = IntervalTracker(states_of(made)[0][0])
    random = np.random.default_rng(0)
    actual = 1e6 * np.exp(0.3 * random.normal(size=3000))
    hits = []
    for origin, outcome in enumerate(actual.tolist()):
        tracker.advance(origin, 1e6, outcome)
        low, high = tracker.bounds(1e6, tracker.radius(tracker.spread(), miss_rate(tracker, level)))
        hits.append(covered(np.array([outcome]), np.array([low]), np.array([high]))[0])
    assert np.mean(hits[1000:]) == pytest.approx(level, abs=0.03)


@pytest.mark.parametrize("alpha", [-0.2, 0.0, 0.1, 0.4, 1.0, 1.3])
def test_the_rate_of_a_level_moves_with_that_of_the_calibrated_one(alpha):
    (state,) = states_of(make_bundle())[0]
    tracker = IntervalTracker(state)
    tracker.alpha = alpha
    assert miss_rate(tracker, 0.9) == alpha
    rates = [miss_rate(tracker, level) for level in (0.01, 0.5, 0.89, 0.91, 0.999)]
    assert rates == sorted(rates, reverse=True)
    assert all(0 < rate < 1 for rate in rates)


def test_nothing_calibrated_gives_no_interval():
    made = make_bundle(calibrated=False)
    assert dict(calibrations(made.bundle)) == {}
    found = asked(made, part(made.raws["north"], slice(0, 450)), 40)
    assert np.isnan(found.lower).all()
    assert np.isnan(found.upper).all()
    assert Engine(made.bundle).levels == ()
