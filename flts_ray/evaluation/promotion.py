"""Decides which model, if any, becomes the champion. Pure: reads the leaderboard, moves nothing.

    state               exit code   meaning
    promoted                    0   a candidate beats the baselines and the incumbent
    kept                        0   the incumbent stays: it is the best candidate itself, or is not beaten
    no_winner                  30   no candidate beats the baselines
    sampled                    31   the models were trained on sampled rows and promotion.allow_sampled is off
    missing_candidate          32   an expected candidate has no result, so the comparison is not complete
    non_finite                 33   no winner, and a candidate forecast NaN or infinity
    unloadable                 34   no winner, and a candidate's saved artefact did not load or failed its smoke test

The first that applies: missing_candidate, then (with no candidate that passes) non_finite, unloadable, then sampled,
no_winner, kept, promoted. A candidate passes when its metrics are finite, its artefact loads, its scaled RMSE is below
every scored baseline's for every target, and it is no worse than persistence on any series; with
``promotion.require_backtest`` also when it beats persistence in the backtest, all windows together.

A candidate that has no result for some series is left out: its score would not be of the same rows as the others'. If
no other passes, that ends as missing_candidate. A baseline that lacks some series is beaten on the others. With
``promotion.scope`` series every station is decided for itself, by the same rules on its own rows, and
:mod:`flts_ray.evaluation.promotion_by_series` sums these verdicts up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from flts_ray.config import PromotionSettings, Section
from flts_ray.evaluation.backtest_table import BacktestResult
from flts_ray.evaluation.leaderboard import ALL, NON_FINITE, PERSISTENCE, RIDGE, Leaderboard, Row

State = Literal["promoted", "kept", "no_winner", "sampled", "missing_candidate", "non_finite", "unloadable"]

EXIT_CODES: Mapping[State, int] = {
    "promoted": 0,
    "kept": 0,
    "no_winner": 30,
    "sampled": 31,
    "missing_candidate": 32,
    "non_finite": 33,
    "unloadable": 34,
}


class CandidateCheck(Section):
    """Whether the saved artefact of a candidate loads and forecasts; ``reason`` says why not."""

    candidate_id: str
    loadable: bool = True
    reason: str = ""


class Incumbent(Section):
    """The champion so far, scored anew on the same rows; ``composite`` None with a ``reason`` if that failed."""

    candidate_id: str
    model: str
    composite: float | None = None
    reason: str = ""


class Significance(Section):
    """One Diebold-Mariano comparison on the pooled rows; ``better`` says that the model's RMSE is the lower one."""

    model: str
    against: str
    p_value: float | None
    better: bool
    significant: bool


class Verdict(Section):
    """The decision and why.

    Attributes:
        state: What was decided.
        exit_code: See the module's table.
        champion: Kind of the model that is champion after this decision; None unless promoted or kept.
        winner: Best candidate that passed all checks against the baselines, or None.
        best: Candidate with the lowest composite, passing or not, or None.
        reasons: Plain sentences with numbers.
        significance: Every scored candidate against persistence and ridge.
        identifier: Name under which the champion is registered, where it is not the run's.
        series: The verdict on each station, where each is decided for itself.
    """

    state: State
    exit_code: int
    champion: str | None = None
    winner: str | None = None
    best: str | None = None
    reasons: tuple[str, ...] = ()
    significance: tuple[Significance, ...] = ()
    identifier: str = ""
    series: dict[str, Verdict] = Field(default_factory=dict)


