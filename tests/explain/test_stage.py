"""What a run's candidates look at, from their saved form to the report."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flts_ray.candidates import FitSummary, FittedCandidate, candidate_id
from flts_ray.evaluation.report import render_report
from flts_ray.evaluation.stage import Evaluated, evaluate
from flts_ray.explain.document import Explanations
from flts_ray.explain.section import explain_sections
from flts_ray.explain.stage import explain
from flts_ray.models.recurrent import GRUForecaster
from flts_ray.training.prophet_tasks import fit_prophet_local
from flts_ray.training.stage import bundle_of
from tests.evaluation.test_report import Page, report
from tests.stages import Bench, make_bench

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(
        tmp_path_factory.mktemp("explain"), ("alpha", "beta"), candidates=("gru", "prophet"), explain={"windows": 100}
    )


@pytest.fixture(scope="module")
def fitted(bench: Bench) -> FittedCandidate:
    return bench.fit()


@pytest.fixture(scope="module")
def prophet(bench: Bench) -> FittedCandidate:
    data, settings = bench.dataset, bench.settings
    scalers = {series: transform.target_scalers for series, transform in data.transforms.items()}
    model = fit_prophet_local(data.frames, scalers, settings, step_s=data.step_s).forecaster
    name = candidate_id("prophet", data.dataset_id, settings)
    summary = FitSummary(kind="prophet", candidate_id=name, fit_s=1.0)
    return bench.candidates.save(bundle_of(model, name, data, settings), summary)


@pytest.fixture(scope="module")
def evaluated(bench: Bench, fitted: FittedCandidate, prophet: FittedCandidate) -> Evaluated:
    return evaluate(bench.dataset, {"gru": fitted, "prophet": prophet}, {}, bench.settings)


@pytest.fixture(scope="module")
def found(bench: Bench, fitted: FittedCandidate, evaluated: Evaluated) -> Explanations:
    return explain(bench.dataset, {"gru": fitted}, evaluated, bench.settings)


def test_candidates_and_ridge_are_explained_on_the_same_windows(found: Explanations) -> None:
    assert [one.model for one in found.importances] == ["gru", "ridge"]
    assert {one.windows for one in found.importances} == {100}
    assert (found.windows, found.stations, found.failures) == ({"alpha": 50, "beta": 50}, 2, {})
    assert [len(one.by_lag) for one in found.importances] == [4, 4]
    assert {"down, moving averages"} == set(found.importances[0].by_feature) - set(found.importances[1].by_feature)
    assert [(one.model, one.target) for one in found.attributions] == [("gru", "down")]
    assert np.array(found.attributions[0].size).shape == (4, len(found.attributions[0].features))
    assert found.attributions[0].completeness_error < 0.01


def test_the_error_is_that_of_the_leaderboard_where_all_windows_are_looked_at(
    bench: Bench, fitted: FittedCandidate, evaluated: Evaluated
) -> None:
    settings = bench.with_settings(explain={"windows": 10_000, "repeats": 1, "steps": 8})
    whole = explain(bench.dataset, {"gru": fitted}, evaluated, settings)
    for one in whole.importances:
        row = evaluated.leaderboard.overall(one.model)
        assert row is not None
        assert one.rmse_bits == pytest.approx(row.rmse_bits, rel=1e-9)


def test_the_stations_follow_a_map_of_their_own_last_value(found: Explanations) -> None:
    """The next value of these stations is a tent of the last one: nothing but the row forecast from says anything."""
    (gru, _) = found.importances
    assert gru.by_lag[0].bits > 5 * max(abs(grown.bits) for grown in gru.by_lag[1:])
    assert set(gru.by_series) == {"alpha", "beta"}


def test_the_same_run_gives_the_same_document(
    bench: Bench, fitted: FittedCandidate, evaluated: Evaluated, found: Explanations
) -> None:
    again = explain(bench.dataset, {"gru": fitted}, evaluated, bench.settings)
    assert again == found
    assert Explanations.model_validate_json(found.model_dump_json()) == found


def test_a_candidate_that_cannot_be_explained_leaves_the_others(
    bench: Bench, fitted: FittedCandidate, evaluated: Evaluated
) -> None:
    whole = fitted.bundle.forecaster
    assert isinstance(whole, GRUForecaster)
    forgetful = GRUForecaster(whole.net, {"beta": whole.scalers["beta"]})
    broken = replace(fitted, bundle=replace(fitted.bundle, forecaster=forgetful))
    entries = {**evaluated.entries, "tuned": evaluated.entries["gru"]}
    both = explain(bench.dataset, {"tuned": broken, "gru": fitted}, replace(evaluated, entries=entries), bench.settings)
    assert [one.model for one in both.importances] == ["gru", "ridge"]
    assert "series 'alpha' is unknown" in both.failures["tuned"]
    assert "tuned could not be explained" in Page(render_report(report(sections=explain_sections(both)))).text


def test_a_station_that_a_model_was_not_scored_on_is_left_out_for_that_model(
    bench: Bench, fitted: FittedCandidate, evaluated: Evaluated
) -> None:
    ridge = replace(evaluated.entries["ridge"], backtests={"beta": evaluated.entries["ridge"].backtests["beta"]})
    partly = replace(evaluated, entries={**evaluated.entries, "ridge": ridge})
    found = explain(bench.dataset, {"gru": fitted}, partly, bench.settings)
    assert {one.model: one.windows for one in found.importances} == {"gru": 100, "ridge": 50}


def test_a_candidate_without_scores_is_not_explained(
    bench: Bench, fitted: FittedCandidate, evaluated: Evaluated
) -> None:
    entries = {**evaluated.entries, "gru": replace(evaluated.entries["gru"], backtests={})}
    none = explain(bench.dataset, {"gru": fitted}, replace(evaluated, entries=entries), bench.settings)
    assert none.importances == ()
    assert explain_sections(none) == ()


def test_prophet_is_taken_apart_by_station(bench: Bench, prophet: FittedCandidate, evaluated: Evaluated) -> None:
    only = explain(bench.dataset, {"prophet": prophet}, evaluated, bench.settings)
    assert [(one.series, one.target) for one in only.prophet] == [("alpha", "down"), ("beta", "down")]
    assert (only.importances, only.attributions) == ((), ())
    (section,) = explain_sections(only)
    assert section.title == "Parts of Prophet"
    assert "Autoregression on the rest" in [picture.title for picture in section.figures]


def test_the_report_shows_it(found: Explanations) -> None:
    text = Page(render_report(report(sections=explain_sections(found)))).text
    for expected in ("What the models look at", "100 test windows", "down, moving averages", "last value", "alpha"):
        assert expected in text, expected
    assert "Integrated gradients" in text
    assert "Parts of Prophet" not in text
