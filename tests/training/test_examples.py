"""The chronological split: exact counts, nothing reaches into the tail, no window crosses stations or gaps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flts_ray.errors import TooFewRowsError
from flts_ray.training.batches import Batches
from flts_ray.training.examples import Examples, build_examples, fit_row_count, left_out
from tests.models.processes import autoregressive, station, tiny_settings

pytestmark = pytest.mark.unit


def examples_of(
    *train_rows: int, lookback: int = 3, horizon: int = 2, fraction: float = 0.25, gap_at: int | None = None
) -> Examples:
    settings = tiny_settings()
    stations = [
        station(autoregressive(n + 10, seed=n), n, settings, series=f"s{i}", gap_at=gap_at)
        for i, n in enumerate(train_rows)
    ]
    return build_examples(
        [frame for frame, _ in stations],
        {frame.series: transform for frame, transform in stations},
        lookback=lookback,
        horizon=horizon,
        validation_fraction=fraction,
    )


@given(n=st.integers(30, 90), lookback=st.integers(1, 6), horizon=st.integers(1, 4), fraction=st.floats(0.05, 0.5))
@hypothesis_settings(max_examples=30, deadline=None)
def test_counts_are_exact_and_training_stays_out_of_the_tail(n, lookback, horizon, fraction):
    examples = examples_of(n, lookback=lookback, horizon=horizon, fraction=fraction)
    fit_rows = fit_row_count(n, fraction, horizon)
    assert len(examples.train_origins) == fit_rows - lookback - horizon + 1
    assert len(examples.validation_origins) == n - fit_rows - horizon + 1
    assert examples.train_origins.min() == lookback - 1
    assert examples.train_origins.max() + horizon == fit_rows - 1
    assert examples.validation_origins.min() + 1 == fit_rows
    assert examples.validation_origins.max() + horizon == n - 1


def test_one_step_ahead_every_window_is_used():
    examples = examples_of(100, horizon=1)
    assert len(examples.train_origins) + len(examples.validation_origins) == 100 - 3


def test_test_rows_are_not_in_the_examples():
    examples = examples_of(40, 60)
    assert examples.features.shape == (100, 2)
    assert examples.first_rows.tolist() == [0, 40]


def test_windows_do_not_cross_stations_or_gaps():
    examples = examples_of(40, 60, gap_at=20)
    origins = np.concatenate([examples.train_origins, examples.validation_origins])
    for origin in origins.tolist():
        window = set(range(origin - 2, origin + 3))
        for start in (20, 40, 60):  # gap, next station, gap of the next station
            assert not {start - 1, start} <= window


def test_the_tail_of_each_station_is_validated():
    examples = examples_of(40, 60)
    assert {int(np.searchsorted([0, 40], o, side="right")) for o in examples.validation_origins} == {1, 2}


def test_one_station_with_too_few_rows_is_refused_by_name():
    with pytest.raises(TooFewRowsError, match=r"'s0' has no gap-free stretch of 5 rows among the 4.*give more rows"):
        examples_of(6)


def test_many_stations_with_too_few_rows_are_refused_together():
    with pytest.raises(TooFewRowsError, match=r"'s0'.*'s1'.*'s2'.* nor has any of the 2 other series: lower"):
        examples_of(*[6] * 5)


@given(others=st.lists(st.integers(2, 60), min_size=1, max_size=4), place=st.integers(0, 4))
@hypothesis_settings(max_examples=30, deadline=None)
def test_short_stations_take_no_windows_from_the_others(others, place):
    rows = [*others[:place], 40, *others[place:]]
    examples = examples_of(*rows)
    for i, n in enumerate(rows):
        fitting, validating = (
            origins[np.searchsorted(examples.first_rows, origins, side="right") - 1 == i] - examples.first_rows[i]
            for origins in (examples.train_origins, examples.validation_origins)
        )
        windows = max(0, fit_row_count(n, 0.25, 2) - 3 - 2 + 1)
        assert fitting.tolist() == list(range(2, 2 + windows))
        assert len(validating) == (n - fit_row_count(n, 0.25, 2) - 2 + 1 if windows else 0)


def test_who_is_left_out_is_told_with_the_reason():
    settings = tiny_settings(lookback=3, horizon=2, validation_fraction=0.25)
    frames = [station(autoregressive(n), n, settings, series=f"s{n}")[0] for n in (40, 6, 2)]
    told = left_out(frames, settings)
    assert list(told) == ["s6", "s2"]
    assert "has no gap-free stretch of 5 rows among the 4 train rows before its validation tail" in told["s6"]


def test_batches_know_the_station_of_each_origin():
    examples = examples_of(40, 2, 60)
    batches = Batches(examples, "delta", torch.device("cpu"))
    assert batches.series(torch.tensor([0, 39, 40, 41, 42, 101])).tolist() == [0, 0, 1, 1, 2, 2]


def test_a_tail_without_a_window_is_refused():
    with pytest.raises(TooFewRowsError, match="validation window"):
        examples_of(20, fraction=0.05, gap_at=19)  # the tail is rows 18 and 19


def test_errors_are_in_bits_and_in_scaled_units():
    examples = examples_of(40, 60)
    origins = np.array([10, 50])
    rows = origins[:, None] + [1, 2]
    truth = examples.scaled[rows].astype(np.float64)
    bits, scaled = examples.validation_errors(truth, origins)
    np.testing.assert_allclose(bits / examples.targets[rows], 0.0, atol=1e-6)
    bits, scaled = examples.validation_errors(truth + 0.1, origins)
    np.testing.assert_allclose(scaled[1], bits[1] / examples.ranges[1])
    for s, origin in enumerate(origins):
        z = examples.scaled[origin + 1 : origin + 3, 0].astype(np.float64)
        wanted = examples.scalers[s][0].inverse(z + 0.1) - examples.targets[origin + 1 : origin + 3, 0]
        np.testing.assert_allclose(bits[s, :, 0], wanted)


@pytest.mark.parametrize("target", ["delta", "level"])
def test_batches_are_the_rows_themselves(target):
    examples = examples_of(40, 60)
    batches = Batches(examples, target, torch.device("cpu"))
    origins = torch.from_numpy(examples.train_origins[[5, 0, 40]])
    inputs, outputs = batches.inputs(origins), batches.outputs(origins)
    for i, origin in enumerate(origins.tolist()):
        np.testing.assert_array_equal(inputs[i], examples.features[origin - 2 : origin + 1])
        now = examples.scaled[origin] if target == "delta" else 0.0
        np.testing.assert_array_equal(outputs[i], examples.scaled[origin + 1 : origin + 3] - now)
    levels = examples.scaled[origins.numpy()[:, None] + [1, 2]]
    np.testing.assert_allclose(batches.levels(outputs, origins), levels, rtol=1e-5)


def test_windows_do_not_depend_on_memory_order():
    examples = examples_of(40)
    columns_first = dataclasses.replace(examples, features=np.asfortranarray(examples.features))
    origins = torch.from_numpy(examples.train_origins)
    one, two = (Batches(e, "delta", torch.device("cpu")).inputs(origins) for e in (examples, columns_first))
    assert torch.equal(one, two)
