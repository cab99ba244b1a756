from __future__ import annotations

import json

import numpy as np
import pytest

from flts_ray.config import EvaluationSettings
from flts_ray.errors import BundleError
from flts_ray.evaluation.backtest import backtest, calibration_origins, common_origins
from flts_ray.evaluation.intervals import bands, calibrate, covered, pack, rolling_minimum, unpack
from tests.evaluation.stations import Last, make_frame, real_frame

pytestmark = pytest.mark.unit
SETTINGS = EvaluationSettings()


def noisy_frame(rows=1200, train=900, targets=1, seed=0):
    random = np.random.default_rng(seed)
    return make_frame(100.0 * np.exp(0.2 * random.normal(size=(rows, targets))), train)


def banded(frame, model, fraction=0.2):
    held_out = backtest(frame, model, calibration_origins(frame, model.lookback, model.horizon, fraction), part="train")
    test = backtest(frame, model, common_origins(frame, [model]))
    states = calibrate(held_out, frame, SETTINGS)
    return test, bands(test.predictions, test.observed, test.origins, states), states


def test_every_target_and_step_has_its_own_interval():
    test, band, states = banded(noisy_frame(targets=2), Last(horizon=4))
    assert (len(states), len(states[0])) == (2, 4)
    assert [s.step for s in states[1]] == [1, 2, 3, 4]
    assert band.lower.shape == test.predictions.shape
    for h in range(4):
        for k in range(2):
            valid = test.valid[:, h, k]
            hits = covered(test.observed[:, h, k], band.lower[:, h, k], band.upper[:, h, k])[valid]
            assert hits.mean() == pytest.approx(0.9, abs=0.04)


def test_test_rows_do_not_reach_the_intervals_of_the_first_origins():
    frame = noisy_frame()
    model = Last(horizon=6)
    test, band, states = banded(frame, model)
    first = int(np.nonzero(test.origins == frame.train_rows)[0][0])
    hidden = test.observed.copy()
    hidden[test.origins[:, None] + np.arange(1, 7) > frame.train_rows] = np.nan
    blind = bands(test.predictions, hidden, test.origins, states)
    assert np.array_equal(band.lower[: first + 1], blind.lower[: first + 1])


def test_packed_states_give_the_same_intervals():
    frame = noisy_frame(targets=2)
    test, band, _ = banded(frame, Last(horizon=3))
    meta, arrays = pack({"a": band.states, "b": band.states})
    again = unpack(json.loads(json.dumps(meta, allow_nan=False)), arrays)
    settled = tuple(tuple(s.settled() for s in steps) for steps in band.states)
    assert again == {"a": settled, "b": settled}
    unknown = np.full_like(test.observed, np.nan)
    expected = bands(test.predictions, unknown, test.origins, settled)
    np.testing.assert_array_equal(bands(test.predictions, unknown, test.origins, again["b"]).upper, expected.upper)


def test_a_damaged_pack_is_refused():
    _, band, _ = banded(noisy_frame(), Last())
    meta, arrays = pack({"a": band.states})
    with pytest.raises(BundleError, match="series 'a'"):
        unpack(meta, {})
    with pytest.raises(BundleError):
        unpack({"a": {**meta["a"], "cells": []}}, arrays)
    with pytest.raises(BundleError):
        unpack({"a": {**meta["a"], "cells": [{"step": 1}]}}, arrays)


def test_rolling_minimum():
    hits = np.array([True] * 10 + [False] * 2 + [True] * 10)
    assert rolling_minimum(hits, 5) == pytest.approx(0.6)
    assert rolling_minimum(hits, 22) == pytest.approx(20 / 22)
    assert rolling_minimum(hits, 23) is None


@pytest.mark.parametrize("station", ["PobleSec", "ElBorn"])
def test_persistence_intervals_keep_their_promise_on_real_stations(station):
    test, band, _ = banded(real_frame(station), Last(lookback=10))
    valid = test.valid[:, 0, 0]
    hits = covered(test.observed, band.lower, band.upper)[valid, 0, 0]
    assert len(hits) > 1000
    assert hits.mean() == pytest.approx(0.9, abs=0.01)
    assert rolling_minimum(hits) >= 0.85
    assert band.lower.min() >= 0


def test_outcomes_of_the_last_train_rows_wait_until_the_test_origins_reach_them():
    frame = noisy_frame(train=900)
    _, _, states = banded(frame, Last(horizon=6))
    # The last calibration origin is row 893; the outcome of its step 6 is row 899, not yet known at origin 894.
    assert [p.due for p in states[0][5].pending] == [894, 895, 896, 897, 898, 899]
    assert [p.due for p in states[0][0].pending] == [894]