def decide(
    board: Leaderboard,
    checks: Mapping[str, CandidateCheck],
    settings: PromotionSettings,
    *,
    expected: Sequence[str],
    failures: Mapping[str, str] | None = None,
    sampled: bool = False,
    incumbent: Incumbent | None = None,
    lacking: Mapping[str, Mapping[str, str]] | None = None,
    backtest: BacktestResult | None = None,
) -> Verdict:
    """Apply the rules of the module to a leaderboard.

    Args:
        board: Candidates and baselines, scored on the same rows.
        checks: Result of loading and smoke-testing each candidate's artefact, by model.
        settings: Rules that can be set.
        expected: Candidates that should have a result.
        failures: Why an expected candidate has none, by model.
        sampled: Whether the models were trained on sampled rows.
        incumbent: The champion so far, if any.
        lacking: By candidate, the series of this board of which it has no result, and why.
        backtest: What ``promotion.require_backtest`` looks at.
    """
    reasons: list[str] = []
    ranked = _ranked(board)
    significance = _significance(board, settings)

    def verdict(state: State, *, champion: str | None = None, winner: str | None = None) -> Verdict:
        return Verdict(
            state=state,
            exit_code=EXIT_CODES[state],
            champion=champion,
            winner=winner,
            best=ranked[0].model if ranked else None,
            reasons=tuple(reasons),
            significance=significance,
        )

    lacking = {model: reasons for model, reasons in (lacking or {}).items() if reasons and model in expected}
    missing = _missing(board, [model for model in expected if model not in lacking], failures or {})
    if missing:
        reasons.extend(missing)
        return verdict("missing_candidate")

    non_finite = _non_finite(board)
    unloadable = [r.model for r in ranked if not _check(checks, r.model).loadable]
    reasons.extend(_without(model, series, len(board.protocol.origins)) for model, series in lacking.items())
    reasons.extend(f"{model} is left out: it gave {NON_FINITE}." for model in non_finite)
    reasons.extend(f"{model} is left out: {_check(checks, model).reason}." for model in unloadable)

    winner: Row | None = None
    for row in ranked:
        if row.model in unloadable:
            continue
        objections = _objections(board, row, settings) + _backtest_objections(board, row, settings, backtest)
        if not objections:
            winner = row
            break
        reasons.extend(objections)
    if winner is None and non_finite:
        return verdict("non_finite")
    if winner is None and unloadable:
        return verdict("unloadable")
    if winner is None and lacking:
        reasons.append("No other candidate beats the baselines, so nothing is promoted.")
        return verdict("missing_candidate")
    if winner is not None:
        reasons.extend(_praise(board, winner, significance))
    if sampled and not settings.allow_sampled:
        reasons.append("The models were trained on sampled rows; set promotion.allow_sampled to promote one anyway.")
        return verdict("sampled", winner=winner.model if winner else None)
    if winner is None:
        reasons.append("No candidate beats the baselines, so nothing is promoted.")
        return verdict("no_winner")
    if incumbent is None:
        reasons.append(f"There is no champion yet: {winner.model} becomes the first.")
        return verdict("promoted", champion=winner.model, winner=winner.model)
    keeps, reason = _against_incumbent(winner, _check(checks, winner.model), incumbent)
    reasons.append(reason)
    if keeps:
        return verdict("kept", champion=incumbent.model, winner=winner.model)
    return verdict("promoted", champion=winner.model, winner=winner.model)


def _without(model: str, series: Mapping[str, str], of: int) -> str:
    """Why a candidate that lacks series is left out."""
    name, reason = next(iter(series.items()))
    some = f"of {name}" if of == 1 else f"for {len(series)} of {of} series; the first, {name}"
    return f"{model} is left out: it has no result {some}: {reason.rstrip('.')}."


def _check(checks: Mapping[str, CandidateCheck], model: str) -> CandidateCheck:
    return checks.get(model) or CandidateCheck(
        candidate_id="", loadable=False, reason="its artefact was never loaded and smoke-tested"
    )


def _ranked(board: Leaderboard) -> list[Row]:
    """Candidates with a composite, best first."""
    rows = [row for model in board.models("candidate") if (row := board.overall(model)) is not None]
    return sorted((r for r in rows if r.composite is not None), key=lambda r: (r.composite or 0.0, r.model))


def _non_finite(board: Leaderboard) -> list[str]:
    """Candidates that were scored but have no finite metrics."""
    rows = [row for model in board.models("candidate") if (row := board.overall(model)) is not None]
    return [r.model for r in rows if r.n > 0 and r.composite is None]


def _missing(board: Leaderboard, expected: Sequence[str], failures: Mapping[str, str]) -> list[str]:
    reasons = []
    for model in expected:
        row = board.overall(model)
        if row is None or row.n == 0:
            why = failures.get(model) or (row.note if row else "") or "it is not on the leaderboard"
            reasons.append(f"The candidate {model} has no result: {why.rstrip('.')}.")
    return reasons


def _objections(board: Leaderboard, row: Row, settings: PromotionSettings) -> list[str]:
    """Why this candidate does not beat the baselines; empty if it does."""
    found: list[str] = []
    for target in board.protocol.targets:
        for name in board.models("baseline"):
            mine, theirs = _like_for_like(board, row.model, name, target)
            if theirs is None or theirs.rmse_scaled is None:
                continue
            if mine is None or mine.rmse_scaled is None or mine.rmse_scaled >= theirs.rmse_scaled:
                found.append(f"{row.model} does not beat {name} on {target}: {_versus(mine, theirs)}.")
        for series in (ALL, *board.protocol.origins):
            mine = board.row(row.model, series=series, target=target)
            theirs = board.row(PERSISTENCE, series=series, target=target)
            if series != ALL and mine is not None and mine.n == 0:
                continue  # no test row of this series could be forecast by anyone
            if mine is None or theirs is None or mine.rmse_scaled is None or theirs.rmse_scaled is None:
                where = "all series" if series == ALL else series
                found.append(f"{row.model} cannot be compared with {PERSISTENCE} on {target} of {where}.")
            elif series != ALL and mine.rmse_scaled > theirs.rmse_scaled:
                found.append(
                    f"{row.model} is worse than {PERSISTENCE} on {target} of {series}: {_versus(mine, theirs)}."
                )
    if settings.require_significant and not found:
        p = row.dm_p_vs_persistence
        if p is None or p >= settings.significance:
            found.append(
                f"The gain of {row.model} over {PERSISTENCE} is not significant (Diebold-Mariano p = {_number(p)}, "
                f"required below {settings.significance:g})."
            )
    return found


