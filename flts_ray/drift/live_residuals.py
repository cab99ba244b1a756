"""Errors of what one replica answered, as far as later histories have told what came."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from flts_ray.config_serving import DriftSettings
from flts_ray.data.frame import FloatArray, TimeArray
from flts_ray.drift.snapshot import ResidualSnapshot, SeriesSnapshot
from flts_ray.inference.queries import Forecast
from flts_ray.models.manifest import BundleManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualFigures:
    """How the latest errors of one station, target and step compare with training; NaN where that is not known.

    Attributes:
        series: Station.
        target: Column that was forecast.
        step: Step of the horizon, from 1.
        rows: Outcomes that the figures rest on.
        bias_std: Mean error less that of training, in standard deviations of training.
        spread_ratio: Mean distance of the errors from their median, as a multiple of that in training.
        coverage: Share of outcomes inside their intervals, of those answered with intervals of the calibrated level.
    """

    series: str
    target: str
    step: int
    rows: int
    bias_std: float
    spread_ratio: float
    coverage: float


class LiveResiduals:
    """Remembers the answers of one station until their outcomes are known, and then their errors. Not thread-safe.

    Of answers from one origin the last counts. An answer is settled once, when the reports have reached its last
    direct step; what has not come by then never will, since reports are only taken in order. Both answers that wait
    and errors are bounded by ``settings.window_rows`` origins, of which the oldest go.

    Args:
        series: Name of the station in the model.
        snapshot: Of its training.
        manifest: Of the model that answers.
        settings: How many rows to look back, and how many make a figure.
        level: Nominal coverage of the intervals that are watched; None: none are.
    """

    def __init__(
        self,
        series: str,
        snapshot: SeriesSnapshot,
        manifest: BundleManifest,
        settings: DriftSettings,
        level: float | None,
    ) -> None:
        self._series, self._training, self._settings, self._level = series, snapshot.residuals, settings, level
        self._targets, self._scalers = manifest.targets, manifest.transforms[series].target_scalers
        self._ahead_ns = round(manifest.step_s * 1e9) * np.arange(1, manifest.horizon + 1)
        self._waiting: dict[int, FloatArray] = {}
        shape = (0, manifest.horizon, len(manifest.targets))
        self._origins = np.zeros(0, dtype=np.int64)
        self._errors, self._inside = np.zeros(shape), np.zeros(shape)  # NaN where unknown

    def remember(self, forecast: Forecast) -> None:
        """Keep an answer, ``(3, horizon, n_targets)``: value, lower, upper. Copies, no computing."""
        steps = min(len(forecast.values), len(self._ahead_ns))
        kept = np.full((3, len(self._ahead_ns), len(self._targets)), math.nan)
        kept[0, :steps] = forecast.values[:steps]
        if self._level in forecast.levels:
            i = forecast.levels.index(self._level)
            kept[1, :steps], kept[2, :steps] = forecast.lower[i, :steps], forecast.upper[i, :steps]
        self._waiting[int(forecast.origin.astype(np.int64))] = kept
        if len(self._waiting) > self._settings.window_rows:
            del self._waiting[next(iter(self._waiting))]

    def due(self, time: TimeArray) -> dict[int, FloatArray]:
        """Take out the answers whose last step the reports, ``(n,)`` in time order, have reached."""
        reached = int(time[-1].astype(np.int64)) - int(self._ahead_ns[-1]) if len(time) else None
        if reached is None:
            return {}
        return {origin: self._waiting.pop(origin) for origin in list(self._waiting) if origin <= reached}

    def settle(self, due: dict[int, FloatArray], time: TimeArray, actual: FloatArray) -> None:
        """Turn answers into errors; origins that have been settled before are left alone.

        Args:
            due: From :meth:`due`.
            time: ``(n,)`` datetime64[ns], increasing.
            actual: ``(n, n_targets)`` as reported then, NaN where missing.
        """
        new = sorted(due.keys() - set(self._origins.tolist()))
        if not new:
            return
        origins = np.array(new, dtype=np.int64)
        values, lower, upper = np.stack([due[origin] for origin in new], axis=1)
        wanted, known = origins[:, None] + self._ahead_ns, time.astype(np.int64)
        at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        came = np.where((known[at] == wanted)[..., None], actual[at], math.nan)
        scaled = [s.forward(came[..., k]) - s.forward(values[..., k]) for k, s in enumerate(self._scalers)]
        inside = np.where(np.isfinite(came + lower + upper), (lower <= came) & (came <= upper), math.nan)
        order = np.argsort(np.concatenate([self._origins, origins]))[-self._settings.window_rows :]
        self._origins = np.concatenate([self._origins, origins])[order]
        self._errors = np.concatenate([self._errors, np.stack(scaled, axis=-1)])[order]
        self._inside = np.concatenate([self._inside, inside])[order]

    def figures(self) -> Iterator[ResidualFigures]:
        """Figures of the targets and steps that have outcomes enough."""
        for k, target in enumerate(self._targets):
            training = self._training.get(target, ())
            for h in range(len(self._ahead_ns)):
                errors, inside = (x[np.isfinite(x[:, h, k]), h, k] for x in (self._errors, self._inside))
                if len(errors) < self._settings.min_rows:
                    continue
                bias, spread = _against(errors, training[h] if h < len(training) else None)
                yield ResidualFigures(
                    series=self._series,
                    target=target,
                    step=h + 1,
                    rows=len(errors),
                    bias_std=bias,
                    spread_ratio=spread,
                    coverage=float(inside.mean()) if len(inside) >= self._settings.min_rows else math.nan,
                )


def _against(errors: FloatArray, training: ResidualSnapshot | None) -> tuple[float, float]:
    """Bias in standard deviations and ratio of spreads; the tests of ``drift/residuals.py`` are for the report."""
    if training is None or training.std <= 0 or training.spread <= 0:
        return math.nan, math.nan
    spread = float(np.abs(errors - np.median(errors)).mean())
    return (float(errors.mean()) - training.mean) / training.std, spread / training.spread
