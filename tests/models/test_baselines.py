"""Baselines against forecasts computed by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from flts_ray.config import BaselineSettings, Settings, WindowSettings
from flts_ray.data import windows
from flts_ray.errors import BundleError, DataError, TooFewRowsError
from flts_ray.models.base import Forecaster
from flts_ray.models.baselines import MovingAverage, Persistence, SeasonalNaive
from flts_ray.models.ridge import Ridge
from tests.evaluation.causality import assert_causal
from tests.models.processes import STEP_S, autoregressive, plain_frame, station, tiny_settings

pytestmark = pytest.mark.unit


def at(*origins: int) -> np.ndarray:
    return np.array(origins, dtype=np.int64)


def fitted_ridge(horizon: int = 2) -> tuple[Ridge, object]:
    settings = tiny_settings(horizon=horizon)
    frame, transform = station(autoregressive(200), 150, settings)
    return Ridge.fit([frame], {"a": transform}, settings), frame


def test_persistence_repeats_the_last_value():
    frame = plain_frame([1.0, 5.0, 2.0])
    assert Persistence(2).predict(frame, at(1, 2))[:, :, 0].tolist() == [[5.0, 5.0], [2.0, 2.0]]


def test_moving_average_is_the_mean_of_the_last_rows():
    frame = plain_frame([1.0, 5.0, 3.0, 7.0])
    assert MovingAverage(3, 1).predict(frame, at(2, 3))[:, 0, 0].tolist() == [3.0, 5.0]


def test_moving_average_uses_the_rows_there_are_and_stops_at_a_gap():
    frame = plain_frame([1.0, 5.0, 30.0, 70.0], gap_at=2)
    assert MovingAverage(3, 1).predict(frame, at(0, 1, 2, 3))[:, 0, 0].tolist() == [1.0, 3.0, 30.0, 50.0]


def test_seasonal_naive_takes_the_value_one_season_before_the_step():
    frame = plain_frame(np.arange(10.0))
    forecast = SeasonalNaive(4, STEP_S, 2).predict(frame, at(5, 6))[:, :, 0]
    assert forecast.tolist() == [[2.0, 3.0], [3.0, 4.0]]


def test_seasonal_naive_is_nan_without_a_season_of_history():
    frame = plain_frame(np.arange(10.0))
    forecast = SeasonalNaive(4, STEP_S, 2).predict(frame, at(1, 2))[:, :, 0]
    np.testing.assert_array_equal(forecast, [[np.nan, np.nan], [np.nan, 0.0]])


def test_seasonal_naive_goes_by_timestamps_and_takes_the_last_report_before_a_lost_one():
    frame = plain_frame(np.arange(10.0), gap_at=5)  # rows 5.. come one step late: 0 1 2 3 4 _ 5 6 7 8 9
    forecast = SeasonalNaive(4, STEP_S, 1).predict(frame, at(5, 7, 8))[:, 0, 0]
    assert forecast.tolist() == [3.0, 4.0, 5.0]


def test_seasonal_naive_beyond_one_season_repeats_the_last_known_season():
    frame = plain_frame(np.arange(10.0))
    assert SeasonalNaive(2, STEP_S, 5).predict(frame, at(9))[0, :, 0].tolist() == [8.0, 9.0, 8.0, 9.0, 8.0]


def test_baselines_read_their_settings():
    settings = Settings(
        windows=WindowSettings(horizon=3), baselines=BaselineSettings(moving_average_rows=7, season_s=1200)
    )
    assert Persistence.fit(settings).horizon == 3
    assert MovingAverage.fit(settings).rows == 7
    assert SeasonalNaive.fit(settings, STEP_S).season_rows == 10


def test_ridge_recovers_a_linear_process():
    """z[t+1] = 0.8 z[t] without noise: every step is the value times 0.8 to the power of the step."""
    rng = np.random.default_rng(1)
    starts = rng.normal(size=60)
    x = np.concatenate([start * 0.8 ** np.arange(8) for start in starts])
    settings = tiny_settings(lookback=2, horizon=2)
    settings = settings.model_copy(
        update={
            "scaling": settings.scaling.model_copy(update={"scaler": "none"}),
            "baselines": BaselineSettings(ridge_alpha=0.0),
        }
    )
    values = np.column_stack([x, np.ones_like(x)])  # the constant column makes the normal matrix singular
    frame, transform = station(values, len(x), settings)
    frame = _with_segments(frame, np.arange(len(x)) // 8)
    origins = windows.training_origins(frame.segment, 2, 2)
    forecast = Ridge.fit([frame], {"a": transform}, settings).predict(frame, origins)[:, :, 0]
    np.testing.assert_allclose(forecast, x[origins][:, None] * [0.8, 0.64], atol=1e-6)


def _with_segments(frame, segment):
    return dataclasses.replace(frame, segment=segment.astype(np.int64))


def test_ridge_solves_the_normal_equations():
    settings = tiny_settings(lookback=3)
    frame, transform = station(autoregressive(120), 100, settings)
    scaler = transform.target_scalers[0]
    origins = windows.training_origins(frame.segment[:100], 3, 1)
    x = np.stack([frame.features[o - 2 : o + 1].ravel() for o in origins]).astype(np.float64)
    sd = np.tile(frame.features[:100].astype(np.float64).std(axis=0), 3)
    z = scaler.forward(frame.targets[:, 0])
    y = z[origins + 1] - z[origins]
    centred = (x - x.mean(axis=0)) / sd
    weights = np.linalg.solve(centred.T @ centred + np.eye(6), centred.T @ (y - y.mean()))
    wanted = scaler.inverse(z[origins] + y.mean() + centred @ weights)
    got = Ridge.fit([frame], {"a": transform}, settings).predict(frame, origins)[:, 0, 0]
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_ridge_does_not_read_test_rows_when_fitting():
    settings = tiny_settings()
    values = autoregressive(200)
    other = values.copy()
    other[150:] *= 9.0
    frame, transform = station(values, 150, settings)
    altered, _ = station(other, 150, settings)
    transforms = {"a": transform}
    one, two = Ridge.fit([frame], transforms, settings), Ridge.fit([altered], transforms, settings)
    np.testing.assert_array_equal(one.state()[1]["weights/0"], two.state()[1]["weights/0"])


def test_a_strong_penalty_leads_to_persistence_plus_drift():
    settings = tiny_settings()
    settings = settings.model_copy(update={"baselines": BaselineSettings(ridge_alpha=1e12)})
    frame, transform = station(autoregressive(200), 200, settings)
    origins = at(50, 100)
    z = transform.target_scalers[0].forward(Ridge.fit([frame], {"a": transform}, settings).predict(frame, origins))
    change = z[:, 0, 0] - transform.target_scalers[0].forward(frame.targets[origins, 0])
    np.testing.assert_allclose(change[0], change[1], atol=1e-6)


def test_ridge_refuses_an_unknown_station_and_other_features():
    ridge, frame = fitted_ridge()
    with pytest.raises(DataError, match=r"'b' is unknown.*fitted on a"):
        ridge.predict(_named(frame, "b"), at(10))
    with pytest.raises(DataError, match="1 feature columns"):
        ridge.predict(plain_frame(np.arange(20.0)), at(10))


def _named(frame, series):
    return dataclasses.replace(frame, series=series)


def test_ridge_needs_one_window():
    settings = tiny_settings(lookback=4, horizon=2)
    frame, transform = station(autoregressive(20), 5, settings)
    with pytest.raises(TooFewRowsError, match="6 train rows"):
        Ridge.fit([frame], {"a": transform}, settings)


@pytest.mark.parametrize("horizon", [1, 3])
def test_state_round_trip_is_exact_and_forecasts_are_causal(horizon):
    ridge, frame = fitted_ridge(horizon)
    origins = np.arange(20, 150, dtype=np.int64)
    models: list[Forecaster] = [
        Persistence(horizon),
        MovingAverage(5, horizon),
        SeasonalNaive(10, STEP_S, horizon),
        ridge,
    ]
    for model in models:
        meta, arrays = model.state()
        again = type(model).from_state(meta, arrays)
        assert (again.kind, again.lookback, again.horizon) == (model.kind, model.lookback, horizon)
        forecast = model.predict(frame, origins)
        assert forecast.shape == (len(origins), horizon, 1)
        np.testing.assert_array_equal(again.predict(frame, origins), forecast)
        assert_causal(model, frame, origins[[0, 60]])


def test_an_incomplete_state_is_refused():
    with pytest.raises(BundleError, match="lacks 'horizon'"):
        Persistence.from_state({}, {})
    meta, arrays = fitted_ridge()[0].state()
    with pytest.raises(BundleError, match="ridge"):
        Ridge.from_state(meta, {**arrays, "bias/0": np.zeros(7)})
    with pytest.raises(BundleError, match="ridge"):
        Ridge.from_state(meta, {})
