"""Prophet with its residual autoregression: causal, honest at every step, storable as JSON and arrays."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from flts_ray.config import ProphetSettings, canonical_json
from flts_ray.data.frame import FloatArray, SeriesFrame, segment_ids
from flts_ray.data.scaling import ColumnScaler
from flts_ray.errors import BundleError, DataError, TooFewRowsError
from flts_ray.models.prophet import (
    FitJob,
    ProphetForecaster,
    TargetFit,
    _serialise,
    fit_series,
    load_model,
    quiet_prophet,
)

pytestmark = pytest.mark.unit

STEP_S = 600.0
HORIZON = 3
SCALER = ColumnScaler(kind="log", offset=1.0, center=5.0, scale=0.5)


def clock(rows: int) -> np.ndarray:
    return np.datetime64("2026-01-05T00:00", "ns") + np.arange(rows) * np.timedelta64(600, "s")


def autoregressive(rows: int, weight: float = 0.9, seed: int = 0) -> FloatArray:
    rng = np.random.default_rng(seed)
    z = np.zeros(rows)
    for t in range(1, rows):
        z[t] = weight * z[t - 1] + 0.3 * rng.standard_normal()
    return z


def job(z: FloatArray, time: np.ndarray | None = None) -> FitJob:
    time = clock(len(z)) if time is None else time
    return FitJob(series="north", target="down", time=time, z=z, segment=segment_ids(time, STEP_S))


def fit(z: FloatArray, horizon: int = HORIZON, **settings: object) -> TargetFit:
    return fit_series(job(z), ProphetSettings.model_validate(settings), horizon=horizon, seed=1)


def frame_of(z: FloatArray, series: str = "north") -> SeriesFrame:
    bits = SCALER.inverse(z)[:, None]
    time = clock(len(z))
    return SeriesFrame(
        series=series,
        time=time,
        features=np.zeros((len(z), 1), dtype=np.float32),
        targets=bits,
        observed=bits,
        segment=segment_ids(time, STEP_S),
        train_rows=len(z),
    )


@pytest.fixture(scope="module")
def z() -> FloatArray:
    return np.sin(np.arange(400) * 2 * np.pi / 144) + autoregressive(400)


@pytest.fixture(scope="module")
def fitted(z: FloatArray) -> TargetFit:
    return fit(z[:320], growth="flat", residual_lags=4)


@pytest.fixture(scope="module")
def forecaster(fitted: TargetFit) -> ProphetForecaster:
    return ProphetForecaster({"north": [fitted]}, {"north": [SCALER]}, step_s=STEP_S)


def test_forecasts_beat_persistence_at_every_step(forecaster: ProphetForecaster, z: FloatArray) -> None:
    frame, origins = frame_of(z), np.arange(319, 396)
    errors = np.log(forecaster.predict(frame, origins)[:, :, 0] + 1)
    errors -= np.log(frame.targets[origins[:, None] + np.arange(1, HORIZON + 1), 0] + 1)
    naive = 0.5 * (z[origins][:, None] - z[origins[:, None] + np.arange(1, HORIZON + 1)])
    assert (np.square(errors).mean(axis=0) < np.square(naive).mean(axis=0)).all()


def test_rows_after_the_origin_change_nothing(forecaster: ProphetForecaster, z: FloatArray) -> None:
    origins = np.array([10, 200, 330])
    whole = forecaster.predict(frame_of(z), origins)
    spoilt = z.copy()
    spoilt[331:] += 3
    np.testing.assert_array_equal(forecaster.predict(frame_of(spoilt), origins), whole)
    np.testing.assert_allclose(forecaster.forecast(frame_of(z[:331])), whole[-1], rtol=1e-12)


def test_origins_may_come_in_any_order_or_not_at_all(forecaster: ProphetForecaster, z: FloatArray) -> None:
    frame, origins = frame_of(z), np.array([300, 50, 120])
    np.testing.assert_array_equal(
        forecaster.predict(frame, origins), forecaster.predict(frame, np.sort(origins))[[2, 0, 1]]
    )
    assert forecaster.predict(frame, origins[:0]).shape == (0, HORIZON, 1)


def test_each_step_has_its_own_regression() -> None:
    z = autoregressive(4000, weight=0.9)
    found = fit(z, horizon=4, growth="flat", daily="off", weekly="off", residual_lags=1).coefficients
    np.testing.assert_allclose(found[:, 1], 0.9 ** np.arange(1, 5), atol=0.06)


def test_the_regression_never_crosses_a_gap() -> None:
    z = np.concatenate([autoregressive(200), autoregressive(200, seed=1)])
    time = clock(400)
    time[200:] += np.timedelta64(7, "h")
    flat = ProphetSettings(growth="flat", daily="off", weekly="off", residual_lags=1)
    residual = z - z.mean()
    pairs = [(residual[i], residual[i + 1]) for i in range(399) if i != 199]
    x = np.array(pairs)
    wanted = np.linalg.lstsq(np.column_stack([np.ones(398), x[:, 0]]), x[:, 1], rcond=None)[0]
    found = fit_series(job(z, time), flat, horizon=1, seed=1).coefficients[0]
    np.testing.assert_allclose(found, wanted, atol=2e-3)


def test_without_lags_the_last_value_does_not_matter(z: FloatArray) -> None:
    open_loop = ProphetForecaster({"north": [fit(z, residual_lags=0)]}, {"north": [SCALER]}, step_s=STEP_S)
    assert open_loop.lookback == 1
    raised = z.copy()
    raised[-1] += 2
    np.testing.assert_array_equal(open_loop.forecast(frame_of(z)), open_loop.forecast(frame_of(raised)))


@pytest.mark.parametrize(
    ("rows", "settings", "seasons"),
    [
        (200, {}, []),
        (400, {}, ["daily"]),
        (400, {"daily": "off"}, []),
        (14 * 144 + 1, {"n_changepoints": 2}, ["weekly", "daily"]),
        (200, {"weekly": "on"}, ["weekly"]),
    ],
)
def test_seasons_enter_where_the_history_carries_them(
    rows: int, settings: dict[str, object], seasons: list[str]
) -> None:
    model = json.loads(fit(autoregressive(rows), **settings).model_json)
    assert model["seasonalities"][0] == seasons


def test_holidays_only_where_a_country_is_set() -> None:
    z = autoregressive(300)
    assert json.loads(fit(z).model_json)["country_holidays"] is None
    assert json.loads(fit(z, country="ES").model_json)["country_holidays"] == "ES"


def test_too_short_a_series_is_refused() -> None:
    with pytest.raises(TooFewRowsError, match="'north' has 15 gap-free windows"):
        fit(autoregressive(27), residual_lags=10)


def test_a_history_shorter_than_the_lags_is_refused(forecaster: ProphetForecaster, z: FloatArray) -> None:
    with pytest.raises(TooFewRowsError, match="3 rows up to the origin, prophet reads 4"):
        forecaster.forecast(frame_of(z[:3]))


def test_an_unknown_series_is_refused_by_name(forecaster: ProphetForecaster, z: FloatArray) -> None:
    with pytest.raises(DataError, match="'south': it knows north"):
        forecaster.forecast(frame_of(z, series="south"))


def test_the_same_job_gives_the_same_fit(fitted: TargetFit, z: FloatArray) -> None:
    again = fit(z[:320], growth="flat", residual_lags=4)
    assert again.model_json == fitted.model_json
    np.testing.assert_array_equal(again.coefficients, fitted.coefficients)


def test_state_survives_json_bit_for_bit_and_is_small(forecaster: ProphetForecaster, z: FloatArray) -> None:
    meta, arrays = forecaster.state()
    text = canonical_json(meta)
    again = ProphetForecaster.from_state(json.loads(text), arrays)
    origins = np.arange(10, 390)
    np.testing.assert_array_equal(again.predict(frame_of(z), origins), forecaster.predict(frame_of(z), origins))
    assert (again.lookback, again.horizon, again.series) == (4, HORIZON, ("north",))
    assert len(text) < 10_000


def test_a_broken_state_is_refused(forecaster: ProphetForecaster) -> None:
    meta, arrays = forecaster.state()
    for bad_meta, bad_arrays in [
        ({**meta, "fits": []}, arrays),
        ({**meta, "fits": [{"series": "north"}]}, arrays),
        (meta, {}),
        (meta, {"coefficients": np.zeros((1, HORIZON, 0))}),
    ]:
        with pytest.raises(BundleError, match="prophet model cannot be read"):
            ProphetForecaster.from_state(bad_meta, bad_arrays)


def test_loggers_are_left_as_they_were(capfd: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("prophet")
    before = logger.level
    logger.setLevel(logging.DEBUG)
    try:
        fit(autoregressive(100), residual_lags=1)
        assert logger.level == logging.DEBUG
        assert not logging.getLogger("cmdstanpy").disabled
        with quiet_prophet():
            logger.error("never seen")
    finally:
        logger.setLevel(before)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize("mode", ["additive", "multiplicative"])
def test_what_is_left_out_of_the_json_changes_no_forecast(mode: str) -> None:
    import pandas as pd
    from prophet import Prophet

    ahead = pd.DataFrame({"ds": clock(700)})
    with quiet_prophet():
        model = Prophet(seasonality_mode=mode, uncertainty_samples=0)
        model.add_country_holidays(country_name="ES")
        model.fit(pd.DataFrame({"ds": clock(400), "y": 5 + autoregressive(400)}))
        whole = model.predict(ahead)["yhat"].to_numpy()
        stored = load_model(_serialise(model)).predict(ahead)["yhat"].to_numpy()
    np.testing.assert_array_equal(stored, whole)
