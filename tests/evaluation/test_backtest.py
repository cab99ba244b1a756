from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flts_ray.errors import ConfigError, DataError
from flts_ray.evaluation.backtest import (
    backtest,
    calibration_origins,
    common_origins,
    unscorable,
    validation_start,
)
from flts_ray.training.examples import fit_row_count
from tests.evaluation.causality import assert_causal
from tests.evaluation.stations import Last, make_frame

pytestmark = pytest.mark.unit


def test_every_test_row_is_a_target_at_every_step():
    frame = make_frame(np.arange(30.0), 20)
    model = Last(lookback=3, horizon=4)
    result = backtest(frame, model, common_origins(frame, [model]))
    rows = result.origins[:, None] + np.arange(1, 5)
    for h in range(4):
        assert sorted(rows[result.valid[:, h, 0], h]) == list(range(20, 30))
    assert np.array_equal(result.observed[result.valid], rows[result.valid[:, :, 0]])
    assert np.isnan(result.observed[~result.valid]).all()
    assert np.array_equal(result.predictions[:, 0, 0], result.origins)
    assert result.predict_s >= 0
    assert result.finite


def test_missing_rows_and_rows_beyond_a_gap_do_not_count():
    observed = np.arange(20.0)
    observed[15] = np.nan
    frame = make_frame(np.arange(20.0), 10, observed=observed, gap_at=17)
    model = Last(horizon=3)
    result = backtest(frame, model, common_origins(frame, [model]))
    scored = result.origins[:, None] + np.arange(1, 4)
    valid = result.valid[:, :, 0]
    assert 15 not in scored[valid]
    crosses = (result.origins[:, None] < 17) & (scored >= 17)
    assert crosses.any()
    assert not valid[crosses].any()
    assert valid[~crosses & (scored >= 10) & (scored < 20) & (scored != 15)].all()


def test_common_origins_follow_the_longest_history_and_one_horizon():
    frame = make_frame(np.arange(40.0), 10)
    assert common_origins(frame, [Last(lookback=2), Last(lookback=15)])[0] == 14
    with pytest.raises(ConfigError, match=r"horizons \[1, 2\]"):
        common_origins(frame, [Last(), Last(horizon=2)])
    with pytest.raises(ConfigError):
        common_origins(frame, [])


def test_a_model_with_too_long_a_memory_is_named_unscorable():
    frame = make_frame(np.arange(40.0), 20)
    assert unscorable([frame], Last(lookback=20)) == ""
    assert "needs 30 gap-free rows" in unscorable([frame], Last(lookback=30))
    assert "'a'" in unscorable([frame], Last(lookback=100))


def test_non_finite_and_misshapen_forecasts_are_noticed():
    frame = make_frame(np.arange(20.0), 10)
    origins = common_origins(frame, [Last()])
    assert not backtest(frame, Last(bias=np.nan), origins).finite
    assert not backtest(frame, Last(bias=np.inf), origins).finite

    class Flat(Last):
        def predict(self, frame, origins):
            return super().predict(frame, origins)[:, 0]

    with pytest.raises(DataError, match="shape"):
        backtest(frame, Flat(), origins)


@given(
    rows=st.integers(5, 80),
    test=st.integers(0, 10),
    lookback=st.integers(1, 8),
    horizon=st.integers(1, 5),
    fraction=st.floats(0.05, 0.85),
    gap=st.integers(1, 60),
)
def test_calibration_rows_are_exactly_the_validation_tail(rows, test, lookback, horizon, fraction, gap):
    frame = make_frame(np.arange(float(rows + test)), rows, gap_at=gap if gap < rows else None)
    origins = calibration_origins(frame, lookback, horizon, fraction)
    first = validation_start(rows, fraction, horizon)
    result = backtest(frame, Last(lookback=lookback, horizon=horizon), origins, part="train")
    assert result.valid.all()
    due = {
        i
        for i in range(lookback - 1, rows - horizon)
        if i + 1 >= first and frame.segment[i - lookback + 1] == frame.segment[i + horizon]
    }
    assert set(origins.tolist()) == due


@given(st.integers(2, 20_000), st.floats(0.01, 0.89), st.integers(1, 30))
def test_the_validation_tail_is_the_one_that_training_leaves_out(rows, fraction, horizon):
    assert validation_start(rows, fraction, horizon) == fit_row_count(rows, fraction, horizon)


def test_calibration_scores_train_rows_only():
    frame = make_frame(np.arange(20.0), 10)
    result = backtest(frame, Last(horizon=3), np.arange(6, 12), part="train")
    assert set(result.observed[result.valid]) == {7.0, 8.0, 9.0}


def test_the_causality_check_passes_persistence_and_catches_a_peek():
    frame = make_frame(np.arange(40.0), 20)
    assert_causal(Last(horizon=2), frame, np.array([5, 20, 38]))
    with pytest.raises(AssertionError, match="read rows after its origin"):
        assert_causal(Last(peek=1), frame, np.array([5, 20]))
