"""Recurrent forecasters: units, chunks, causality, exact round trips, refusals."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from flts_ray.config import FeatureSettings, canonical_json
from flts_ray.data.frame import SeriesFrame
from flts_ray.data.scaling import ColumnScaler
from flts_ray.errors import BundleError, DataError, TooFewRowsError
from flts_ray.models import recurrent
from flts_ray.models.recurrent import (
    RECURRENT,
    Cell,
    GRUForecaster,
    RecurrentForecaster,
    RecurrentNet,
    RecurrentShape,
)
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


def told_apart(cell: Cell, *series: str) -> RecurrentForecaster:
    """An untrained network that tells stations apart, by vectors that are not the initial ones."""
    plain = forecaster(cell, horizon=2)
    shape = RecurrentShape(**{**dict(plain.net.shape), "series": series, "series_embedding": 3})
    net = RecurrentNet(shape, seed=1)
    with torch.no_grad():
        net.series += torch.arange(net.series.numel()).view_as(net.series) / 3
    return RECURRENT[cell](net, dict.fromkeys(sorted(series), plain.scalers["a"]))


@pytest.mark.parametrize("cell", CELLS)
def test_a_network_that_tells_no_stations_apart_is_the_plain_one_to_the_bit(cell):
    model = forecaster(cell, layers=2, horizon=2)
    shape, rows = model.net.shape, torch.randn(5, 4, 2)
    layer = torch.nn.GRU if cell == "gru" else torch.nn.LSTM
    with torch.random.fork_rng():
        torch.manual_seed(1)
        encoder = layer(shape.n_features, shape.hidden_size, shape.num_layers, batch_first=True)
        head = torch.nn.Linear(shape.hidden_size, shape.horizon)
    wanted = head(encoder(rows)[0][:, -1]).view(5, 2, 1)
    assert torch.equal(model.net(rows), wanted)
    assert torch.equal(model.net(rows, torch.arange(5)), wanted)
    meta, weights = model.state()
    assert len(weights) == len(list(encoder.parameters())) + 2
    assert not {"series", "series_embedding"} & set(meta["shape"])


@pytest.mark.parametrize("cell", CELLS)
def test_stations_differ_only_by_their_vectors(cell):
    frame, origins = frame_of(), np.arange(3, 60)
    model = told_apart(cell, "b", "a")
    own, other = (model.predict(dataclasses.replace(frame, series=name), origins) for name in "ab")
    assert np.abs(own / other - 1).min() > 1e-4
    with torch.no_grad():
        model.net.series[0] = model.net.series[1]
    np.testing.assert_array_equal(model.predict(dataclasses.replace(frame, series="b"), origins), own)


def test_all_stations_start_alike():
    net = RecurrentNet(told_apart("gru", "a", "b").net.shape, seed=1)
    rows = torch.randn(1, 4, 2).expand(2, -1, -1)
    one, other = net(rows, torch.tensor([0, 1]))
    assert torch.equal(one, other)


@pytest.mark.parametrize("cell", CELLS)
def test_the_names_of_stations_survive_a_file_in_their_order(cell):
    model, frame = told_apart(cell, "b", "a"), frame_of()
    meta, arrays = model.state()
    again = RECURRENT[cell].from_state(json.loads(canonical_json(meta)), arrays)
    assert again.net.shape == model.net.shape
    for name in "ab":
        of_one = dataclasses.replace(frame, series=name)
        np.testing.assert_array_equal(again.predict(of_one, np.array([9])), model.predict(of_one, np.array([9])))


def test_contradictions_about_stations_are_refused():
    model = told_apart("gru", "b", "a")
    with pytest.raises(DataError, match=r"'c' is unknown.*trained on a, b"):
        model.predict(dataclasses.replace(frame_of(), series="c"), np.array([5]))
    with pytest.raises(ValueError, match="which station"):
        model.net(torch.zeros(1, 4, 2))
    meta, arrays = model.state()
    for shape in ({"series": ["a"]}, {"series": ["a", "c"]}, {"series": []}, {"series_embedding": 0}):
        with pytest.raises(BundleError, match="'gru'"):
            GRUForecaster.from_state({**meta, "shape": {**meta["shape"], **shape}}, arrays)


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
