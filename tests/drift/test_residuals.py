from __future__ import annotations

import math

import numpy as np
import pytest

from flts_ray.data.frame import FloatArray
from flts_ray.drift.residuals import ResidualTest, coverage_test, ks_distance, mean_with_error, residual_tests
from flts_ray.drift.snapshot import ResidualSnapshot

pytestmark = pytest.mark.unit


def errors(rows: int, seed: int, *, memory: float = 0.0) -> FloatArray:
    """Errors of unit variance, each leaning on the one before by ``memory``."""
    noise = np.random.default_rng(seed).normal(size=rows)
    out = noise.copy()
    for t in range(1, rows):
        out[t] = memory * out[t - 1] + math.sqrt(1 - memory**2) * noise[t]
    return out


def compared(live: FloatArray, training: FloatArray, step: int = 1) -> dict[str, ResidualTest]:
    return {test.name: test for test in residual_tests(live, ResidualSnapshot.of(training, step), step=step)}


def test_the_standard_error_of_independent_errors_is_the_usual_one() -> None:
    x = errors(20_000, 0)
    mean, error = mean_with_error(x)
    assert mean == x.mean()
    assert error == pytest.approx(x.std() / math.sqrt(len(x)), rel=0.1)


def test_the_standard_error_grows_with_memory() -> None:
    """For an autoregression it is sqrt((1 + memory) / (1 - memory)) times that of independent errors."""
    x = errors(50_000, 0, memory=0.8)
    assert mean_with_error(x)[1] / (x.std() / math.sqrt(len(x))) == pytest.approx(3.0, rel=0.15)


def test_two_errors_are_enough_to_compute() -> None:
    assert math.isfinite(mean_with_error(np.array([1.0, 2.0]), step=30)[1])


def test_the_same_errors_have_not_drifted() -> None:
    found = compared(errors(2000, 1), errors(3000, 2))
    assert {name: test.matters for name, test in found.items()} == {"bias": False, "spread": False}
    assert all(test.p_value > 0.01 for test in found.values())


def test_memory_alone_is_no_drift() -> None:
    """A plain t-test would find one in most of these."""
    training = errors(3000, 99, memory=0.9)
    p_values = [compared(errors(1500, seed, memory=0.9), training)["bias"].p_value for seed in range(40)]
    assert sum(p < 0.01 for p in p_values) <= 4


@pytest.mark.parametrize("shift", [-0.5, 0.5])
def test_bias_is_found(shift: float) -> None:
    bias = compared(errors(1000, 1) + shift, errors(3000, 2))["bias"]
    assert bias.matters
    assert bias.p_value < 1e-6
    assert bias.size == pytest.approx(shift, abs=0.1)


@pytest.mark.parametrize("factor", [0.6, 1.6])
def test_another_spread_is_found(factor: float) -> None:
    found = compared(errors(1000, 1) * factor, errors(3000, 2))
    assert found["spread"].matters
    assert found["spread"].p_value < 1e-6
    assert found["spread"].size == pytest.approx(factor, rel=0.1)
    assert not found["bias"].matters


def test_a_significant_trifle_does_not_matter() -> None:
    bias = compared(errors(50_000, 1) + 0.1, errors(50_000, 2))["bias"]
    assert bias.p_value < 1e-6
    assert not bias.matters


def test_errors_that_were_all_zero_in_training() -> None:
    same, other = (compared(live, np.zeros(100)) for live in (np.zeros(100), np.ones(100)))
    assert not any(test.matters for test in same.values())
    assert other["bias"].matters
    assert other["bias"].p_value == 0


@pytest.mark.parametrize(("hits", "matters", "small"), [(900, False, False), (880, False, False), (800, True, True)])
def test_coverage(hits: int, matters: bool, small: bool) -> None:
    inside = np.random.default_rng(0).permutation(np.arange(1000) < hits)
    found = coverage_test(inside, 0.9, step=1)
    assert found.live == hits / 1000
    assert (found.matters, found.p_value < 0.01) == (matters, small)


def test_overlapping_outcomes_count_once() -> None:
    inside = np.repeat(np.arange(100) < 80, 30)
    assert coverage_test(inside, 0.9, step=30).p_value == pytest.approx(
        coverage_test(inside[::30], 0.9, step=1).p_value
    )
    assert coverage_test(inside, 0.9, step=1).p_value < 1e-6


def test_distance_of_distributions() -> None:
    training = ResidualSnapshot.of(errors(5000, 1), 1)
    assert ks_distance(errors(5000, 2), training) < 0.04
    assert ks_distance(errors(5000, 2) + 10, training) == pytest.approx(1.0)
    assert ks_distance(np.zeros(50), ResidualSnapshot.of(np.zeros(50), 1)) == 0
