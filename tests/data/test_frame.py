from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flts_ray.data.frame import SeriesFrame, segment_ids
from tests.data.reports import raw_frame

pytestmark = pytest.mark.unit


@given(st.lists(st.integers(1, 4), max_size=30), st.sampled_from([0.5, 1.0, 60.0, 120.0]))
def test_a_segment_ends_where_two_rows_are_not_one_step_apart(steps: list[int], step_s: float) -> None:
    offsets = np.concatenate([[0], np.cumsum(steps)]).astype(np.int64)
    time = np.datetime64("2018-01-01", "ns") + (offsets * round(step_s * 1e9)).astype("timedelta64[ns]")
    oracle, current = [0], 0
    for step in steps:
        current += step != 1
        oracle.append(current)
    assert segment_ids(time, step_s).tolist() == oracle


@pytest.mark.parametrize(("jitter_ms", "segments"), [(0.4, 1), (0.6, 2)])
def test_half_a_millisecond_of_jitter_is_no_gap(jitter_ms: float, segments: int) -> None:
    time = np.array([0, 120_000_000_000 + round(jitter_ms * 1e6)]).view("datetime64[ns]")
    assert len(set(segment_ids(time, 120.0).tolist())) == segments


def test_no_rows_have_no_segments() -> None:
    assert segment_ids(np.array([], dtype="datetime64[ns]"), 120.0).tolist() == []


def test_raw_frame_finds_columns_by_name() -> None:
    frame = raw_frame([[1, 2], [3, 4]])
    assert frame.column("up").tolist() == [2, 4]
    assert len(frame) == 2


@given(st.integers(0, 10), st.integers(0, 12), st.integers(0, 12))
def test_head_keeps_what_is_train_and_what_is_test(n: int, train_rows: int, rows: int) -> None:
    train_rows = min(train_rows, n)
    frame = SeriesFrame(
        series="s",
        time=np.arange(n).view("datetime64[ns]"),
        features=np.zeros((n, 1), np.float32),
        targets=np.zeros((n, 1)),
        observed=np.zeros((n, 1)),
        segment=np.zeros(n, np.int64),
        train_rows=train_rows,
    )
    head = frame.head(rows)
    assert len(head) == min(rows, n)
    assert head.train_rows == min(train_rows, rows)
    assert head.test_rows == len(head) - head.train_rows
    assert len(frame.train()) == train_rows and frame.train().test_rows == 0
