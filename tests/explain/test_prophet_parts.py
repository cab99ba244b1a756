"""Prophet's parts are those of its own forecasts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flts_ray.config import ProphetSettings
from flts_ray.data.scaling import ColumnScaler
from flts_ray.explain.document import ProphetParts
from flts_ray.explain.prophet_parts import prophet_parts
from flts_ray.models.prophet import FitJob, ProphetForecaster, fit_series
from tests.evaluation.stations import make_frame

pytestmark = pytest.mark.unit

SCALER = ColumnScaler(kind="standard", center=100.0, scale=10.0)
ROWS, STEP_S = 480, 1800.0


def station(**settings: object) -> tuple[ProphetParts, ProphetForecaster, np.ndarray]:
    """Ten days of half hours with a wave a day of size 2 on a scaled level of 1, and a little noise."""
    time = np.datetime64("2026-01-01", "ns") + np.arange(ROWS) * np.timedelta64(1800, "s")
    z = 1.0 + 2.0 * np.sin(2 * np.pi * np.arange(ROWS) / 48) + np.random.default_rng(0).normal(0, 0.1, ROWS)
    frame = replace(make_frame(SCALER.inverse(z), 400), time=time, segment=np.zeros(ROWS, dtype=np.int64))
    asked = ProphetSettings.model_validate({"weekly": "off", "residual_lags": 3, **settings})
    job = FitJob(series="a", target="down", time=time[:400], z=z[:400], segment=frame.segment[:400])
    model = ProphetForecaster({"a": [fit_series(job, asked, horizon=2, seed=1)]}, {"a": [SCALER]}, step_s=STEP_S)
    origins = np.arange(400, 479)
    (parts,) = prophet_parts(model, frame, origins, ("down",))
    return parts, model, SCALER.forward(model.predict(frame, origins)[:, 0, 0])


@pytest.fixture(scope="module")
def found() -> tuple[ProphetParts, ProphetForecaster, np.ndarray]:
    return station()


def test_the_season_that_was_put_in_comes_out(found: tuple[ProphetParts, ProphetForecaster, np.ndarray]) -> None:
    parts, _, _ = found
    assert (parts.series, parts.target, parts.mode, set(parts.seasons)) == ("a", "down", "additive", {"daily"})
    season = parts.seasons["daily"]
    days, effect = np.array(season.days), np.array(season.values)
    assert (season.period_days, days[0], days[-1] < 1) == (1, 0.0, True)
    np.testing.assert_allclose(effect, 2.0 * np.sin(2 * np.pi * days), atol=0.15)
    np.testing.assert_allclose(parts.trend, 1.0, atol=0.05)
    assert (parts.trend_time[0], parts.trend_time[-1]) == ("2026-01-01T00:00:00", "2026-01-10T23:30:00")


def test_the_parts_make_up_the_forecasts(found: tuple[ProphetParts, ProphetForecaster, np.ndarray]) -> None:
    parts, _, forecasts = found
    assert set(parts.spread) == {"trend", "daily", "autoregression"}
    assert parts.spread["daily"] == pytest.approx(2.0 / np.sqrt(2), rel=0.1)
    variance = sum(size**2 for size in parts.spread.values())
    assert float(np.var(forecasts)) == pytest.approx(variance, rel=0.1)  # parts that hardly go together


def test_the_autoregression_is_by_steps_ahead_and_latest_first(
    found: tuple[ProphetParts, ProphetForecaster, np.ndarray],
) -> None:
    parts, model, _ = found
    coefficients = model.state()[1]["coefficients"][0]
    assert {step: len(weights) for step, weights in parts.autoregression.items()} == {1: 3, 2: 3}
    np.testing.assert_array_equal(parts.autoregression[2], coefficients[1, 1:])


def test_holidays_are_named_with_their_effect() -> None:
    parts, _, _ = station(country="ES", residual_lags=0)
    assert parts.holidays  # New Year's Day and Epiphany lie in these ten days
    assert all(np.isfinite(effect) and effect != 0 for effect in parts.holidays.values())
    assert "holidays" in parts.spread
    assert parts.autoregression == {1: (), 2: ()}
    assert parts.spread["autoregression"] == 0.0


def test_seasons_that_multiply_are_shares_of_the_trend() -> None:
    parts, _, _ = station(seasonality_mode="multiplicative", residual_lags=0)
    assert parts.mode == "multiplicative"
    peak = max(parts.seasons["daily"].values) * parts.trend[0]
    assert peak == pytest.approx(2.0, abs=0.2)
    assert parts.spread["daily"] == pytest.approx(2.0 / np.sqrt(2), rel=0.15)
