from __future__ import annotations

import pytest

from flts_ray.config import PromotionSettings
from flts_ray.evaluation.leaderboard import Leaderboard, Protocol, Row
from flts_ray.evaluation.promotion import EXIT_CODES, CandidateCheck, Incumbent, decide

pytestmark = pytest.mark.unit

SETTINGS = PromotionSettings()
BASELINES = {"persistence": 0.040, "moving_average": 0.045, "seasonal_naive": None, "ridge": 0.036}
GOOD = {"gru": 0.0345, "lstm": 0.0350}


def make_board(candidates, *, baselines=BASELINES, per_series=None, dm_p=0.001, targets=("down",)):
    """A board of two series; a value is the scaled RMSE, None an unscored model, NaN a non-finite one."""
    rows = []
    pools = [*targets, "*"] if len(targets) > 1 else list(targets)
    for series in ("*", "a", "b"):
        for target in pools:
            for role, models in (("baseline", baselines), ("candidate", candidates)):
                for model, value in models.items():
                    rmse = {(model, series, target): value, **(per_series or {})}[model, series, target]
                    common = {"series": series, "target": target, "model": model, "role": role}
                    if rmse is None:
                        rows.append(Row(**common, n=0, note="needs 720 rows of history"))
                    elif rmse != rmse:
                        rows.append(Row(**common, n=100, note="non-finite forecasts"))
                    else:
                        rows.append(Row(**common, n=100, rmse_scaled=rmse, composite=rmse, dm_p_vs_persistence=dm_p))
    protocol = Protocol(
        description="test",
        horizon=1,
        target_unit="bits",
        targets=targets,
        coverage=0.9,
        origins={"a": 100, "b": 100},
        scored_from={},
        scored_to={},
    )
    return Leaderboard(protocol=protocol, rows=tuple(rows))


def judge(candidates=GOOD, *, checks=None, settings=SETTINGS, expected=("gru", "lstm"), board=None, **extra):
    checks = checks or {m: CandidateCheck(candidate_id=f"id-{m}") for m in candidates}
    return decide(board or make_board(candidates), checks, settings, expected=expected, **extra)


def test_the_best_candidate_becomes_the_first_champion():
    verdict = judge()
    assert (verdict.state, verdict.exit_code) == ("promoted", 0)
    assert (verdict.champion, verdict.winner, verdict.best) == ("gru", "gru", "gru")
    text = " ".join(verdict.reasons)
    assert "gru beats ridge: scaled RMSE 0.03450 against 0.03600" in text
    assert "seasonal_naive was not scored: needs 720 rows of history" in text
    against = {(s.model, s.against): s for s in verdict.significance}
    assert against["gru", "persistence"].significant
    assert against["gru", "ridge"].p_value is None
    assert not against["gru", "ridge"].significant


def test_an_incumbent_must_be_beaten_strictly():
    better = judge(incumbent=Incumbent(candidate_id="old", model="lstm", composite=0.0346))
    assert (better.state, better.champion) == ("promoted", "gru")
    tie = judge(incumbent=Incumbent(candidate_id="old", model="lstm", composite=0.0345))
    assert (tie.state, tie.exit_code, tie.champion, tie.winner) == ("kept", 0, "lstm", "gru")
    assert "does not beat the champion" in tie.reasons[-1]


def test_the_same_artefact_is_kept():
    verdict = judge(incumbent=Incumbent(candidate_id="id-gru", model="gru", composite=0.0345))
    assert (verdict.state, verdict.champion) == ("kept", "gru")
    assert "same artefact" in verdict.reasons[-1]


def test_an_incumbent_that_cannot_be_scored_is_replaced_with_a_word():
    verdict = judge(incumbent=Incumbent(candidate_id="old", model="gru", reason="it has another horizon"))
    assert verdict.state == "promoted"
    assert "could not be scored on these rows: it has another horizon." in verdict.reasons[-1]


@pytest.mark.parametrize("rmse", [0.036, 0.038, 0.05])
def test_no_winner_unless_every_baseline_is_beaten(rmse):
    verdict = judge({"gru": rmse, "lstm": 0.06}, incumbent=Incumbent(candidate_id="old", model="gru", composite=0.1))
    assert (verdict.state, verdict.exit_code) == ("no_winner", 30)
    assert (verdict.champion, verdict.winner, verdict.best) == (None, None, "gru")
    assert any("gru does not beat ridge on down" in r for r in verdict.reasons)


def test_a_candidate_worse_than_persistence_on_one_series_gives_way_to_the_next():
    verdict = judge(board=make_board(GOOD, per_series={("gru", "b", "down"): 0.041}))
    assert (verdict.state, verdict.champion, verdict.best) == ("promoted", "lstm", "gru")
    assert any("gru is worse than persistence on down of b" in r for r in verdict.reasons)


