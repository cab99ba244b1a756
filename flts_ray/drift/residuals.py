"""Tests of live errors against those of training: bias, spread, and the coverage of the intervals.

Errors of neighbouring rows, and more so of overlapping horizons, are not independent. Means are therefore compared
with standard errors after Newey & West (1987), whose window follows Schwert (1989) and covers at least two horizons:
for the errors themselves that is a t-test of bias, for their distances from the median the test of Brown & Forsythe
(1974) for spread. Coverage is a binomial test on outcomes whose horizons do not overlap. With enough rows any
difference is significant, so that a test only counts from a size of the difference on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from flts_ray.data.frame import FloatArray

if TYPE_CHECKING:
    from flts_ray.drift.snapshot import ResidualSnapshot

QUANTILES = tuple(i / 20 for i in range(21))
"""Probabilities at which the snapshot keeps the distribution of errors."""

BIAS_STDS = 0.25
SPREAD_RATIO = 1.25
COVERAGE_POINTS = 0.05
"""Differences that matter: of means in standard deviations of training, of spreads as a ratio, of coverages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualTest:
    """One comparison.

    Attributes:
        name: ``bias``, ``spread`` or ``coverage``.
        training: Figure of training; for coverage the nominal one.
        live: The same of the live rows.
        size: What is judged: the shift in standard deviations, the ratio of spreads, the shift of coverage.
        p_value: Chance of such a difference without drift.
        matters: Whether ``size`` is beyond this module's bounds.
    """

    name: Literal["bias", "spread", "coverage"]
    training: float
    live: float
    size: float
    p_value: float
    matters: bool


def mean_with_error(x: FloatArray, step: int = 1) -> tuple[float, float]:
    """Mean of an autocorrelated sequence and the standard error of that mean.

    Args:
        x: ``(n,)`` in time order, at least two values, without NaN.
        step: Step of the horizon that the values belong to: so many neighbours overlap.
    """
    n = len(x)
    centred = x - x.mean()
    lags = min(n - 1, max(2 * step, math.ceil(12 * (n / 100) ** 0.25)))
    covariances = np.array([centred[lag:] @ centred[: n - lag] / n for lag in range(lags + 1)])
    weights = 1 - np.arange(lags + 1) / (lags + 1)
    variance = covariances[0] + 2 * float(weights[1:] @ covariances[1:])
    return float(x.mean()), math.sqrt(max(variance, 0.0) / n)


def residual_tests(errors: FloatArray, training: ResidualSnapshot, *, step: int) -> tuple[ResidualTest, ...]:
    """Bias and spread of live errors against training.

    Args:
        errors: ``(n,)`` scaled outcome minus scaled forecast, in time order, at least two, without NaN.
        training: The same in training.
        step: Step of the horizon.
    """
    mean, mean_error = mean_with_error(errors, step)
    spread, spread_error = mean_with_error(np.abs(errors - np.median(errors)), step)
    shift, ratio = mean - training.mean, spread / training.spread if training.spread > 0 else math.inf
    stds = shift / training.std if training.std > 0 else math.copysign(math.inf, shift) if shift else 0.0
    ratio = 1.0 if spread == training.spread else ratio
    return (
        ResidualTest(
            name="bias", training=training.mean, live=mean, size=stds, matters=abs(stds) >= BIAS_STDS,
            p_value=_two_sided(shift, math.hypot(mean_error, training.mean_error), min(len(errors), training.rows)),
        ),
        ResidualTest(
            name="spread", training=training.spread, live=spread, size=ratio,
            matters=not 1 / SPREAD_RATIO < ratio < SPREAD_RATIO,
            p_value=_two_sided(
                spread - training.spread, math.hypot(spread_error, training.spread_error),
                min(len(errors), training.rows),
            ),
        ),
    )  # fmt: skip


def coverage_test(inside: npt.NDArray[np.bool_], level: float, *, step: int) -> ResidualTest:
    """How often outcomes fell into their intervals, against the nominal level.

    Args:
        inside: ``(n,)`` in time order, at least one.
        level: Nominal coverage.
        step: Step of the horizon: only every ``step``-th outcome counts for the test, those between overlap.
    """
    from scipy.stats import binomtest

    apart = inside[::step]
    shift = float(inside.mean()) - level
    return ResidualTest(
        name="coverage", training=level, live=float(inside.mean()), size=shift, matters=abs(shift) >= COVERAGE_POINTS,
        p_value=float(binomtest(int(apart.sum()), len(apart), level).pvalue),
    )  # fmt: skip


def ks_distance(errors: FloatArray, training: ResidualSnapshot) -> float:
    """Largest distance of the live distribution of errors from that of training, at its kept quantiles."""
    ordered, at = np.sort(errors), np.asarray(training.quantiles)
    low, high = (np.searchsorted(ordered, at, side=side) / len(ordered) for side in ("left", "right"))
    share = np.asarray(QUANTILES)
    return float(max(np.max(share - high, initial=0.0), np.max(low - share, initial=0.0)))


def _two_sided(difference: float, error: float, rows: int) -> float:
    from scipy.stats import t

    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * t.sf(abs(difference) / error, rows - 1))
