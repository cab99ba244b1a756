from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flts_ray.data.frame import FloatArray
from flts_ray.drift.psi import BINS, DAY_PARTS, day_part, edges_of, histogram, matched, matched_psi, psi

pytestmark = pytest.mark.unit

numbers = st.floats(-1e6, 1e6, allow_nan=False) | st.sampled_from([0.0, 1.0, math.nan])
columns = hnp.arrays(np.float64, st.integers(1, 60), elements=numbers)
counts = hnp.arrays(np.int64, 8, elements=st.integers(0, 1000)).filter(lambda rows: rows.sum() > 0)


def counted(values: FloatArray, edges: FloatArray) -> list[int]:
    return histogram(values, np.zeros(len(values), dtype=np.int64), edges).sum(axis=0).tolist()


@given(counts, st.integers(2, 9))
def test_equal_shares_have_no_index(rows: np.ndarray, times: int) -> None:
    assert psi(rows, rows) == 0
    assert psi(1000 * rows * times, 1000 * rows) < 0.02, "only the half rows that are added differ"


@given(counts, counts)
def test_the_index_is_symmetric_finite_and_never_negative(a: np.ndarray, b: np.ndarray) -> None:
    assert 0 <= psi(a, b) < math.inf
    assert psi(a, b) == pytest.approx(psi(b, a))


def test_the_index_of_a_textbook() -> None:
    a, b = np.array([1000, 2000, 7000]), np.array([2000, 3000, 5000])
    by_hand = 0.1 * math.log(2) + 0.1 * math.log(1.5) + (-0.2) * math.log(5 / 7)
    assert psi(a, b) == pytest.approx(by_hand, rel=1e-2)


@given(columns)
def test_every_row_is_in_one_bin(values: FloatArray) -> None:
    edges = edges_of(values)
    found = counted(values, edges)
    assert sum(found) == len(values)
    assert found[-1] == np.isnan(values).sum()
    assert (np.diff(edges) > 0).all()


@given(columns, columns)
def test_binning_keeps_the_order(values: FloatArray, live: FloatArray) -> None:
    edges = edges_of(values)
    known = np.sort(live[~np.isnan(live)])
    numbers = [int(np.argmax(counted(np.array([value]), edges))) for value in known]
    assert numbers == sorted(numbers)


def test_bins_of_a_continuous_column_hold_a_tenth_each() -> None:
    values = np.random.default_rng(0).normal(size=10_000)
    assert counted(values, edges_of(values)) == pytest.approx([1000] * BINS + [0], abs=2)


def test_a_constant_column_notices_any_other_value() -> None:
    edges = edges_of(np.full(500, 3.0))
    assert counted(np.array([2.0, 3.0, 4.0, math.nan]), edges) == [1, 1, 1, 1]


def test_zeros_have_a_bin_of_their_own() -> None:
    values = np.concatenate([np.zeros(600), np.linspace(1, 2, 400)])
    found = counted(values, edges_of(values))
    assert max(found) == 600


def test_a_discrete_column_has_a_bin_a_value() -> None:
    values = np.repeat([1.0, 2.0, 5.0], [300, 300, 400])
    assert [rows for rows in counted(values, edges_of(values)) if rows] == [300, 300, 400]


def test_a_column_without_values_notices_that_there_are_some() -> None:
    assert counted(np.array([1.0, math.nan]), edges_of(np.full(4, math.nan))) == [1, 1]


def test_parts_of_the_day() -> None:
    time = np.datetime64("2018-03-01T00:00", "ns") + np.timedelta64(90, "m") * np.arange(18)
    assert day_part(time).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 0, 0]
    assert day_part(np.array(["1969-12-31T23:59"], dtype="datetime64[ns]")).tolist() == [DAY_PARTS - 1]


def test_hours_are_compared_with_the_same_hours() -> None:
    """Nights are 0 and days 1, in training and live: a live night is no drift."""
    reference = np.zeros((DAY_PARTS, 3), dtype=np.int64)
    reference[:4, 0], reference[4:, 1] = 1000, 1000
    night = np.zeros_like(reference)
    night[0, 0] = 200
    assert psi(reference.sum(axis=0), night.sum(axis=0)) > 0.5
    assert matched_psi(reference, night) < 0.02
    assert matched(reference, night) == pytest.approx([8000, 0, 0])


def test_hours_that_training_never_saw_are_compared_with_all_of_it() -> None:
    reference = np.zeros((DAY_PARTS, 2), dtype=np.int64)
    reference[0] = (30, 70)
    live = np.zeros_like(reference)
    live[5] = (30, 70)
    assert matched_psi(reference, live) == 0
