"""Calibrated forecast intervals that follow drift: adaptive conformal inference, online and causal.

For every series, target and step of the horizon an :class:`IntervalState` is kept. With ``f`` the forecast,
``c`` an offset (3% of the train mean) and ``g = sqrt(f + c)``, the residual is ``r = (sqrt(y + c) - g) / g``, the
score ``|r| / v^0.75``, where ``v`` is the exponentially weighted mean of past ``|r|`` (rate 0.05). The interval is
``g (1 -/+ q v^0.75)``, squared back, with ``q`` the conformal ``1 - alpha`` quantile of the latest scores. After each
outcome ``alpha`` moves by ``rate (1 - coverage - missed)``: adaptive conformal inference (ACI, Gibbs & Candès 2021).
An outcome of step ``h`` arrives ``h`` rows late, so the rate is divided by ``sqrt(h)``, the step size that delayed
online gradient descent asks for (Zinkevich et al. 2009). A target that can be negative uses ``r = y - f`` instead.

Measured on the test rows (ridge on log features, step 1, rate 0.01, 720 scores): coverage, mean half-width in
scaled units, lowest coverage of 250 consecutive rows, mean interval score / 2 (Gneiting & Raftery 2007):

    ==========================================  ======================  ======================
    scores                                      PobleSec                ElBorn
    ==========================================  ======================  ======================
    relative error / v                         .901 .0395 .876 .0646   .894 .0475 .864 .0736
    relative error / v, one ACI a tail          .900 .0429 .872 .0616   .890 .0556 .864 .0763
    log error / v                               .901 .0406 .868 .0604   .895 .0514 .876 .0713
    log error / v, one ACI a tail               .901 .0438 .864 .0620   .892 .0553 .876 .0745
    square root / v^0.5                         .901 .0371 .868 .0607   .899 .0469 .872 .0723
    square root / v^0.75 (this module)          .901 .0375 .868 .0606   .896 .0465 .880 .0713
    ==========================================  ======================  ======================

The square root balances the tails of right-skewed bursts (relative errors leave 1% below and 9% above) without
the blow-up of the log scale at long horizons (mean half-width 12 at step 30). The default GRU gets .900 .0369 .864
and .897 .0495 .872; with a horizon of 30, coverage is .888 to .901 at steps 10 and 30 of both stations, but 250 rows
hold only eight outcomes of step 30 that do not overlap, so its lowest rolling coverage is .70 and .78.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from copy import copy
from typing import Literal

import numpy as np

from flts_ray.config import EvaluationSettings, Section
from flts_ray.data.frame import FloatArray, IntArray

OFFSET_FRACTION = 0.03
VOLATILITY_RATE = 0.05
VOLATILITY_POWER = 0.75
VOLATILITY_FLOOR = 0.05


class Pending(Section):
    """A forecast whose outcome is not known yet at the latest origin: it counts from row ``due`` on.

    ``missed`` is None where there was no interval to miss.
    """

    due: int
    residual: float
    spread: float
    missed: bool | None


class IntervalState(Section):
    """All that the next interval of one series, target and step depends on.

    Attributes:
        step: Step of the horizon, from 1: outcomes arrive this many rows late.
        coverage: Nominal coverage.
        rate: ACI step at ``step`` 1.
        window: Latest scores that count.
        kind: ``sqrt`` for targets that are never negative, else ``linear``.
        offset: Bits added before the square root.
        alpha: Current miss rate that the quantile aims at.
        volatility: Exponentially weighted mean of ``|residual|``.
        floor: The volatility counts as no less than this.
        scores: Latest scores, oldest first.
        next_origin: Row number that follows the last origin seen.
        pending: Forecasts waiting for their outcome, oldest first.
    """

    step: int
    coverage: float
    rate: float
    window: int
    kind: Literal["sqrt", "linear"]
    offset: float
    alpha: float
    volatility: float
    floor: float
    scores: tuple[float, ...] = ()
    next_origin: int = 0
    pending: tuple[Pending, ...] = ()

    def settled(self) -> IntervalState:
        """The state once every pending outcome has arrived: what later rows start from."""
        tracker = IntervalTracker(self)
        tracker.learn(until=None)
        return tracker.state()


class IntervalTracker:
    """Mutable working copy of a state, cheap to copy: it goes through forecasts and outcomes in time order."""

    def __init__(self, state: IntervalState) -> None:
        self.start = state
        self.alpha, self.volatility = state.alpha, state.volatility
        self.recent = deque(state.scores)
        self.ordered = sorted(state.scores)
        self.pending = deque((p.due, p.residual, p.spread, p.missed) for p in state.pending)
        self.next_origin = state.next_origin
        # Looked up once: the steps below run for every origin of every request.
        self.step, self.window, self.kind, self.offset, self.floor = (
            state.step,
            state.window,
            state.kind,
            state.offset,
            state.floor,
        )
        self.rate, self.nominal = state.rate / math.sqrt(state.step), 1.0 - state.coverage

    def copy(self) -> IntervalTracker:
        """One that goes its own way from here."""
        new = copy(self)
        new.recent, new.ordered, new.pending = self.recent.copy(), self.ordered.copy(), self.pending.copy()
        return new

    def learn(self, until: int | None) -> None:
        """Take in the outcomes known at row ``until`` (None: all of them)."""
        pending, recent, ordered = self.pending, self.recent, self.ordered
        while pending and (until is None or pending[0][0] <= until):
            _, residual, spread, missed = pending.popleft()
            size = abs(residual)
            if missed is not None:
                self.alpha += self.rate * (self.nominal - missed)
            self.volatility += VOLATILITY_RATE * (size - self.volatility)
            if len(recent) >= self.window:
                del ordered[bisect_left(ordered, recent.popleft())]
            score = size / spread
            recent.append(score)
            insort(ordered, score)

    def advance(self, origin: int, forecast: float, outcome: float) -> tuple[float, float]:
        """Go on to a row: take in what is known there, give the interval of its forecast, and note the outcome.

        Args:
            origin: Row number, above that of the call before.
            forecast: In bits.
            outcome: What came of it, NaN if not known; it counts from row ``origin + step`` on.
        """
        self.learn(origin)
        self.next_origin = origin + 1
        if not math.isfinite(forecast):
            return math.nan, math.nan
        spread = self.spread()
        radius = self.radius(spread, self.alpha)
        lower, upper = self.bounds(forecast, radius)
        if math.isfinite(outcome):
            residual = _residual(forecast, outcome, self.kind, self.offset)
            missed = None if math.isnan(radius) else outcome < lower or outcome > upper
            self.pending.append((origin + self.step, residual, spread, missed))
        return lower, upper

    def spread(self) -> float:
        """Scale of a residual that scores are multiples of."""
        return float(max(self.volatility, self.floor) ** VOLATILITY_POWER)

    def radius(self, spread: float, alpha: float) -> float:
        """Half-width at a miss rate, on the scale of the residuals."""
        # Beyond what the scores can say (alpha <= 0) the largest one stands in for infinity.
        size = len(self.ordered)
        if size == 0:
            return math.nan
        rank = math.ceil((1.0 - alpha) * (size + 1))
        return self.ordered[min(max(rank, 1), size) - 1] * spread

    def bounds(self, forecast: float, radius: float) -> tuple[float, float]:
        """The interval of a half-width around a forecast, in bits."""
        if self.kind == "linear":
            return forecast - radius, forecast + radius
        offset = self.offset
        level = max(forecast, 0.0) + offset
        return (
            max(level * max(1.0 - radius, 0.0) ** 2 - offset, 0.0),
            max(level * (1.0 + radius) ** 2 - offset, 0.0),
        )

    def state(self) -> IntervalState:
        """What it has come to."""
        pending = (Pending(due=d, residual=r, spread=s, missed=m) for d, r, s, m in self.pending)
        return self.start.model_copy(
            update={
                "alpha": self.alpha,
                "volatility": self.volatility,
                "scores": tuple(self.recent),
                "next_origin": self.next_origin,
                "pending": tuple(pending),
            }
        )


def _residual(forecast: float, actual: float, kind: str, offset: float) -> float:
    if kind == "linear":
        return actual - forecast
    return math.sqrt((max(actual, 0.0) + offset) / (max(forecast, 0.0) + offset)) - 1.0


def adaptive_intervals(
    forecast: FloatArray, actual: FloatArray, state: IntervalState, *, origins: IntArray | None = None
) -> tuple[FloatArray, FloatArray, IntervalState]:
    """Intervals of consecutive forecasts of one series, target and step.

    Args:
        forecast: ``(n,)`` in bits, in time order.
        actual: ``(n,)`` what came, NaN where it is not known (yet) or does not count.
        state: Where to start from, for example the last call's result.
        origins: ``(n,)`` increasing row numbers; by default they go on, row by row, from the last call.

    Returns:
        ``lower (n,)``, ``upper (n,)`` and the new state. Interval ``t`` depends on ``actual[s]`` only where
        ``origins[s] + step <= origins[t]``. NaN where the forecast is not finite or no score is known yet.
        Cutting the rows into several calls gives the same intervals.
    """
    if origins is None:
        origins = np.arange(state.next_origin, state.next_origin + len(forecast), dtype=np.int64)
    tracker = IntervalTracker(state)
    lower, upper = np.full(len(forecast), math.nan), np.full(len(forecast), math.nan)
    for t, (origin, point, outcome) in enumerate(
        zip(origins.tolist(), forecast.tolist(), actual.tolist(), strict=True)
    ):
        lower[t], upper[t] = tracker.advance(origin, point, outcome)
    return lower, upper, tracker.state()


def initial_state(
    forecast: FloatArray, actual: FloatArray, train: FloatArray, settings: EvaluationSettings, *, step: int
) -> IntervalState:
    """A state without scores whose scale fits these residuals.

    Args:
        forecast: ``(n,)`` forecasts of train rows that the model was not fitted on.
        actual: ``(n,)`` outcomes, NaN where unknown.
        train: Observed values of the train rows, NaN where missing.
        settings: Coverage, rate and number of scores.
        step: Step of the horizon, from 1.
    """
    known = train[np.isfinite(train)]
    mean = float(known.mean()) if len(known) else 0.0
    kind: Literal["sqrt", "linear"] = "sqrt" if mean > 0 and float(known.min()) >= 0 else "linear"
    offset = OFFSET_FRACTION * mean if kind == "sqrt" else 0.0
    both = np.isfinite(forecast) & np.isfinite(actual)
    sizes = [
        abs(_residual(f, y, kind, offset)) for f, y in zip(forecast[both].tolist(), actual[both].tolist(), strict=True)
    ]
    typical = float(np.mean(sizes)) if sizes else 1.0
    return IntervalState(
        step=step,
        coverage=settings.coverage,
        rate=settings.adaptation_rate,
        window=settings.calibration_rows,
        kind=kind,
        offset=offset,
        alpha=1.0 - settings.coverage,
        volatility=typical,
        floor=VOLATILITY_FLOOR * typical or 1e-9,
    )