def test_every_target_counts():
    board = make_board(GOOD, targets=("down", "up"), per_series={(m, "*", "up"): 0.037 for m in GOOD})
    verdict = judge(board=board)
    assert verdict.state == "no_winner"
    assert any("does not beat ridge on up" in r for r in verdict.reasons)


def test_without_persistence_nothing_is_decided():
    verdict = judge(board=make_board(GOOD, baselines={"ridge": 0.036, "persistence": None}))
    assert verdict.state == "no_winner"
    assert any("cannot be compared with persistence" in r for r in verdict.reasons)


def test_a_series_without_scored_rows_does_not_count():
    nobody = {(m, "b", "down"): None for m in [*GOOD, *BASELINES]}
    assert judge(board=make_board(GOOD, per_series=nobody)).state == "promoted"


def test_significance_is_required_only_when_asked():
    board = make_board(GOOD, dm_p=0.2)
    assert judge(board=board).state == "promoted"
    strict = judge(board=board, settings=PromotionSettings(require_significant=True))
    assert strict.state == "no_winner"
    assert any("not significant" in r and "0.20000" in r for r in strict.reasons)


def test_sampled_models_are_not_promoted_unless_allowed():
    verdict = judge(sampled=True)
    assert (verdict.state, verdict.exit_code, verdict.champion, verdict.winner) == ("sampled", 31, None, "gru")
    assert judge({"gru": 0.05, "lstm": 0.06}, sampled=True).state == "sampled"
    allowed = judge(sampled=True, settings=PromotionSettings(allow_sampled=True))
    assert (allowed.state, allowed.champion) == ("promoted", "gru")


def test_a_missing_candidate_stops_the_decision():
    absent = judge({"gru": 0.0345}, failures={"lstm": "worker died three times"})
    assert (absent.state, absent.exit_code, absent.champion) == ("missing_candidate", 32, None)
    assert absent.reasons == ("The candidate lstm has no result: worker died three times.",)
    unscored = judge({"gru": 0.0345, "lstm": None})
    assert unscored.state == "missing_candidate"
    assert "needs 720 rows of history" in unscored.reasons[0]


def test_non_finite_candidates_are_left_out():
    nan = float("nan")
    alone = judge({"gru": nan, "lstm": 0.05})
    assert (alone.state, alone.exit_code) == ("non_finite", 33)
    other_wins = judge({"gru": nan, "lstm": 0.035})
    assert (other_wins.state, other_wins.champion) == ("promoted", "lstm")
    assert "gru is left out: it gave non-finite forecasts." in other_wins.reasons


def test_unloadable_candidates_are_left_out():
    broken = CandidateCheck(candidate_id="id-gru", loadable=False, reason="sha256 differs")
    fine = CandidateCheck(candidate_id="id-lstm")
    other_wins = judge(checks={"gru": broken, "lstm": fine})
    assert (other_wins.state, other_wins.champion, other_wins.best) == ("promoted", "lstm", "gru")
    assert "gru is left out: sha256 differs." in other_wins.reasons
    alone = judge({"gru": 0.0345, "lstm": 0.05}, checks={"gru": broken, "lstm": fine})
    assert (alone.state, alone.exit_code) == ("unloadable", 34)
    unchecked = judge(checks={"lstm": fine})
    assert unchecked.champion == "lstm"
    assert any("never loaded" in r for r in unchecked.reasons)


def test_every_state_has_its_exit_code_and_the_verdict_is_json():
    assert EXIT_CODES == {
        "promoted": 0,
        "kept": 0,
        "no_winner": 30,
        "sampled": 31,
        "missing_candidate": 32,
        "non_finite": 33,
        "unloadable": 34,
    }
    verdict = judge()
    assert type(verdict).model_validate_json(verdict.model_dump_json()) == verdict


def test_a_baseline_that_lacks_a_series_is_beaten_on_the_others():
    """Pooled over the same rows: persistence and every candidate have series b, ridge has not."""
    lacks = {("ridge", "*", "down"): None, ("ridge", "b", "down"): None, ("ridge", "a", "down"): 0.036}

    def with_squares(board):
        rows = [
            row if row.rmse_scaled is None else row.model_copy(update={"mse_scaled": row.rmse_scaled**2})
            for row in board.rows
        ]
        return board.model_copy(update={"rows": tuple(rows)})

    assert judge(board=with_squares(make_board(GOOD, per_series=lacks))).champion == "gru"
    beaten = {**lacks, ("gru", "a", "down"): 0.0365}
    verdict = judge(board=with_squares(make_board(GOOD, per_series=beaten)))
    assert (verdict.champion, verdict.best) == ("lstm", "gru")
    assert "gru does not beat ridge on down: scaled RMSE 0.03650 against 0.03600." in verdict.reasons
