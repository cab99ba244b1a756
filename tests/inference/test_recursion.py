"""Steps beyond the trained ones are what forecasting again from one's own forecasts gives."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from flts_ray.data.frame import RawFrame
from flts_ray.errors import DeadlineError
from flts_ray.inference.engine import Engine
from flts_ray.inference.queries import Forecast, Query
from flts_ray.inference.recursion import extend, growth
from tests.inference.bundles import CLASSIC, COLUMNS, STEP, STEP_S, make_bundle, part, station_rows

pytestmark = pytest.mark.unit


def query(history: RawFrame, horizon: int) -> Query:
    return Query(history=history, horizon=horizon, levels=(0.5, 0.9), adapt_rows=5)


def answer(engine: Engine, asked: Query) -> Forecast:
    (made,) = engine.forecast([asked])
    assert isinstance(made, Forecast), made
    return made


@pytest.mark.parametrize("sections", [{}, CLASSIC])
@pytest.mark.parametrize("horizon", [1, 3])
def test_each_block_of_steps_is_the_bundles_forecast_of_what_was_forecast_before(sections, horizon):
    made = make_bundle(horizon=horizon, target="level", **sections)
    raw = part(made.raws["north"], slice(0, 450))
    found = answer(Engine(made.bundle, runtime="torch"), query(raw, 8))
    history, wanted = raw, []
    while len(wanted) < 8:
        block = made.bundle.forecast(history)
        rows = np.tile(history.values[-1], (horizon, 1))
        rows[:, 0] = block.values[:, 0]
        history = replace(
            history, time=np.concatenate([history.time, block.time]), values=np.concatenate([history.values, rows])
        )
        wanted += block.values[:, 0].tolist()
    np.testing.assert_allclose(found.values[:, 0], wanted[:8], rtol=1e-6)
    assert found.direct_steps == horizon
    np.testing.assert_array_equal(np.diff(found.time), np.full(7, STEP))
    assert found.time[0] == raw.time[-1] + STEP


def test_a_batch_of_different_horizons_gives_each_its_own():
    made = make_bundle(horizon=2)
    engine = Engine(made.bundle)
    asked = [
        query(part(made.raws["north"], slice(start, stop)), horizon)
        for start, stop, horizon in ((0, 300, 1), (0, 300, 7), (5, 305, 12), (100, 130, 5), (0, 410, 2))
    ]
    for one, found in zip(asked, engine.forecast(asked), strict=True):
        assert isinstance(found, Forecast)
        np.testing.assert_allclose(found.values, answer(engine, one).values, rtol=1e-6)
        assert found.values.shape == (one.horizon, 1)
        assert ("recursive" in [notice.code for notice in found.notices]) == (one.horizon > 2)


def test_intervals_grow_from_the_last_calibrated_step_on():
    made = make_bundle(horizon=3, kind="ridge")
    engine = Engine(made.bundle)
    history = part(made.raws["north"], slice(0, 450))
    direct, longer = answer(engine, query(history, 3)), answer(engine, query(history, 30))
    np.testing.assert_array_equal(longer.lower[:, :3], direct.lower)
    np.testing.assert_array_equal(longer.upper[:, :3], direct.upper)
    offset = made.bundle.manifest.intervals["north"]["cells"][0]["offset"]
    # On the square-root scale the radius does not depend on the level of the forecast.
    radius = np.sqrt((longer.upper[1, :, 0] + offset) / (longer.values[:, 0] + offset)) - 1
    np.testing.assert_allclose(radius[3:] / radius[2], [growth(step, 3) for step in range(4, 31)])
    assert growth(4, 3) > 1.0
    assert growth(30, 3) > growth(4, 3)
    assert (longer.upper[1] > longer.upper[0]).all()


def test_a_deadline_that_passed_stops_long_forecasts_only():
    made = make_bundle()
    history = part(made.raws["north"], slice(0, 450))
    short, long = Engine(made.bundle).forecast(
        [query(history, 1), query(history, 700)], deadline=time.monotonic() - 1.0
    )
    assert isinstance(short, Forecast)
    assert isinstance(long, DeadlineError)


def test_a_history_is_extended_by_what_was_forecast_and_kept_short():
    raw = station_rows(rows=20, missing=0.0)
    longer = extend(raw, np.array([[1.0], [2.0]]), ("down",), step_s=STEP_S, keep_rows=5)
    np.testing.assert_array_equal(longer.time, raw.time[-1] + STEP * np.arange(-2, 3))
    np.testing.assert_array_equal(longer.values[:3], raw.values[-3:])
    np.testing.assert_array_equal(longer.column("down")[3:], [1.0, 2.0])
    for name in COLUMNS[1:]:
        np.testing.assert_array_equal(longer.column(name)[3:], raw.column(name)[-1:].repeat(2))
    assert len(raw) == 20


def test_rows_that_are_dropped_have_no_say():
    made = make_bundle()
    engine = Engine(made.bundle)
    long = part(made.raws["north"], slice(0, 450))
    short = part(long, slice(450 - made.bundle.context_rows - 5, 450))
    np.testing.assert_allclose(
        answer(engine, query(short, 40)).values, answer(engine, query(long, 40)).values, rtol=1e-5
    )
