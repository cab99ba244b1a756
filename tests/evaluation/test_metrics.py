from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from flts_ray.evaluation.metrics import (
    Residuals,
    composite,
    diebold_mariano,
    finite,
    naive_mae,
    point_scores,
    skill,
)
from tests.evaluation.stations import make_frame, real_frame

pytestmark = pytest.mark.unit


def test_point_scores_match_a_hand_computed_case():
    scores = point_scores(
        Residuals.of(np.array([1.0, 2.0, 5.0, 8.0]), np.array([2.0, 2.0, 4.0, 6.0]), unit=10.0, naive=2.0)
    )
    # errors 1, 0, -1, -2
    assert scores.n == 4
    assert scores.mse_bits == pytest.approx(1.5)
    assert scores.rmse_bits == pytest.approx(math.sqrt(1.5))
    assert scores.mae_bits == pytest.approx(1.0)
    assert scores.rmse_scaled == pytest.approx(math.sqrt(1.5) / 10)
    assert scores.mae_scaled == pytest.approx(0.1)
    assert scores.mse_scaled == pytest.approx(0.015)
    assert scores.r2 == pytest.approx(1 - 6.0 / 11.0)  # deviations -1.5, -1.5, .5, 2.5
    assert scores.mase == pytest.approx(0.5)
    assert scores.composite == pytest.approx(0.5 * math.sqrt(1.5) / 10 + 0.3 * 0.1 + 0.2 * 0.015)
    assert composite(1.0, 0.0, 0.0) == 0.5


def test_undefined_measures_are_none():
    assert point_scores(Residuals.of(np.zeros(0), np.zeros(0), unit=1.0, naive=1.0)).rmse_bits is None
    flat = point_scores(Residuals.of(np.array([1.0, 2.0]), np.array([3.0, 3.0]), unit=1.0, naive=0.0))
    assert flat.r2 is None
    assert flat.mase is None
    assert flat.mae_bits == pytest.approx(1.5)
    broken = point_scores(Residuals.of(np.array([np.nan, 1.0]), np.ones(2), unit=1.0, naive=1.0))
    assert (broken.n, broken.rmse_bits, broken.composite) == (2, None, None)
    assert skill(1.0, 0.0) is None
    assert skill(None, 1.0) is None
    assert skill(0.9, 1.0) == pytest.approx(0.1)
    assert [finite(x) for x in (math.nan, math.inf, None, 1.0)] == [None, None, None, 1.0]


def test_pooling_keeps_each_series_own_unit_and_mean():
    small = Residuals.of(np.array([1.0, 3.0]), np.array([2.0, 2.0]), unit=1.0, naive=1.0)
    large = Residuals.of(np.array([100.0, 300.0]), np.array([200.0, 200.0]), unit=100.0, naive=50.0)
    pooled = point_scores(Residuals.pool([small, large]))
    assert pooled.rmse_scaled == pytest.approx(1.0)
    assert pooled.mase == pytest.approx((1 + 1 + 2 + 2) / 4)
    assert pooled.r2 is None  # neither series varies about its own mean


def test_naive_mae_leaves_out_gaps_missing_and_test_rows():
    frame = make_frame(np.array([1.0, 3.0, 4.0, 100.0, 101.0, 500.0]), 5, gap_at=3)
    assert naive_mae(frame)[0] == pytest.approx((2 + 1 + 1) / 3)
    missing = make_frame(np.arange(4.0), 4, observed=np.array([0.0, np.nan, 2.0, 5.0]))
    assert naive_mae(missing)[0] == pytest.approx(3.0)
    assert np.isnan(naive_mae(make_frame(np.array([1.0, 2.0]), 1))[0])


def _dm_by_hand(d: list[float], horizon: int) -> float:
    n = len(d)
    mean = sum(d) / n
    lags = max(math.floor(n ** (1 / 3)), horizon - 1)

    def autocovariance(k: int) -> float:
        return sum((d[t] - mean) * (d[t - k] - mean) for t in range(k, n)) / n

    variance = autocovariance(0) + 2 * sum((1 - k / (lags + 1)) * autocovariance(k) for k in range(1, lags + 1))
    statistic = mean / math.sqrt(variance / n)
    statistic *= math.sqrt((n + 1 - 2 * horizon + horizon * (horizon - 1) / n) / n)
    return 2 * (1 - stats.t.cdf(abs(statistic), n - 1))


@pytest.mark.parametrize("horizon", [1, 4, 10])
def test_diebold_mariano_matches_the_written_out_formula(horizon):
    random = np.random.default_rng(3)
    a, b = random.gamma(2.0, size=60), random.gamma(2.2, size=60)
    assert diebold_mariano(a, b, horizon=horizon) == pytest.approx(_dm_by_hand(list(a - b), horizon), rel=1e-9)


def test_diebold_mariano_edge_cases():
    losses = np.arange(20.0)
    assert diebold_mariano(losses, losses) == 1.0
    assert diebold_mariano(losses + 1.0, losses) == 0.0  # always worse by the same amount
    assert diebold_mariano(losses[:9], losses[:9] + 1) is None
    assert diebold_mariano(losses, losses + 1, horizon=20) is None
    assert diebold_mariano(np.full(20, np.nan), losses) is None
    assert diebold_mariano(np.r_[losses, np.nan], np.r_[losses[::-1], 3.0]) == diebold_mariano(losses, losses[::-1])
    assert diebold_mariano(np.r_[losses, np.inf], np.r_[losses, 1.0]) is None


def test_diebold_mariano_rejects_about_as_often_as_its_level():
    random = np.random.default_rng(0)
    # Losses with autocorrelation but equal means: a test that ignored it would reject far too often.
    noise = random.normal(size=(400, 320))
    d = noise[:, 20:] + 0.9 * noise[:, 19:-1] + 0.8 * noise[:, 18:-2]
    rejected = np.mean([diebold_mariano(row, np.zeros(300)) < 0.05 for row in d])
    assert 0.02 < rejected < 0.10


@given(st.lists(st.floats(0, 1e6), min_size=10, max_size=40), st.integers(0, 2**31), st.integers(1, 5))
def test_diebold_mariano_is_symmetric_and_a_probability(losses, seed, horizon):
    a = np.array(losses)
    b = a * np.random.default_rng(seed).uniform(0.5, 2.0, size=len(a))
    p = diebold_mariano(a, b, horizon=horizon)
    assert p == pytest.approx(diebold_mariano(b, a, horizon=horizon))
    assert p is not None
    assert 0.0 <= p <= 1.0


@pytest.mark.parametrize(
    ("station", "unit", "rmse", "mae", "mase"),
    [("PobleSec", 2.2775e9, 0.04020, 0.02121, 1.232), ("ElBorn", 1.881e9, 0.05107, 0.02542, 1.035)],
)
def test_persistence_on_real_stations_gives_the_reference_figures(station, unit, rmse, mae, mase):
    frame = real_frame(station)
    n, down = frame.train_rows, frame.targets[:, 0]
    assert np.nanmax(frame.observed[:n]) - np.nanmin(frame.observed[:n]) == pytest.approx(unit, rel=3e-4)
    scores = point_scores(Residuals.of(down[n - 1 : -1], down[n:], unit=unit, naive=float(naive_mae(frame)[0])))
    assert scores.n == len(down) - n
    assert scores.rmse_scaled == pytest.approx(rmse, abs=1.5e-5)
    assert scores.mae_scaled == pytest.approx(mae, abs=1.5e-5)
    assert scores.mase == pytest.approx(mase, abs=1e-3)