def _like_for_like(board: Leaderboard, model: str, baseline: str, target: str) -> tuple[Row | None, Row | None]:
    """The pooled rows of both; where the baseline lacks some series, pooled over those that it has."""
    mine, theirs = (board.row(name, series=ALL, target=target) for name in (model, baseline))
    if mine is None or theirs is None or theirs.n > 0:
        return mine, theirs
    common = [
        (own, other)
        for series in board.protocol.origins
        if (own := board.row(model, series=series, target=target)) is not None
        and (other := board.row(baseline, series=series, target=target)) is not None
        and None not in (own.mse_scaled, other.mse_scaled)
    ]
    return _pooled(mine, [own for own, _ in common]), _pooled(theirs, [other for _, other in common])


def _pooled(like: Row, rows: Sequence[Row]) -> Row:
    n = sum(row.n for row in rows)
    if n == 0:
        return like
    mse = sum(row.n * (row.mse_scaled or 0.0) for row in rows) / n
    return like.model_copy(update={"n": n, "mse_scaled": mse, "rmse_scaled": mse**0.5})


def _backtest_objections(
    board: Leaderboard, row: Row, settings: PromotionSettings, backtest: BacktestResult | None
) -> list[str]:
    """Why this candidate may not win by what the backtest says, all windows together; empty if it may."""
    if not settings.require_backtest:
        return []
    if backtest is None:
        return [f"promotion.require_backtest asks for a backtest of {row.model}, and there is none."]
    only = tuple(board.protocol.origins)
    series = only[0] if len(only) == 1 else ALL
    where = "" if series == ALL else f" of {series}"
    mine = backtest.row(row.model, series=series)
    theirs = backtest.row(PERSISTENCE, series=series)
    if mine is None or theirs is None or mine.rmse_scaled is None or theirs.rmse_scaled is None:
        why = backtest.left_out.get(series) or next(
            (found.note for found in (mine, theirs) if found and found.note), ""
        )
        why = why.rstrip(".") or "it was not among backtest.models"
        return [f"{row.model} cannot be compared with {PERSISTENCE} in the backtest{where}: {why}."]
    if mine.rmse_scaled >= theirs.rmse_scaled:
        scores = f"scaled RMSE {_number(mine.rmse_scaled)} against {_number(theirs.rmse_scaled)}"
        windows = len(backtest.windows)
        return [f"{row.model} does not beat {PERSISTENCE} in the backtest{where} ({windows} window(s)): {scores}."]
    return []


def _praise(board: Leaderboard, winner: Row, significance: Sequence[Significance]) -> list[str]:
    sentences = [f"{winner.model} is the best candidate that beats the baselines: composite {winner.composite:.5f}."]
    for name in board.models("baseline"):
        theirs = board.overall(name)
        if theirs is None or theirs.rmse_scaled is None:
            note = theirs.note if theirs else ""
            sentences.append(f"The baseline {name} was not scored: {note.rstrip('.') or 'no reason given'}.")
            continue
        tests = (s for s in significance if (s.model, s.against) == (winner.model, name) and s.p_value is not None)
        tested = next((f", Diebold-Mariano p = {s.p_value:.2g}" for s in tests), "")
        sentences.append(f"{winner.model} beats {name}: {_versus(winner, theirs)}{tested}.")
    return sentences


def _against_incumbent(winner: Row, check: CandidateCheck, incumbent: Incumbent) -> tuple[bool, str]:
    """Whether the incumbent stays, and why."""
    if check.candidate_id == incumbent.candidate_id:
        return True, f"{winner.model} is the champion already (the same artefact, {incumbent.candidate_id})."
    if incumbent.composite is None:
        why = incumbent.reason.rstrip(".") or "no reason given"
        return False, f"The champion so far ({incumbent.model}) could not be scored on these rows: {why}."
    mine = winner.composite if winner.composite is not None else float("inf")
    scores = f"composite {mine:.6f} against {incumbent.composite:.6f} on the same rows"
    if mine < incumbent.composite:
        return False, f"{winner.model} beats the champion so far ({incumbent.model}): {scores}."
    return True, f"{winner.model} does not beat the champion ({incumbent.model}): {scores}."


def _significance(board: Leaderboard, settings: PromotionSettings) -> tuple[Significance, ...]:
    results = []
    for row in _ranked(board):
        for against, p in ((PERSISTENCE, row.dm_p_vs_persistence), (RIDGE, row.dm_p_vs_ridge)):
            rival = board.overall(against)
            if rival is None or rival.rmse_scaled is None or row.rmse_scaled is None:
                continue
            results.append(
                Significance(
                    model=row.model,
                    against=against,
                    p_value=p,
                    better=row.rmse_scaled < rival.rmse_scaled,
                    significant=p is not None and p < settings.significance,
                )
            )
    return tuple(results)


def _versus(mine: Row | None, theirs: Row) -> str:
    return f"scaled RMSE {_number(mine.rmse_scaled if mine else None)} against {_number(theirs.rmse_scaled)}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.5f}"
