"""Shuffling finds what a model looks at, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flts_ray.data.frame import SeriesFrame
from flts_ray.data.scaling import ColumnScaler
from flts_ray.errors import DataError
from flts_ray.explain.document import Importance
from flts_ray.explain.permutation import importance
from flts_ray.models.base import Forecaster
from flts_ray.models.ridge import LineJob, Ridge, fit_line
from tests.explain.models import OneCell, noise_frame

pytestmark = pytest.mark.unit

GROUPS = {"signal": np.array([0]), "rest": np.array([1, 2])}


def explained(model: Forecaster, *frames: SeriesFrame, repeats: int = 3, seed: int = 1) -> Importance:
    named = {frame.series: frame for frame in frames}
    origins = {name: np.arange(frame.train_rows, len(frame) - 1) for name, frame in named.items()}
    return importance("m", model, named, origins, GROUPS, repeats=repeats, seed=seed)


def test_a_model_that_looks_at_one_cell_gets_exactly_that() -> None:
    found = explained(OneCell(lookback=4, lag=1, column=0), noise_frame())
    assert found.rmse_bits == pytest.approx(0.0, abs=1e-12)
    assert [grown.bits > 1.0 for grown in found.by_lag] == [False, True, False, False]
    assert [grown.bits for grown in found.by_lag if grown.bits < 1.0] == [0.0, 0.0, 0.0]
    assert found.by_feature["rest"].bits == found.last_value.bits == 0.0
    assert found.by_feature["signal"].bits == found.by_lag[1].bits  # the same windows, the same shuffles


def test_growth_is_that_of_forecasts_from_other_windows() -> None:
    """Independent values of variance 1, one taken for the other: the mean squared error is 2."""
    found = explained(OneCell(lookback=2, lag=1, column=0), noise_frame(rows=8000), repeats=2)
    assert found.by_lag[1].bits == pytest.approx(np.sqrt(2), rel=0.03)
    assert found.by_lag[1].low_bits < found.by_lag[1].bits < found.by_lag[1].high_bits
    assert found.by_lag[1].error_bits == pytest.approx(np.sqrt(2 / 4000), rel=0.25)


def test_the_last_value_is_shuffled_apart_from_the_features() -> None:
    frame = noise_frame()
    walk = np.concatenate([[0.0], np.cumsum(frame.features[:-1, 1], dtype=np.float64)])[:, None]
    found = explained(
        OneCell(lookback=3, lag=0, column=1, last_value=True), replace(frame, targets=walk, observed=walk)
    )
    assert found.rmse_bits == pytest.approx(0.0, abs=1e-12)
    assert found.last_value.bits > 1.0
    assert found.by_feature["signal"].bits == 0.0
    assert found.by_feature["rest"].bits > 1.0


def test_a_feature_of_noise_matters_to_a_fitted_model_next_to_nothing() -> None:
    frame = noise_frame(rows=2000)
    line = fit_line(LineJob(frame.train(), (ColumnScaler(kind="none"),), 3, 1, 1.0))
    found = explained(Ridge({"a": line}, 3, 1), frame)
    assert abs(found.by_feature["rest"].bits) < 0.03 * found.by_feature["signal"].bits
    assert abs(found.by_lag[0].bits) < 0.03 * found.by_lag[1].bits


def test_the_same_seed_gives_the_same_numbers_and_another_gives_others() -> None:
    model, frame = OneCell(lookback=2, lag=0, column=0), noise_frame()
    assert explained(model, frame) == explained(model, frame)
    assert explained(model, frame, seed=2).by_lag != explained(model, frame).by_lag


def test_stations_are_pooled_and_shown_apart_in_shares_of_their_own_error() -> None:
    small, large = noise_frame(series="small"), noise_frame(series="large", size=100.0, seed=1)
    model = OneCell(lookback=2, lag=0, column=0)
    found = explained(model, small, large)
    alone = {frame.series: explained(model, frame) for frame in (small, large)}
    assert found.windows == sum(one.windows for one in alone.values())
    pooled = np.sqrt(np.mean([one.rmse_bits**2 for one in alone.values()]))
    assert found.rmse_bits == pytest.approx(pooled)
    for name, one in alone.items():
        assert found.by_series[name] == pytest.approx({g: grown.share for g, grown in one.by_feature.items()})
        assert one.by_series == {}


def test_windows_are_shuffled_within_their_station() -> None:
    """Two stations, each with one value of its own: taking it from another window changes nothing."""
    frames = []
    for name, level in (("a", 1.0), ("b", 5.0)):
        frame = noise_frame(series=name)
        frames.append(replace(frame, features=np.full_like(frame.features, level)))
    found = explained(OneCell(lookback=2, lag=0, column=0), *frames)
    assert {grown.bits for grown in (*found.by_lag, *found.by_feature.values())} == {0.0}


def test_what_is_not_reported_does_not_count() -> None:
    frame = noise_frame()
    observed = frame.observed.copy()
    observed[150:] = np.nan
    found = explained(OneCell(lookback=2, lag=1, column=0), replace(frame, observed=observed))
    assert np.isfinite(found.by_lag[1].bits)
    assert found.rmse_bits == pytest.approx(0.0, abs=1e-12)


def test_forecasts_that_are_no_numbers_are_refused() -> None:
    frame = noise_frame()
    broken = replace(frame, features=np.full_like(frame.features, np.inf))
    with pytest.raises(DataError, match="one-cell forecasts values that are not finite numbers on series 'a'"):
        explained(OneCell(lookback=2, lag=0, column=0), broken)
