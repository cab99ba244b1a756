"""Prophet plus an autoregression on its residual, one pair a (series, target).

Prophet (Taylor & Letham, "Forecasting at scale", 2018) gives the trend and the seasons from the clock alone; it does
not see the last report, so on its own it loses to persistence. Its residual is strongly autocorrelated: an AR(p)
fitted per step (direct multi-step, Marcellino, Stock & Watson, 2006) puts the last reports back in. Both are fitted
on the scaled target (``ColumnScaler.forward``), so bursts do not dominate.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from flts_ray.config import ProphetSettings
from flts_ray.data.frame import FloatArray, IntArray, SeriesFrame, TimeArray
from flts_ray.data.scaling import ColumnScaler
from flts_ray.data.windows import training_origins
from flts_ray.errors import BundleError, DataError, TooFewRowsError
from flts_ray.models.base import Arrays, Forecaster

FIT_TIMEOUT_S = 120.0
"""Longest one Stan optimisation may take; a series that needs more fails with that reason."""

_SEASON: Mapping[str, str | bool] = {"auto": "auto", "on": True, "off": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class FitJob:
    """What one fit needs: plain arrays, so that it can travel to another process.

    Attributes:
        series: Name of the station.
        target: Name of the target.
        time: ``(n,)`` datetime64[ns].
        z: ``(n,)`` the target on the model's scale.
        segment: ``(n,)`` segment numbers.
    """

    series: str
    target: str
    time: TimeArray
    z: FloatArray
    segment: IntArray

    @property
    def names(self) -> dict[str, str]:
        """Series and target, as fields of heartbeats and events."""
        return {"series": self.series, "target": self.target}

    @property
    def rows(self) -> int:
        """Rows to fit on."""
        return len(self.z)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetFit:
    """One fitted pair.

    Attributes:
        model_json: Prophet's own serialisation, without the training history.
        coefficients: ``(horizon, 1 + lags)``: intercept, then the weights of the residuals, latest first.
        rows: Rows fitted on.
        converged: Whether Stan's optimiser said so.
    """

    model_json: str
    coefficients: FloatArray
    rows: int
    converged: bool


def fit_series(job: FitJob, settings: ProphetSettings, *, horizon: int, seed: int) -> TargetFit:
    """Fit one pair: the unit of parallel work. The result depends on the arguments only.

    Args:
        job: The rows to fit on.
        settings: Prophet's settings. A season set to ``auto`` enters where the rows span it twice.
        horizon: Steps to forecast.
        seed: Stan's seed.

    Raises:
        TooFewRowsError: If the rows hold too few gap-free windows for the autoregression.
        Exception: Whatever Prophet or Stan raise.
    """
    lags = settings.residual_lags
    origins = training_origins(job.segment, max(1, lags), horizon)
    needed = 2 * (lags + 1)
    if len(origins) < needed:
        raise TooFewRowsError(
            f"series '{job.series}' has {len(origins)} gap-free windows of {max(1, lags) + horizon} rows to fit "
            f"Prophet's residual on, fewer than {needed}: give more rows or lower prophet.residual_lags"
        )
    with quiet_prophet():
        import pandas as pd
        from prophet import Prophet

        model = Prophet(
            growth=settings.growth,
            n_changepoints=settings.n_changepoints,
            changepoint_range=settings.changepoint_range,
            changepoint_prior_scale=settings.changepoint_prior_scale,
            seasonality_prior_scale=settings.seasonality_prior_scale,
            holidays_prior_scale=settings.holidays_prior_scale,
            seasonality_mode=settings.seasonality_mode,
            daily_seasonality=_SEASON[settings.daily],
            weekly_seasonality=_SEASON[settings.weekly],
            yearly_seasonality=_SEASON[settings.yearly],
            uncertainty_samples=0,
        )
        if settings.country:
            model.add_country_holidays(country_name=settings.country)
        # L-BFGS often stops at the optimum with a failed line search; Prophet would then start Newton's method,
        # which took 128 s for the same curve to 7e-4 of a standard deviation. Take what L-BFGS found.
        rows = pd.DataFrame({"ds": job.time, "y": job.z})
        model.fit(rows, seed=seed, require_converged=False, timeout=FIT_TIMEOUT_S)
        converged = bool(model.stan_fit.converged)
        model.stan_backend.cleanup()
        model_json = _serialise(model)
    residual = job.z - _curve(load_model(model_json), job.time)
    inputs = _lagged(residual, origins, lags)
    outputs = np.stack([residual[origins + step] for step in range(1, horizon + 1)], axis=1)
    coefficients = np.linalg.lstsq(inputs, outputs, rcond=None)[0].T
    return TargetFit(
        model_json=model_json,
        coefficients=np.ascontiguousarray(coefficients),
        rows=len(job.z),
        converged=converged,
    )


class ProphetForecaster(Forecaster):
    """Prophet's curve plus the autoregression of what it left over.

    Args:
        fits: Per series, one fit a target.
        scalers: Per series, one scaler a target.
        step_s: Seconds between rows.
    """

    kind: ClassVar[str] = "prophet"

    def __init__(
        self,
        fits: Mapping[str, Sequence[TargetFit]],
        scalers: Mapping[str, Sequence[ColumnScaler]],
        *,
        step_s: float,
    ) -> None:
        self._fits = {name: tuple(fits[name]) for name in sorted(fits)}
        self._scalers = {name: tuple(scalers[name]) for name in self._fits}
        self._models: dict[tuple[str, int], Any] = {}
        first = next(iter(self._fits.values()))[0].coefficients
        self.step_s = step_s
        self.horizon = first.shape[0]
        self.lags = first.shape[1] - 1
        self.lookback = max(1, self.lags)

    @property
    def series(self) -> tuple[str, ...]:
        """Stations it can forecast."""
        return tuple(self._fits)

    def knows(self, series: str) -> bool:
        """See :meth:`Forecaster.knows`."""
        return series in self._fits

    def predict(self, frame: SeriesFrame, origins: IntArray) -> FloatArray:
        """See :meth:`Forecaster.predict`.

        Raises:
            DataError: If the series was not fitted.
            TooFewRowsError: If an origin has fewer than ``lookback`` rows.
        """
        if frame.series not in self._fits:
            raise DataError(f"prophet was not fitted on series '{frame.series}': it knows {', '.join(self._fits)}")
        fits, scalers = self._fits[frame.series], self._scalers[frame.series]
        if len(origins) == 0:
            return np.zeros((0, self.horizon, len(fits)))
        first = int(origins.min()) - self.lookback + 1
        if first < 0:
            raise TooFewRowsError(
                f"series '{frame.series}' has {origins.min() + 1} rows up to the origin, prophet reads {self.lookback}"
            )
        known = slice(first, int(origins.max()) + 1)
        step = np.timedelta64(round(self.step_s * 1e9), "ns")
        ahead = frame.time[origins][:, None] + step * np.arange(1, self.horizon + 1)
        # One pass of Prophet for every time that any origin needs.
        times, place = np.unique(np.concatenate([frame.time[known], ahead.ravel()]), return_inverse=True)
        forecasts = []
        for k, (fit, scaler) in enumerate(zip(fits, scalers, strict=True)):
            curve = _curve(self._model(frame.series, k), times)[place]
            before, after = np.split(curve, [known.stop - known.start])
            residual = scaler.forward(frame.targets[known, k]) - before
            z = after.reshape(ahead.shape) + _lagged(residual, origins - first, self.lags) @ fit.coefficients.T
            forecasts.append(scaler.inverse(z))
        return np.stack(forecasts, axis=2)

    def _model(self, series: str, k: int) -> Any:
        if (series, k) not in self._models:
            self._models[series, k] = load_model(self._fits[series][k].model_json)
        return self._models[series, k]

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """See :meth:`Forecaster.state`."""
        pairs = [(name, k, fit) for name, fits in self._fits.items() for k, fit in enumerate(fits)]
        meta = {
            "step_s": self.step_s,
            "fits": [
                {
                    "series": name,
                    "scaler": self._scalers[name][k].model_dump(mode="json"),
                    "model": json.loads(fit.model_json),
                    "rows": fit.rows,
                    "converged": fit.converged,
                }
                for name, k, fit in pairs
            ],
        }
        return meta, {"coefficients": np.stack([fit.coefficients for _, _, fit in pairs])}

    @classmethod
    def from_state(cls, meta: dict[str, Any], arrays: Arrays) -> Self:
        """See :meth:`Forecaster.from_state`."""
        fits: dict[str, list[TargetFit]] = {}
        scalers: dict[str, list[ColumnScaler]] = {}
        try:
            coefficients = arrays["coefficients"]
            for part, matrix in zip(meta["fits"], coefficients, strict=True):
                fit = TargetFit(
                    model_json=json.dumps(part["model"]),
                    coefficients=matrix,
                    rows=part["rows"],
                    converged=part["converged"],
                )
                fits.setdefault(part["series"], []).append(fit)
                scalers.setdefault(part["series"], []).append(ColumnScaler.model_validate(part["scaler"]))
            if coefficients.ndim != 3 or 0 in coefficients.shape:
                raise ValueError(f"coefficients have the shape {coefficients.shape}")
            return cls(fits, scalers, step_s=float(meta["step_s"]))
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"the state of the prophet model cannot be read ({error!r}): train it again") from error


@contextmanager
def quiet_prophet() -> Iterator[None]:
    """Keep Prophet and CmdStanPy from writing to stderr; their loggers are as before afterwards."""
    prophet, stan = logging.getLogger("prophet"), logging.getLogger("cmdstanpy")
    level, disabled = prophet.level, stan.disabled
    prophet.setLevel(logging.CRITICAL)  # ERROR would let "Importing plotly failed" through
    stan.disabled = True
    try:
        yield
    finally:
        prophet.setLevel(level)
        stan.disabled = disabled


def load_model(model_json: str) -> Any:
    """The Prophet model of a :class:`TargetFit`."""
    with quiet_prophet():
        from prophet.serialize import model_from_json

        return model_from_json(model_json)


def _serialise(model: Any) -> str:
    """Prophet's JSON without what only a refit needs: 2 MB become 4 kB for 16,000 rows."""
    from prophet.serialize import model_to_json

    model.history = model.history.iloc[:1][["ds", "y"]]
    model.history_dates = model.history_dates.iloc[:1]
    model.params = {name: values for name, values in model.params.items() if name != "trend"}
    model.fit_kwargs = {}
    text: str = model_to_json(model)
    return text


def _curve(model: Any, time: TimeArray) -> FloatArray:
    """Trend and seasons at each time, ``(n,)``, on the model's scale."""
    import pandas as pd

    curve: FloatArray = model.predict(pd.DataFrame({"ds": time}))["yhat"].to_numpy(dtype=np.float64)
    return curve


def _lagged(residual: FloatArray, origins: IntArray, lags: int) -> FloatArray:
    """``(m, 1 + lags)``: a one, then the residuals at and before each origin, latest first."""
    ones = np.ones((len(origins), 1))
    return np.concatenate([ones, residual[origins[:, None] - np.arange(lags)]], axis=1)
