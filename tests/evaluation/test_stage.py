"""Everything is scored as it was saved, on the same rows; what cannot be scored says why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flts_ray.candidates import FittedCandidate
from flts_ray.errors import DataError
from flts_ray.evaluation.stage import Evaluated, evaluate, fit_baselines
from flts_ray.models.bundle import WEIGHTS_FILE
from tests.stages import Bench, make_bench

pytestmark = pytest.mark.unit

BASELINES = {"persistence", "moving_average", "seasonal_naive", "ridge"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(
        tmp_path_factory.mktemp("evaluation"),
        ("alpha", "beta"),
        data={"targets": ("down", "up")},
        candidates=("gru", "lstm"),
    )


@pytest.fixture(scope="module")
def fitted(bench: Bench) -> FittedCandidate:
    return bench.fit()


@pytest.fixture(scope="module")
def evaluated(bench: Bench, fitted: FittedCandidate) -> Evaluated:
    return evaluate(bench.dataset, {"gru": fitted}, {"lstm": "the loss is not finite"}, bench.settings)


def test_every_model_is_scored_on_the_same_rows(evaluated: Evaluated) -> None:
    board = evaluated.leaderboard
    for series in ("alpha", "beta"):
        for target in ("down", "up"):
            rows = {m: board.row(m, series=series, target=target) for m in ("gru", *BASELINES)}
            assert {row.n for row in rows.values() if row is not None} == {60}
            assert None not in rows.values()
    assert set(evaluated.origins) == {"alpha", "beta"}
    for entry in evaluated.entries.values():
        for series, test in entry.backtests.items():
            np.testing.assert_array_equal(test.origins, evaluated.origins[series])


def test_a_candidate_without_a_fit_is_listed_with_its_reason(evaluated: Evaluated) -> None:
    row = evaluated.leaderboard.overall("lstm")
    assert row is not None
    assert (row.n, row.note) == (0, "the loss is not finite")
    assert set(evaluated.checks) == {"gru"}
    assert evaluated.checks["gru"].loadable


def test_what_is_scored_is_what_lies_on_disk(bench: Bench, fitted: FittedCandidate) -> None:
    path = fitted.folder / WEIGHTS_FILE
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    try:
        found = evaluate(bench.dataset, {"gru": fitted}, {}, bench.settings)
    finally:
        path.write_bytes(whole)
    assert not found.checks["gru"].loadable
    assert found.checks["gru"].reason
    row = found.leaderboard.overall("gru")
    assert row is not None
    assert (row.n, row.note) == (0, found.checks["gru"].reason)
    assert {m for m in BASELINES if found.leaderboard.overall(m) is not None} == BASELINES


def test_baselines_need_no_candidate(bench: Bench) -> None:
    found = evaluate(bench.dataset, {}, {}, bench.settings)
    assert set(fit_baselines(bench.dataset, bench.settings)) == BASELINES
    rows = [found.leaderboard.overall(name) for name in BASELINES]
    assert all(row is not None and row.n > 0 and row.composite is not None for row in rows)


def test_a_baseline_that_asks_for_more_history_than_there_is_does_not_shorten_the_test(bench: Bench) -> None:
    settings = bench.with_settings(baselines={"season_s": 10 * 86_400})
    found = evaluate(bench.dataset, {}, {}, settings)
    seasonal, persistence = (found.leaderboard.overall(name) for name in ("seasonal_naive", "persistence"))
    assert seasonal is not None
    assert persistence is not None
    assert (seasonal.rmse_bits, seasonal.composite) == (None, None)
    assert seasonal.note
    assert persistence.n == 4 * 60
    assert persistence.composite is not None


def test_ridge_takes_part_wherever_the_candidates_do(tmp_path: Path) -> None:
    """Also where the test rows do not follow the train rows at once, and the first ones have too little history."""
    bench = make_bench(tmp_path, gap=5, windows={"lookback": 10})
    board = evaluate(bench.dataset, {"gru": bench.fit()}, {}, bench.settings).leaderboard
    rows = {name: board.overall(name) for name in ("gru", "ridge", "persistence")}
    assert {name: (row.n, row.note) for name, row in rows.items() if row is not None} == dict.fromkeys(rows, (50, ""))


def test_no_row_to_forecast_is_an_error_that_says_how_much_is_needed(tmp_path_factory: pytest.TempPathFactory) -> None:
    bench = make_bench(tmp_path_factory.mktemp("short"))
    frame = bench.dataset.frames[0]
    scattered = replace(frame, segment=np.arange(len(frame), dtype=np.int64))
    with pytest.raises(DataError, match="no test row can be forecast"):
        evaluate(replace(bench.dataset, frames=(scattered,)), {}, {}, bench.settings)
