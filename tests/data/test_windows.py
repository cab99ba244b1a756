from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flts_ray.data.frame import SeriesFrame, segment_ids
from flts_ray.data.windows import histories, test_origins, training_origins, window_count

pytestmark = pytest.mark.unit
test_origins.__test__ = False  # type: ignore[attr-defined]  # a function of the library, not a test

lengths = st.lists(st.integers(1, 12), min_size=0, max_size=5)
sizes = st.integers(1, 6)


def segments(rows: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(rows), dtype=np.int64), rows)


def frame_of(rows: list[int], train_rows: int) -> SeriesFrame:
    segment = segments(rows)
    n = len(segment)
    steps = np.arange(n) + 10 * segment
    return SeriesFrame(
        series="s",
        time=np.datetime64("2018-01-01", "ns") + steps * np.timedelta64(120, "s"),
        features=np.arange(2 * n, dtype=np.float32).reshape(n, 2),
        targets=np.arange(n, dtype=np.float64)[:, None],
        observed=np.arange(n, dtype=np.float64)[:, None],
        segment=segment,
        train_rows=train_rows,
    )


@given(lengths, sizes, sizes)
def test_training_origins_are_those_whose_window_lies_in_one_segment(
    rows: list[int], lookback: int, horizon: int
) -> None:
    segment = segments(rows)
    oracle = [
        i
        for i in range(len(segment))
        if i - lookback + 1 >= 0
        and i + horizon < len(segment)
        and len(set(segment[i - lookback + 1 : i + horizon + 1].tolist())) == 1
    ]
    assert training_origins(segment, lookback, horizon).tolist() == oracle


@given(lengths, sizes, sizes)
def test_the_number_of_windows_is_exact(rows: list[int], lookback: int, horizon: int) -> None:
    expected = sum(max(0, n - lookback - horizon + 1) for n in rows)
    assert sum(window_count(n, lookback, horizon) for n in rows) == expected
    assert len(training_origins(segments(rows), lookback, horizon)) == expected


@given(lengths, st.integers(0, 40), sizes, sizes)
def test_test_origins_are_those_from_which_a_test_row_is_scored(
    rows: list[int], train_rows: int, lookback: int, horizon: int
) -> None:
    frame = frame_of(rows, min(train_rows, sum(rows)))
    segment = frame.segment

    def allowed(i: int, row: int) -> bool:
        whole = i - lookback + 1 >= 0 and len(set(segment[i - lookback + 1 : i + 1].tolist())) == 1
        return whole and row < len(frame) and row >= frame.train_rows and segment[row] == segment[i]

    origins = test_origins(frame, lookback, horizon).tolist()
    oracle = [i for i in range(len(frame)) if any(allowed(i, i + h) for h in range(1, horizon + 1))]
    assert origins == oracle


@given(st.integers(1, 30), sizes, st.data())
def test_histories_are_the_rows_up_to_the_origin(n: int, lookback: int, data: st.DataObject) -> None:
    features = np.arange(3 * n, dtype=np.float32).reshape(n, 3)
    valid = list(range(lookback - 1, n))
    if not valid:
        return
    origins = np.array(data.draw(st.lists(st.sampled_from(valid), min_size=1, max_size=5)), dtype=np.int64)
    found = histories(features, origins, lookback)
    assert found.shape == (len(origins), lookback, 3)
    assert found.tolist() == [features[i - lookback + 1 : i + 1].tolist() for i in origins]


def test_gaps_from_timestamps_keep_windows_apart() -> None:
    time = np.datetime64("2018-01-01", "ns") + np.array([0, 1, 2, 4, 5, 6, 7]) * np.timedelta64(120, "s")
    origins = training_origins(segment_ids(time, 120.0), lookback=2, horizon=1)
    assert origins.tolist() == [1, 4, 5]
