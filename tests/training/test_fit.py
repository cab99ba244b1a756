"""One network for stations that it can tell apart, and for stations too short to learn from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from flts_ray.config import Settings
from flts_ray.data.frame import SeriesFrame
from flts_ray.data.transform import Transform
from flts_ray.errors import TrainingError
from flts_ray.training.communicator import Communicator
from flts_ray.training.fit import FittedRecurrent, fit_recurrent
from flts_ray.training.loop_state import EpochMetrics, LoopState
from tests.models.processes import autoregressive, station, tiny_settings
from tests.training.ranks import side_by_side

pytestmark = pytest.mark.unit

Stations = tuple[list[SeriesFrame], dict[str, Transform]]


def told_apart(numbers: int = 3, **options: object) -> Settings:
    settings = tiny_settings(**options)
    return settings.model_copy(
        update={"recurrent": settings.recurrent.model_copy(update={"series_embedding": numbers})}
    )


def stations(settings: Settings, *rows: int) -> Stations:
    """Walks that turn back at every second station, and at the others go on: (frames, transforms)."""
    made = []
    for i, n in enumerate(rows):
        values = autoregressive(n, seed=i)
        if i % 2:
            steps = np.random.default_rng(i).normal(0.0, 0.1, n)
            for t in range(1, n):
                steps[t] -= 0.8 * steps[t - 1]
            values[:, 0] = 1e6 * np.exp(steps)
        made.append(station(values, n, settings, series=f"s{i}"))
    return [frame for frame, _ in made], {frame.series: transform for frame, transform in made}


def same_bits(one: FittedRecurrent, other: FittedRecurrent) -> bool:
    (meta, mine), (other_meta, theirs) = one.forecaster.state(), other.forecaster.state()
    return meta == other_meta and all(np.array_equal(mine[name], theirs[name]) for name in mine)


def composites(fitted: FittedRecurrent) -> list[float]:
    return [metrics.val_composite for metrics in fitted.result.history]


def test_stations_that_one_row_cannot_tell_apart_are_told_apart_by_their_vectors():
    options = {"lookback": 1, "epochs": 12, "learning_rate": 0.02, "weight_decay": 0.0}
    rmse = {}
    for numbers in (0, 3):
        settings = told_apart(numbers, **options)
        fitted = fit_recurrent("gru", *stations(settings, 400, 400), settings)
        rmse[numbers] = min(metrics.val_rmse_scaled for metrics in fitted.result.history)
    assert rmse[3] < 0.8 * rmse[0]


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_resuming_ends_in_the_same_bits(cell):
    settings = told_apart(epochs=3)
    data, states = stations(settings, 90, 70), []

    def keep(metrics: EpochMetrics, capture: Callable[[], LoopState]) -> None:
        states.append(capture())

    whole = fit_recurrent(cell, *data, settings, on_epoch=keep)
    resumed = fit_recurrent(cell, *data, settings, resume=states[0])
    assert (resumed.resumed_from_epoch, composites(resumed)) == (1, composites(whole))
    assert same_bits(resumed, whole)


def test_a_checkpoint_of_other_stations_is_refused():
    settings, states = told_apart(), []
    fit_recurrent("gru", *stations(settings, 90, 70), settings, on_epoch=lambda _, capture: states.append(capture()))
    for other, rows in ((settings, (90,)), (told_apart(0), (90, 70))):
        with pytest.raises(TrainingError, match=r"was trained with series=\['s0', 's1'\]"):
            fit_recurrent("gru", *stations(other, *rows), other, resume=states[0])


def test_two_workers_train_like_one():
    """From a checkpoint on: threads would take each other's seeds for the initial weights."""
    settings, states = told_apart(epochs=3), []
    data = stations(settings, 90, 70)
    alone = fit_recurrent("gru", *data, settings, on_epoch=lambda _, capture: states.append(capture()))

    def work(comm: Communicator) -> FittedRecurrent:
        return fit_recurrent("gru", *data, settings, comm=comm, resume=states[0])

    one, other = side_by_side(2, work)
    assert same_bits(one, other)
    np.testing.assert_allclose(composites(one), composites(alone), rtol=1e-4)
    weights = one.forecaster.state()[1]
    for name, value in alone.forecaster.state()[1].items():
        np.testing.assert_allclose(weights[name], value, rtol=1e-3, atol=1e-5)
    assert np.abs(weights["series"]).min() > 0


@pytest.mark.parametrize("numbers", [0, 3])
def test_a_station_too_short_to_learn_from_changes_nothing_for_the_others(numbers):
    settings = told_apart(numbers)
    frames, transforms = stations(settings, 90, 70, 5)
    without = fit_recurrent("gru", frames[:2], transforms, settings)
    fitted = fit_recurrent("gru", frames, transforms, settings)
    assert fitted.result.train_windows == without.result.train_windows
    np.testing.assert_allclose(composites(fitted), composites(without), rtol=1e-6)
    for frame in frames[:2]:
        origins = np.arange(3, len(frame))
        np.testing.assert_allclose(
            fitted.forecaster.predict(frame, origins), without.forecaster.predict(frame, origins), rtol=1e-5
        )


def test_a_station_too_short_to_learn_from_is_forecast_as_the_average_one():
    settings = told_apart()
    frames, transforms = stations(settings, 90, 70, 5)
    fitted = fit_recurrent("gru", frames, transforms, settings)
    vectors = fitted.forecaster.state()[1]["series"]
    assert np.abs(vectors[:2]).min() > 0
    np.testing.assert_allclose(vectors[2], vectors[:2].mean(axis=0), rtol=1e-6)
    forecast = fitted.forecaster.predict(frames[2], np.array([3, 4]))[:, 0, 0]
    ratio = forecast / frames[2].targets[[3, 4], 0]
    assert np.all((ratio > 0.3) & (ratio < 3.0))
