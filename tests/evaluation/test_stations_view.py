"""Many stations at a glance: the worst first, and only so many."""

from __future__ import annotations

import pytest

from flts_ray.evaluation import stations_view
from flts_ray.evaluation.leaderboard import Leaderboard
from flts_ray.evaluation.promotion import Verdict
from flts_ray.evaluation.promotion_by_series import together
from flts_ray.evaluation.stations_view import shown_in_terminal, stations_section, worst_first
from flts_ray.results import leaderboard_rows
from tests.evaluation.test_promotion import make_board

pytestmark = pytest.mark.unit


@pytest.fixture
def board() -> Leaderboard:
    """Station b is the worse one, and prophet has no result there."""
    made = make_board(
        {"gru": 0.03, "prophet": 0.05}, per_series={("gru", "b", "down"): 0.039, ("prophet", "b", "down"): None}
    )
    rows = tuple(
        row if row.rmse_scaled is None else row.model_copy(update={"skill_vs_persistence": 1 - row.rmse_scaled / 0.04})
        for row in made.rows
    )
    return made.model_copy(update={"rows": rows})


def test_the_worst_station_comes_first_with_its_best_candidate_and_who_is_missing(board: Leaderboard) -> None:
    worst, other = worst_first(board)
    assert (worst.series, worst.model, worst.skill) == ("b", "gru", pytest.approx(0.025))
    assert worst.without == {"prophet": "needs 720 rows of history"}
    assert (other.series, other.without) == ("a", {})


def test_the_report_shows_verdicts_reasons_and_only_so_many(
    board: Leaderboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stations_view, "IN_REPORT", 1)
    own = {name: Verdict(state="kept", exit_code=0, champion="gru") for name in ("a", "b")}
    section = stations_section(board, together(own))
    (table,) = section.tables
    assert [(row[0], row[1], row[5]) for row in table.rows] == [("b", "gru", "kept")]
    assert section.notes == (
        "prophet has no result for b: needs 720 rows of history",
        "The 1 stations that gain more are on the leaderboard in leaderboard.json.",
    )


def test_the_terminal_gets_the_pooled_board_and_the_worst(board: Leaderboard, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = leaderboard_rows(board)
    assert shown_in_terminal(rows) == (["*", "b", "a"], 0)
    monkeypatch.setattr(stations_view, "IN_TERMINAL", 1)
    assert shown_in_terminal(rows) == (["*", "b"], 1)


def test_the_worst_state_decides_for_all_and_the_summary_names_it() -> None:
    fine = Verdict(state="promoted", exit_code=0, champion="gru", winner="gru", best="gru")
    poor = Verdict(state="no_winner", exit_code=30, best="lstm", reasons=("lstm does not beat ridge.",))
    summary = together({"a": fine, "b": poor, "c": fine})
    assert (summary.state, summary.exit_code, summary.champion) == ("no_winner", 30, None)
    assert (summary.winner, summary.best) == ("gru", "gru")
    assert summary.reasons == (
        "Decided for each of 3 series: 2 new champions, 0 kept, 1 without a winner.",
        "b (no winner): lstm does not beat ridge.",
    )
    assert Verdict.model_validate_json(summary.model_dump_json()) == summary
    assert together({"a": fine}).exit_code == 0
