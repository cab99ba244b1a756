"""Attributions add up to the output, and what a network cannot read gets none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flts_ray.data.scaling import ColumnScaler
from flts_ray.explain.gradients import attributions, window_attributions
from flts_ray.models.recurrent import RECURRENT, Cell, RecurrentForecaster, RecurrentNet, RecurrentShape
from tests.explain.models import noise_frame

pytestmark = pytest.mark.unit


def network(cell: Cell = "gru", *, series: tuple[str, ...] = (), targets: int = 1) -> RecurrentForecaster:
    shape = RecurrentShape(
        cell=cell,
        n_features=3,
        n_targets=targets,
        lookback=4,
        horizon=2,
        hidden_size=8,
        num_layers=1,
        target="delta",
        series=series,
        series_embedding=2 if series else 0,
    )
    scalers = {name: (ColumnScaler(kind="none"),) * targets for name in series or ("a", "b")}
    return RECURRENT[cell](RecurrentNet(shape, seed=3), scalers)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_attributions_of_a_window_add_up_to_what_the_network_says_of_it(cell: Cell) -> None:
    frame, origins = noise_frame(), np.arange(100, 180)
    model = network(cell)
    found, difference = window_attributions(model, frame, origins, target=0, steps=32)
    assert found.shape == (80, 4, 3)
    np.testing.assert_allclose(found.sum(axis=(1, 2)), difference, atol=1e-5)
    last = frame.targets[origins, 0]
    changes = (model.predict(frame, origins)[:, :, 0] - last[:, None]).mean(axis=1)
    assert np.std(changes - difference) == pytest.approx(0.0, abs=1e-6)  # all but the baseline's own output
    assert np.std(difference) > 0.01


def test_a_column_that_the_network_does_not_read_gets_nothing() -> None:
    model = network()
    with torch.no_grad():
        dict(model.net.named_parameters())["encoder.weight_ih_l0"][:, 1] = 0.0
    found, _ = window_attributions(model, noise_frame(), np.arange(100, 150), target=0, steps=16)
    assert np.abs(found[:, :, 1]).max() == 0.0
    assert np.abs(found[:, :, [0, 2]]).max() > 0.0


def test_an_average_window_needs_no_explanation() -> None:
    frame = noise_frame()
    frame.features[:] = frame.features[: frame.train_rows].mean(axis=0)
    found, difference = window_attributions(network(), frame, np.arange(100, 110), target=0, steps=8)
    np.testing.assert_allclose(found, 0.0, atol=1e-6)
    np.testing.assert_allclose(difference, 0.0, atol=1e-6)


def test_a_network_that_tells_stations_apart_is_read_as_that_station() -> None:
    model = network(series=("a", "b"))
    with torch.no_grad():
        model.net.series[0], model.net.series[1] = 2.0, -2.0
    a, b = (window_attributions(model, noise_frame(series=s), np.arange(100, 150), target=0, steps=32) for s in "ab")
    assert not np.allclose(a[1], b[1], atol=1e-3)
    for found, difference in (a, b):
        np.testing.assert_allclose(found.sum(axis=(1, 2)), difference, atol=1e-5)


def test_the_summary_is_by_age_and_over_all_stations() -> None:
    frames = {"a": noise_frame(), "b": noise_frame(series="b", seed=5)}
    origins = {"a": np.arange(100, 140), "b": np.arange(100, 120)}
    model = network(targets=2)
    found = attributions("tuned", model, frames, origins, features=("x", "y", "z"), targets=("down", "up"), steps=16)
    assert [(one.model, one.target, one.features) for one in found] == [
        ("tuned", "down", ("x", "y", "z")),
        ("tuned", "up", ("x", "y", "z")),
    ]
    each = [window_attributions(model, frames[s], origins[s], target=1, steps=16) for s in "ab"]
    size = np.abs(np.concatenate([part for part, _ in each])).mean(axis=0)
    np.testing.assert_allclose(np.array(found[1].size), size[::-1])
    assert found[1].output == pytest.approx(np.abs(np.concatenate([whole for _, whole in each])).mean())
    assert 0 <= found[1].completeness_error < 1e-3
