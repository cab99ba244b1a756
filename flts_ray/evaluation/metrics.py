"""Error measures of point forecasts and the Diebold-Mariano test.

All functions are pure and take flat arrays. "Scaled" means divided by ``Transform.target_range``, the train
rows' max minus min: the unit in which stations of different size can be compared and pooled.
A number that is not defined (no rows, zero denominator) is ``None``, never NaN, so that it survives JSON.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr  # scipy.stats takes a second to import, in every process of a training

from flts_ray.data.frame import FloatArray, SeriesFrame

COMPOSITE_WEIGHTS = (0.5, 0.3, 0.2)
"""Weights of scaled RMSE, MAE and MSE in the composite."""
MIN_DM_POINTS = 10


def finite(value: float | None) -> float | None:
    """``value`` as a plain float, or None where it is missing, NaN or infinite."""
    return None if value is None or not math.isfinite(value) else float(value)


def composite(rmse_scaled: float, mae_scaled: float, mse_scaled: float) -> float:
    """``0.5 RMSE + 0.3 MAE + 0.2 MSE`` of scaled errors; lower wins."""
    rmse, mae, mse = COMPOSITE_WEIGHTS
    return rmse * rmse_scaled + mae * mae_scaled + mse * mse_scaled


def naive_mae(frame: SeriesFrame) -> FloatArray:
    """One-step persistence MAE on the train rows: the denominator of MASE (Hyndman & Koehler 2006, eq. 10).

    Returns:
        ``(n_targets,)`` in the targets' unit; NaN where no two neighbouring train rows were observed.
    """
    rows = frame.train_rows
    steps = np.abs(np.diff(frame.observed[:rows], axis=0))
    steps[np.diff(frame.segment[:rows]) != 0] = np.nan
    known = np.isfinite(steps)
    count = known.sum(axis=0)
    total = np.where(known, steps, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


@dataclass(frozen=True, slots=True, kw_only=True)
class Residuals:
    """Forecast errors of one model on some rows, ready to be pooled with those of other stations.

    Attributes:
        error: ``(n,)`` observed minus forecast, in bits.
        deviation: ``(n,)`` observed minus the mean observed value of its own series and target, in bits.
        unit: ``(n,)`` bits in one scaled unit.
        naive: ``(n,)`` one-step persistence MAE on train, in bits.
    """

    error: FloatArray
    deviation: FloatArray
    unit: FloatArray
    naive: FloatArray

    @classmethod
    def of(cls, forecast: FloatArray, observed: FloatArray, *, unit: float, naive: float) -> Residuals:
        """Residuals of one series and target; ``forecast`` and ``observed`` are ``(n,)`` in bits, without NaN."""
        size = len(observed)
        centre = float(observed.mean()) if size else 0.0
        return cls(
            error=observed - forecast,
            deviation=observed - centre,
            unit=np.full(size, unit),
            naive=np.full(size, naive),
        )

    @classmethod
    def pool(cls, parts: Sequence[Residuals]) -> Residuals:
        """All points of several residuals as one."""
        return cls(
            error=np.concatenate([p.error for p in parts]),
            deviation=np.concatenate([p.deviation for p in parts]),
            unit=np.concatenate([p.unit for p in parts]),
            naive=np.concatenate([p.naive for p in parts]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PointScores:
    """Measures of one model on some rows; errors in bits and in scaled units. None where undefined."""

    n: int
    rmse_bits: float | None = None
    mae_bits: float | None = None
    mse_bits: float | None = None
    rmse_scaled: float | None = None
    mae_scaled: float | None = None
    mse_scaled: float | None = None
    r2: float | None = None
    mase: float | None = None
    composite: float | None = None


def point_scores(residuals: Residuals) -> PointScores:
    """Every point measure at once.

    R² is ``1 - SSE / SST`` in scaled units, with SST about each series' own mean; MASE is the mean of
    ``|error| / naive``. Non-finite errors give a result with ``n`` only.
    """
    error = residuals.error
    n = len(error)
    if n == 0 or not np.isfinite(error).all():
        return PointScores(n=n)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scaled = error / residuals.unit
        mse_bits, mae_bits = float(np.mean(error**2)), float(np.mean(np.abs(error)))
        mse, mae = float(np.mean(scaled**2)), float(np.mean(np.abs(scaled)))
        rmse = math.sqrt(mse)
        total = float(np.mean((residuals.deviation / residuals.unit) ** 2))
        mase = float(np.mean(np.abs(error) / residuals.naive))
    return PointScores(
        n=n,
        rmse_bits=finite(math.sqrt(mse_bits)),
        mae_bits=finite(mae_bits),
        mse_bits=finite(mse_bits),
        rmse_scaled=finite(rmse),
        mae_scaled=finite(mae),
        mse_scaled=finite(mse),
        r2=finite(1.0 - mse / total) if total > 0 else None,
        mase=finite(mase),
        composite=finite(composite(rmse, mae, mse)),
    )


def skill(rmse: float | None, rmse_reference: float | None) -> float | None:
    """``1 - rmse / rmse_reference``: 0 is as good as the reference, 1 is perfect, below 0 is worse."""
    if rmse is None or not rmse_reference:
        return None
    return finite(1.0 - rmse / rmse_reference)


def diebold_mariano(loss_a: FloatArray, loss_b: FloatArray, *, horizon: int = 1) -> float | None:
    """Two-sided p-value of "both forecasts have the same expected loss" (Diebold & Mariano 1995).

    With ``d = loss_a - loss_b``, the statistic is ``mean(d) / sqrt(V / n)``, where ``V`` is the Newey-West (1987)
    long-run variance ``c0 + 2 sum_{k=1..L} (1 - k / (L + 1)) c_k``, ``L = max(floor(n^(1/3)), horizon - 1)``. It is
    multiplied by ``sqrt((n + 1 - 2h + h (h - 1) / n) / n)`` and compared with Student's t of n - 1 degrees of
    freedom (Harvey, Leybourne & Newbold 1997).

    Args:
        loss_a: ``(n,)`` loss of each origin in time order; squared scaled error is the usual one.
        loss_b: ``(n,)`` of the other forecast, at the same origins. Origins where either is NaN are left out.
        horizon: Steps ahead; it sets how far losses overlap.

    Returns:
        The p-value; 1.0 for identical losses, None with fewer than ten origins (or no more than ``horizon``).
    """
    d = np.asarray(loss_a, dtype=np.float64) - np.asarray(loss_b, dtype=np.float64)
    d = d[~np.isnan(d)]
    n = len(d)
    if n < MIN_DM_POINTS or n <= horizon or not np.isfinite(d).all():
        return None
    if not d.any():
        return 1.0
    mean = float(d.mean())
    # A constant difference leaves rounding noise, not variance; without it the gain is certain.
    centred = d - mean
    lags = min(max(math.floor(n ** (1 / 3) + 1e-9), horizon - 1), n - 1)
    variance = float(centred @ centred) / n
    for k in range(1, lags + 1):
        variance += 2.0 * (1.0 - k / (lags + 1)) * float(centred[k:] @ centred[:-k]) / n
    if variance <= (1e-12 * mean) ** 2:
        return 0.0
    correction = math.sqrt((n + 1 - 2 * horizon + horizon * (horizon - 1) / n) / n)
    statistic = correction * mean / math.sqrt(variance / n)
    return float(2.0 * stdtr(n - 1, -abs(statistic)))
