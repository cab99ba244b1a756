"""Recurrent forecasters: units, chunks, causality, exact round trips, refusals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from flts_ray.config import FeatureSettings
from flts_ray.data.frame import SeriesFrame
from flts_ray.data.scaling import ColumnScaler
from flts_ray.errors import BundleError, DataError, TooFewRowsError
from flts_ray.models import recurrent
from flts_ray.models.recurrent import RECURRENT, Cell, RecurrentForecaster, RecurrentNet, RecurrentShape
from tests.evaluation.causality import assert_causal
from tests.models.processes import autoregressive, plain_frame, station, tiny_settings

pytestmark = pytest.mark.unit

CELLS: list[Cell] = ["gru", "lstm"]


def forecaster(
    cell: Cell, *, n_features: int = 2, n_targets: int = 1, horizon: int = 1, layers: int = 1, target: str = "delta"
) -> RecurrentForecaster:
    shape = RecurrentShape(
        cell=cell,
        n_features=n_features,
        n_targets=n_targets,
        lookback=4,
        horizon=horizon,
        hidden_size=3,
        num_layers=layers,
        target=target,
    )
    scaler = ColumnScaler(kind="log", offset=5.0, center=2.0, scale=3.0)
    return RECURRENT[cell](RecurrentNet(shape, seed=1), {"a": (scaler,) * n_targets})


def frame_of(rows: int = 60) -> SeriesFrame:
    return station(autoregressive(rows), rows, tiny_settings())[0]


def silent(model: RecurrentForecaster, output: float) -> RecurrentForecaster:
    """The same model with a network that always says ``output``."""
    with torch.no_grad():
        model.net.head.weight.zero_()
        model.net.head.bias.fill_(output)
    return model


@pytest.mark.parametrize("cell", CELLS)
def test_kind_lookback_and_horizon_are_on_the_instance(cell):
    model = forecaster(cell, horizon=2)
    assert (model.kind, model.lookback, model.horizon) == (cell, 4, 2)


@pytest.mark.parametrize("cell", CELLS)
def test_a_delta_network_that_says_nothing_is_persistence(cell):
    frame = frame_of()
    origins = np.arange(3, 60)
    forecast = silent(forecaster(cell, horizon=2), 0.0).predict(frame, origins)
    np.testing.assert_allclose(forecast, np.repeat(frame.targets[origins][:, None], 2, axis=1), rtol=1e-9)


def test_a_level_network_speaks_in_the_scalers_units():
    forecast = silent(forecaster("gru", target="level"), 0.5).predict(frame_of(), np.array([10]))
    np.testing.assert_allclose(forecast, [[[np.exp(0.5 * 3.0 + 2.0) - 5.0]]], rtol=1e-6)


def test_each_target_goes_through_its_own_scaler():
    frame = plain_frame(np.column_stack([np.arange(10.0), np.arange(10.0) * 7 + 1]))
    model = silent(forecaster("gru", n_targets=2, horizon=3), 0.0)
    model.scalers["a"] = (ColumnScaler(kind="none"), ColumnScaler(kind="log", offset=1.0))
    forecast = model.predict(frame, np.array([9]))
    np.testing.assert_allclose(forecast[0], [[9.0, 64.0]] * 3, rtol=1e-6)


def test_chunks_change_nothing(monkeypatch):
    frame, origins = frame_of(), np.arange(3, 60)
    model = forecaster("gru", horizon=2)
    whole = model.predict(frame, origins)
    monkeypatch.setattr(recurrent, "PREDICT_WINDOWS", 7)
    np.testing.assert_allclose(model.predict(frame, origins), whole, rtol=1e-5)


def test_predict_keeps_the_callers_threads_and_gradients():
    model, threads = forecaster("gru"), torch.get_num_threads()
    model.predict(frame_of(), np.array([5]))
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in model.net.parameters())


def test_no_origins_give_no_forecasts():
    assert forecaster("gru", horizon=2).predict(frame_of(), np.zeros(0, dtype=np.int64)).shape == (0, 2, 1)


@pytest.mark.parametrize("cell", CELLS)
def test_rows_after_the_origin_do_not_matter(cell):
    settings = tiny_settings(features=FeatureSettings(ema_spans=(3,), rolling_std=(5,)))
    frame, _ = station(autoregressive(80), 80, settings)
    assert_causal(forecaster(cell, n_features=frame.features.shape[1]), frame, np.array([3, 20, 60]))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layers", [1, 2])
def test_state_round_trip_is_bitwise(cell, layers):
    model, frame = forecaster(cell, horizon=2, layers=layers), frame_of()
    meta, arrays = model.state()
    again = RECURRENT[cell].from_state(meta, arrays)
    origins = np.arange(3, 60)
    np.testing.assert_array_equal(again.predict(frame, origins), model.predict(frame, origins))
    assert again.state()[0] == meta


def test_a_state_is_a_copy():
    model = forecaster("gru")
    _, arrays = model.state()
    before = arrays["head.bias"].copy()
    silent(model, 9.0)
    np.testing.assert_array_equal(arrays["head.bias"], before)


def test_a_broken_state_is_refused():
    meta, arrays = forecaster("gru").state()
    with pytest.raises(BundleError, match="'gru'"):
        RECURRENT["gru"].from_state(meta, {**arrays, "head.bias": np.zeros(9, dtype=np.float32)})
    with pytest.raises(BundleError, match="'gru'"):
        RECURRENT["gru"].from_state({"scalers": {}}, arrays)
    with pytest.raises(BundleError, match="lstm"):
        RECURRENT["lstm"].from_state(meta, arrays)
    with pytest.raises(BundleError, match=r"head\.bias"):
        RECURRENT["gru"].from_state(meta, {name: a for name, a in arrays.items() if name != "head.bias"})


def test_wrong_frames_are_refused_with_the_reason():
    model, frame = forecaster("gru"), frame_of()
    with pytest.raises(DataError, match=r"'b' is unknown.*trained on a"):
        model.predict(dataclasses.replace(frame, series="b"), np.array([5]))
    with pytest.raises(DataError, match="1 feature columns"):
        model.predict(plain_frame(np.arange(10.0)), np.array([5]))
    with pytest.raises(TooFewRowsError, match="3 rows up to an origin, 4 are needed"):
        model.predict(frame, np.array([2, 9]))


def test_initial_weights_follow_the_seed_and_leave_global_randomness_alone():
    shape = forecaster("lstm").net.shape
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, same, other = (RecurrentNet(shape, seed=seed).head.weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)
