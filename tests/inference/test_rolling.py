"""Forecasts from many origins are evaluation's, however the rows are cut into pieces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flts_ray.data.frame import FloatArray, IntArray, RawFrame
from flts_ray.errors import TooFewRowsError
from flts_ray.evaluation.backtest import backtest
from flts_ray.evaluation.intervals import SeriesStates, bands, unpack
from flts_ray.inference.engine import Engine
from flts_ray.inference.queries import Forecast, Query
from flts_ray.inference.rolling import roll
from flts_ray.models.bundle import Bundle
from tests.stages import Bench, make_bench

pytestmark = pytest.mark.unit

HORIZON = 3


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("bench"), windows={"lookback": 4, "horizon": HORIZON})


@pytest.fixture(scope="module")
def bundle(bench: Bench) -> Bundle:
    return bench.fit().bundle


def states_of(bundle: Bundle) -> SeriesStates:
    return unpack(bundle.manifest.intervals, bundle.interval_arrays)["alpha"]


def rolled(bundle: Bundle, raw: RawFrame, **options: int) -> tuple[IntArray, FloatArray, FloatArray, FloatArray, int]:
    """All chunks of one level, joined."""
    parts = list(roll(bundle, raw, states_of(bundle), (0.9,), **options))
    return (
        np.concatenate([part.origins for part in parts]),
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.lower[0] for part in parts]),
        np.concatenate([part.upper[0] for part in parts]),
        sum(part.skipped for part in parts),
    )


def without(raw: RawFrame, first: int, last: int) -> RawFrame:
    """The rows less those from ``first`` up to ``last``."""
    keep = np.r_[0:first, last : len(raw)]
    return replace(raw, time=raw.time[keep], values=raw.values[keep])


@pytest.mark.parametrize("chunk_rows", [7, 10_000])
def test_values_and_intervals_are_those_of_evaluation(bench: Bench, bundle: Bundle, chunk_rows: int) -> None:
    from flts_ray.data.windows import test_origins

    raw, frame = bench.dataset.raws[0], bench.dataset.frames[0]
    scored = backtest(frame, bundle.forecaster, test_origins(frame, bundle.manifest.lookback, HORIZON))
    lines = bands(scored.predictions, scored.observed, scored.origins, states_of(bundle))

    origins, values, lower, upper, skipped = rolled(bundle, raw, first_row=frame.train_rows, chunk_rows=chunk_rows)
    assert origins.tolist() == list(range(frame.train_rows - 1, len(raw))) and skipped == 0
    both = np.isin(scored.origins, origins)
    assert both.sum() == len(origins) - 1, "evaluation has no outcome for the last row"
    np.testing.assert_allclose(values[:-1], scored.predictions[both], rtol=1e-6)
    np.testing.assert_allclose(lower[:-1], lines.lower[both], rtol=1e-6)
    np.testing.assert_allclose(upper[:-1], lines.upper[both], rtol=1e-6)


def test_every_leaves_out_rows_and_changes_no_number(bench: Bench, bundle: Bundle) -> None:
    raw = bench.dataset.raws[0]
    origins, values, lower, upper, _ = rolled(bundle, raw)
    some = rolled(bundle, raw, every=7, chunk_rows=50)
    assert some[0].tolist() == list(range(3, len(raw), 7)) and some[4] == 0
    for sparse, all_rows in zip(some[1:4], (values, lower, upper), strict=True):
        np.testing.assert_allclose(sparse, all_rows[np.isin(origins, some[0])], rtol=1e-6)


def test_a_forecast_reads_nothing_after_its_origin(bench: Bench, bundle: Bundle) -> None:
    raw = bench.dataset.raws[0]
    origins, values, lower, upper, _ = rolled(bundle, raw)
    cut = 150
    spoiled = replace(raw, values=np.concatenate([raw.values[: cut + 1], 3 * raw.values[cut + 1 :]]))
    known = origins <= cut
    for other, own in zip(rolled(bundle, spoiled)[1:4], (values, lower, upper), strict=True):
        np.testing.assert_array_equal(other[known], own[known])
        assert not np.array_equal(other[~known], own[~known])


@pytest.mark.parametrize("chunk_rows", [11, 10_000])
def test_origins_whose_lookback_has_a_gap_are_skipped_and_counted(
    bench: Bench, bundle: Bundle, chunk_rows: int
) -> None:
    raw = without(bench.dataset.raws[0], 100, 110)
    origins, _, _, _, skipped = rolled(bundle, raw, chunk_rows=chunk_rows)
    assert sorted(set(range(3, len(raw))) - set(origins.tolist())) == [100, 101, 102]
    assert skipped == 3
    *_, skipped = rolled(bundle, raw, every=2, chunk_rows=chunk_rows)
    assert skipped == 1, "of 3, 5, 7, ... one row follows the gap too closely"


def test_other_levels_lie_inside_one_another_and_leave_the_calibrated_one_as_it_is(
    bench: Bench, bundle: Bundle
) -> None:
    raw = bench.dataset.raws[0]
    (part,) = roll(bundle, raw, states_of(bundle), (0.5, 0.9, 0.95))
    _, _, lower, upper, _ = rolled(bundle, raw)
    np.testing.assert_array_equal(part.lower[1], lower)
    np.testing.assert_array_equal(part.upper[1], upper)
    assert (np.diff(part.lower, axis=0) <= 0).all() and (np.diff(part.upper, axis=0) >= 0).all()
    assert ((part.upper - part.lower)[2] > (part.upper - part.lower)[0]).all()


def test_the_last_row_is_what_the_service_answers_when_it_adapts_by_all_rows(bench: Bench, bundle: Bundle) -> None:
    raw, levels = bench.dataset.raws[0], (0.5, 0.9)
    (part,) = roll(bundle, raw, states_of(bundle), levels)
    query = Query(history=raw, horizon=HORIZON, levels=levels, adapt_rows=len(raw) - bundle.manifest.lookback)
    (answer,) = Engine(bundle).forecast([query])
    assert isinstance(answer, Forecast)
    np.testing.assert_allclose(part.values[-1], answer.values, rtol=1e-5)
    np.testing.assert_allclose(part.lower[:, -1], answer.lower, rtol=1e-5)
    np.testing.assert_allclose(part.upper[:, -1], answer.upper, rtol=1e-5)


def test_fewer_rows_than_the_model_reads_are_refused(bench: Bench, bundle: Bundle) -> None:
    with pytest.raises(TooFewRowsError, match="has 3 rows, the model reads 4"):
        rolled(bundle, bench.dataset.raws[0].head(3))
