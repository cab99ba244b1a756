"""Who is let in: a bounded number, and no more work than can be done in time."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from flts_ray.errors import BusyError
from serve.admission import Admission

pytestmark = pytest.mark.unit


def test_no_more_requests_than_allowed_are_in_progress() -> None:
    admission = Admission(2)
    with ExitStack() as inside:
        for _ in range(2):
            inside.enter_context(admission.admitted(1000, deadline_s=10))
        with pytest.raises(BusyError, match="2 requests"), admission.admitted(1000, deadline_s=10):
            pass
    assert admission.requests == 0
    with admission.admitted(1000, deadline_s=10):
        assert admission.requests == 1


def test_what_fails_leaves_too() -> None:
    admission = Admission(1)
    with pytest.raises(ValueError, match="boom"), admission.admitted(1000, deadline_s=10):
        raise ValueError("boom")
    assert (admission.requests, admission.ahead_s) == (0, 0.0)


def test_heavy_requests_fill_it_before_their_number_does() -> None:
    admission = Admission(1000)
    admission.read(length=100_000, queries=32, cpu_s=0.01)
    admission.computed(queries=32, cpu_s=0.99)  # a second for 100 kB
    with ExitStack() as inside:
        for _ in range(3):
            inside.enter_context(admission.admitted(100_000, deadline_s=10))
        assert admission.ahead_s == pytest.approx(3.0)
        with pytest.raises(BusyError), admission.admitted(100, deadline_s=10):
            pass
        with admission.admitted(100, deadline_s=60):
            assert admission.requests == 4


def test_before_anything_was_measured_everyone_is_let_in() -> None:
    admission = Admission(1000)
    with ExitStack() as inside:
        for _ in range(1000):
            inside.enter_context(admission.admitted(10**6, deadline_s=0.1))
        assert admission.requests == 1000


def test_costs_follow_what_is_measured() -> None:
    admission = Admission(10)
    for _ in range(200):
        admission.computed(queries=2, cpu_s=0.2)
        admission.read(length=1000, queries=1, cpu_s=0.001)
    with admission.admitted(10_000, deadline_s=10):
        assert admission.ahead_s == pytest.approx(10_000 * (1e-6 + 1e-3 * 0.1))
