"""The table of a backtest: sums that can be pooled, rows that say what is missing, and what people see of it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flts_ray.data.frame import FloatArray
from flts_ray.evaluation.backtest_plots import backtest_figure
from flts_ray.evaluation.backtest_table import BacktestResult, Cell, ErrorSums, assemble
from flts_ray.evaluation.backtest_view import (
    backtest_metrics,
    backtest_notes,
    backtest_section,
    backtest_tables,
    terminal_tables,
)
from flts_ray.evaluation.metrics import Residuals, point_scores
from flts_ray.evaluation.report_sections import cell_text
from flts_ray.evaluation.rolling_origin import contenders, plan
from tests.stages import Bench, make_bench

pytestmark = pytest.mark.unit

MODELS = ("gru", "persistence", "ridge")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    backtest = {"windows": 2, "test_rows": 40, "models": ("gru", "ridge")}
    return make_bench(tmp_path_factory.mktemp("table"), ("alpha", "beta"), backtest=backtest)


def errors(seed: int, scale: float) -> FloatArray:
    return np.random.default_rng(seed).normal(scale=scale, size=(30, 1, 1))


def sums(error: FloatArray, unit: float = 1.0) -> ErrorSums:
    return ErrorSums.of(error, np.isfinite(error), np.array([unit]))


def cells(**changes: Cell) -> dict[tuple[str, int], Cell]:
    """Errors of every model in both windows; gru errs least. A change is named ``<model>_<window>``."""
    found = {}
    for i, (model, scale) in enumerate({"gru": 1.0, "ridge": 2.0, "persistence": 4.0}.items()):
        for window in (1, 2):
            own = {s: sums(errors(100 * i + 10 * window + k, scale)) for k, s in enumerate(("alpha", "beta"))}
            found[model, window] = changes.get(f"{model}_{window}", Cell(sums=own, fit_s=1.5))
    return found


def table(bench: Bench, **changes: Cell) -> BacktestResult:
    planned, models = plan(bench.dataset, bench.settings), contenders(bench.settings)
    return assemble(bench.dataset, bench.settings, planned, models, cells(**changes))


def test_sums_give_what_the_leaderboard_would_of_all_points_together() -> None:
    parts = [errors(1, 3.0), errors(2, 5.0)]
    parts[0][4] = np.nan  # not observed
    units = (2.0, 10.0)
    total = sums(parts[0], units[0]) + sums(parts[1], units[1])
    expected = point_scores(
        Residuals.pool(
            [
                Residuals.of(np.zeros(int(np.isfinite(p).sum())), p[np.isfinite(p)], unit=u, naive=1.0)
                for p, u in zip(parts, units, strict=True)
            ]
        )
    )
    assert total.n == expected.n == 59
    assert math.sqrt(total.square_bits / total.n) == pytest.approx(expected.rmse_bits)
    assert total.abs_bits / total.n == pytest.approx(expected.mae_bits)
    assert total.square_scaled / total.n == pytest.approx(expected.mse_scaled)
    assert total.abs_scaled / total.n == pytest.approx(expected.mae_scaled)


def test_all_windows_and_series_together_come_first_and_the_best_model_first_of_all(bench: Bench) -> None:
    result = table(bench)
    assert result.models == ("gru", "ridge", "persistence")
    assert result.series == ("alpha", "beta")
    assert [(r.window, r.series) for r in result.rows[::3]] == [
        (w, s) for w in (0, 1, 2) for s in ("*", "alpha", "beta")
    ]
    row = result.row("gru")
    assert row is not None
    assert (row.n, row.fit_s) == (120, 3.0)
    every = [e for (model, _), cell in cells().items() if model == "gru" for e in cell.sums.values()]
    assert row.rmse_scaled == pytest.approx(math.sqrt(sum(e.square_scaled for e in every) / 120))
    reference = result.row("persistence")
    assert reference is not None
    assert reference.rmse_scaled is not None
    assert row.rmse_scaled is not None
    assert row.skill_vs_persistence == pytest.approx(1 - row.rmse_scaled / reference.rmse_scaled)
    assert reference.skill_vs_persistence == 0.0
    assert result.complete


def test_a_model_that_failed_in_one_window_has_no_score_over_all_of_them(bench: Bench) -> None:
    result = table(bench, gru_2=Cell(sums={}, failure="TooFewRowsError: too short"))
    assert not result.complete
    overall, first, second = (result.row("gru", window=w) for w in (0, 1, 2))
    assert overall is not None
    assert (overall.rmse_scaled, overall.note) == (None, "TooFewRowsError: too short")
    assert second is not None
    assert second.n == 0
    assert first is not None
    assert first.rmse_scaled is not None
    assert result.models[-1] == "gru"
    assert "gru has no score in window 2: TooFewRowsError: too short." in backtest_notes(result)
    assert backtest_metrics(result, "gru") == {}


def test_a_model_that_lacks_a_station_has_scores_on_the_others_only(bench: Bench) -> None:
    result = table(bench, gru_1=Cell(sums={"alpha": sums(errors(1, 1.0))}, missing={"beta": "Stan said no"}))
    notes = {(r.window, r.series): r.note for r in result.rows if r.model == "gru" and r.composite is None}
    assert notes == {(w, s): "Stan said no" for w in (0, 1) for s in ("*", "beta")}
    assert not result.complete


def test_a_forecast_that_is_no_number_is_said_and_nothing_is_nan(bench: Bench) -> None:
    broken = Cell(sums={"alpha": sums(errors(1, 1.0)), "beta": ErrorSums(30, math.inf, math.nan, 1.0, 1.0)})
    result = table(bench, ridge_1=broken)
    overall, alpha = result.row("ridge"), result.row("ridge", series="alpha")
    assert overall is not None
    assert (overall.composite, overall.note) == (None, "non-finite forecasts")
    assert alpha is not None
    assert alpha.composite is not None
    assert "NaN" not in result.model_dump_json()
    assert result.complete  # it was fitted and scored: doing it again would give the same


def test_without_persistence_there_is_no_skill(bench: Bench) -> None:
    failed = Cell(sums={}, failure="ClusterError: gone")
    result = table(bench, persistence_1=failed, persistence_2=failed)
    row = result.row("gru")
    assert row is not None
    assert row.rmse_scaled is not None
    assert row.skill_vs_persistence is None


def test_the_table_survives_json(bench: Bench) -> None:
    result = table(bench)
    assert BacktestResult.model_validate_json(result.model_dump_json()) == result


def test_a_tracker_gets_what_holds_over_all_windows_and_the_worst_skill(bench: Bench) -> None:
    result = table(bench)
    found = backtest_metrics(result, "gru")
    rows = [result.row("gru", window=w) for w in (1, 2)]
    assert found["backtest_worst_skill"] == min(r.skill_vs_persistence for r in rows if r and r.skill_vs_persistence)
    assert found["backtest_rmse_scaled"] == getattr(result.row("gru"), "rmse_scaled", None)
    assert backtest_metrics(result, "prophet") == {}


def test_people_see_models_by_window_and_series_by_candidate(bench: Bench) -> None:
    result = table(bench)
    models, series = backtest_tables(result)
    assert models.head[-3:] == ("skill in 1", "skill in 2", "fit")
    assert [row[0] for row in models.rows] == ["gru", "ridge", "persistence"]
    assert models.best == {0}
    assert series.head == ("station", "gru")
    skills = [getattr(result.row("gru", series=str(row[0])), "skill_vs_persistence", None) for row in series.rows]
    assert skills == sorted(skills)
    assert [cell_text(row[1]) for row in series.rows] == [f"{skill:+.1%}" for skill in skills]
    assert [drawn.row_count for drawn in terminal_tables(result)] == [3, 2]
    assert backtest_notes(result) == (
        "Windows: 1: 2018-02-06 02:40 to 2018-02-06 09:10, after 320 rows; "
        "2: 2018-02-06 09:20 to 2018-02-06 15:50, after 400 rows.",
    )


def test_the_section_of_the_report_draws_error_and_skill(bench: Bench) -> None:
    section = backtest_section(table(bench))
    assert section.text.startswith("2 window(s) of 40 rows at the end of each station's train rows.")
    assert "skill over repeating the last" in section.figures[0].svg


def test_a_baseline_worse_than_the_last_value_is_not_drawn(bench: Bench) -> None:
    worse = Cell(sums={s: sums(errors(7, 50.0)) for s in ("alpha", "beta")})

    def drawn(result: BacktestResult) -> list[list[str]]:
        return [[str(line.get_label()) for line in ax.lines] for ax in backtest_figure(result).axes]

    assert drawn(table(bench))[0] == ["persistence", "ridge", "gru"]
    assert drawn(table(bench, ridge_1=worse, ridge_2=worse))[0] == ["persistence", "gru"]
