"""Histories computed together are what the transform gives for each alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flts_ray.config import Settings
from flts_ray.data.frame import RawFrame
from flts_ray.data.transform import Transform
from flts_ray.inference.stacking import stack
from tests.inference.bundles import CLASSIC, COLUMNS, STEP_S, part, station_rows

pytestmark = pytest.mark.unit

RAW = station_rows(missing=0.1)
RECIPES = {
    "default": {"features": {"ema_spans": (3, 6), "rolling_std": (5, 20)}},
    "classic": CLASSIC,
    "clipped": {"cleaning": {"missing": "ffill", "clip": "iqr"}, "features": {"calendar": "none", "profile": False}},
    "lags": {
        "features": {"ema_spans": (), "rolling_std": (), "lags": 3, "lag_step": 7},
        "scaling": {"scaler": "robust"},
    },
    "two targets": {"data": {"targets": ("up", "down")}, "features": {"ema_spans": (4,), "rolling_std": (3,)}},
}
TRANSFORMS = {
    name: Transform.fit(
        RAW,
        Settings.model_validate(
            {**sections, "data": {"columns": COLUMNS, "targets": ("down",)} | sections.get("data", {})}
        ),
        STEP_S,
    )
    for name, sections in RECIPES.items()
}


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[RawFrame, int]]:
    """A few histories, some of one length, some with gaps, each with the rows wanted of it."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        length = draw(st.sampled_from([1, 2, 30, 200]))
        start = draw(st.integers(0, len(RAW) - length))
        kept = np.ones(length, dtype=bool)
        for place in draw(st.lists(st.integers(0, length - 1), max_size=3)):
            kept[place] = length == 1
        history = part(RAW, start + np.flatnonzero(kept)) if kept.any() else part(RAW, np.arange(start, start + 1))
        found.append((history, draw(st.integers(1, min(40, len(history))))))
    return found


@pytest.mark.parametrize("recipe", RECIPES)
@given(given_histories=histories())
@hypothesis_settings(max_examples=40, deadline=None)
def test_a_stack_holds_the_transforms_latest_rows_of_each(
    recipe: str, given_histories: list[tuple[RawFrame, int]]
) -> None:
    transform = TRANSFORMS[recipe]
    frames, rows = zip(*given_histories, strict=True)
    stacked = stack(transform, "north", frames, rows)
    assert stacked.starts.tolist() == [0, *np.cumsum(rows)]
    assert (np.diff(stacked.frame.segment) >= 0).all()
    for i, (history, kept) in enumerate(given_histories):
        own = slice(stacked.starts[i], stacked.starts[i + 1])
        wanted = transform.apply(history, train_rows=0)
        np.testing.assert_allclose(stacked.frame.features[own], wanted.features[-kept:], rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(stacked.frame.targets[own], wanted.targets[-kept:])
        np.testing.assert_array_equal(stacked.frame.observed[own], wanted.observed[-kept:])
        np.testing.assert_array_equal(stacked.frame.time[own], history.time[-kept:])
        np.testing.assert_array_equal(np.diff(stacked.frame.segment[own]) > 0, np.diff(wanted.segment[-kept:]) > 0)
        if i:
            assert stacked.frame.segment[own][0] > stacked.frame.segment[own.start - 1]
