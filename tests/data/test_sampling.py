from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flts_ray.config import SamplingSettings
from flts_ray.data.sampling import sample, sampling_evidence
from tests.data.reports import raw_frame

pytestmark = pytest.mark.unit

strategies = st.sampled_from(["head", "tail", "random"])


@given(st.integers(1, 60), st.integers(0, 80), strategies, st.integers(0, 1000))
def test_rows_are_exact_contiguous_and_in_time_order(n: int, requested: int, strategy: str, seed: int) -> None:
    frame = raw_frame(np.arange(n))
    kept, evidence = sample(frame, requested, SamplingSettings(strategy=strategy, seed=seed))
    expected = min(requested, n) if requested else n
    assert len(kept) == expected == evidence.kept_rows
    first = evidence.first_row
    assert kept.values[:, 0].tolist() == list(range(first, first + expected))
    assert kept.time.tolist() == frame.time[first : first + expected].tolist()
    assert (evidence.source_rows, evidence.requested, evidence.strategy, evidence.seed) == (
        n,
        requested,
        strategy,
        seed,
    )
    assert evidence.sampled == (expected < n)


@given(st.integers(1, 60), st.integers(1, 60))
def test_head_starts_at_the_first_row_and_tail_ends_at_the_last(n: int, requested: int) -> None:
    head = sampling_evidence(n, requested, SamplingSettings(strategy="head"))
    tail = sampling_evidence(n, requested, SamplingSettings(strategy="tail"))
    assert head.first_row == 0
    assert tail.first_row + tail.kept_rows == n


def test_the_random_block_follows_the_seed() -> None:
    starts = [sampling_evidence(1000, 10, SamplingSettings(strategy="random", seed=s)).first_row for s in range(20)]
    again = [sampling_evidence(1000, 10, SamplingSettings(strategy="random", seed=s)).first_row for s in range(20)]
    assert starts == again
    assert len(set(starts)) > 10
    assert max(starts) <= 990
