"""``promotion.require_backtest``: a winner must beat persistence in the backtest too."""

from __future__ import annotations

import pytest

from flts_ray.config import PromotionSettings
from flts_ray.evaluation.backtest_table import BacktestResult, BacktestRow, BacktestWindow
from flts_ray.evaluation.leaderboard import Leaderboard, Protocol, Row
from flts_ray.evaluation.promotion import CandidateCheck, Verdict, decide

pytestmark = pytest.mark.unit

CANDIDATES = {"gru": 0.0345, "lstm": 0.0350}
BASELINES = {"persistence": 0.040, "ridge": 0.036}


def board(*series: str) -> Leaderboard:
    rows = [
        Row(series=name, target="down", model=model, role=role, n=100, rmse_scaled=rmse, composite=rmse)  # type: ignore[arg-type]
        for name in ("*", *series)
        for role, models in (("baseline", BASELINES), ("candidate", CANDIDATES))
        for model, rmse in models.items()
    ]
    origins = dict.fromkeys(series, 100)
    protocol = Protocol(
        description="", horizon=1, target_unit="bits", targets=("down",), coverage=0.9,
        origins=origins, scored_from={}, scored_to={},
    )  # fmt: skip
    return Leaderboard(protocol=protocol, rows=tuple(rows))


def backtest(series: str = "*", left_out: dict[str, str] | None = None, **rmse: float | None) -> BacktestResult:
    """Rows over all windows; None for a model that failed."""
    rows = tuple(
        BacktestRow(window=0, series=series, model=model, role="candidate", n=0, note="StalledError: it hung")
        if value is None
        else BacktestRow(window=0, series=series, model=model, role="candidate", n=100, rmse_scaled=value)
        for model, value in rmse.items()
    )
    window = BacktestWindow(number=1, learn_rows=1, scored_from="", scored_to="")
    return BacktestResult(
        backtest_id="", dataset_id="", description="", target_unit="bits", windows=(window,) * 3,
        left_out=left_out or {}, rows=rows,
    )  # fmt: skip


def judge(found: BacktestResult | None, *series: str, required: bool = True) -> Verdict:
    return decide(
        board(*(series or ("a", "b"))),
        {name: CandidateCheck(candidate_id=name) for name in CANDIDATES},
        PromotionSettings(require_backtest=required),
        expected=tuple(CANDIDATES),
        backtest=found,
    )


def test_a_winner_that_beats_persistence_in_the_backtest_is_promoted() -> None:
    assert judge(backtest(gru=0.03, lstm=0.03, persistence=0.04)).champion == "gru"


def test_one_that_does_not_leaves_its_place_to_the_next() -> None:
    verdict = judge(backtest(gru=0.0400001, lstm=0.039, persistence=0.04))
    assert (verdict.state, verdict.champion) == ("promoted", "lstm")
    assert "gru does not beat persistence in the backtest (3 window(s)): scaled RMSE 0.04000 against 0.04000." in (
        verdict.reasons
    )


def test_nobody_wins_without_a_backtest_that_was_asked_for() -> None:
    verdict = judge(None)
    assert verdict.state == "no_winner"
    assert "promotion.require_backtest asks for a backtest of gru, and there is none." in verdict.reasons


def test_one_that_failed_in_it_or_was_not_in_it_cannot_win() -> None:
    verdict = judge(backtest(gru=None, persistence=0.04))
    assert verdict.state == "no_winner"
    assert "gru cannot be compared with persistence in the backtest: StalledError: it hung." in verdict.reasons
    assert (
        "lstm cannot be compared with persistence in the backtest: it was not among backtest.models." in verdict.reasons
    )


def test_a_verdict_on_one_series_looks_at_that_series() -> None:
    assert judge(backtest("a", gru=0.03, persistence=0.04), "a").champion == "gru"
    verdict = judge(backtest("a", left_out={"b": "it has 7 train rows"}, gru=0.03, lstm=0.03, persistence=0.04), "b")
    assert verdict.state == "no_winner"
    assert "gru cannot be compared with persistence in the backtest of b: it has 7 train rows." in verdict.reasons


def test_nothing_is_asked_of_anyone_unless_it_is_set() -> None:
    assert judge(backtest(gru=0.05, lstm=0.05, persistence=0.04), required=False).champion == "gru"
