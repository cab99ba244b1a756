"""Many stations, each with a champion of its own: their verdicts as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flts_ray.evaluation.promotion import EXIT_CODES, State, Verdict

SEVERITY: tuple[State, ...] = (
    "missing_candidate",
    "unloadable",
    "non_finite",
    "sampled",
    "no_winner",
    "promoted",
    "kept",
)
"""States of single stations, the one that decides for all of them first."""

SHOWN = 10
"""Stations without a champion that a summary names."""


def together(verdicts: Mapping[str, Verdict]) -> Verdict:
    """One verdict over stations that were decided each for itself.

    Its exit code is 0 only if every station has a champion that this run stands for; else it is that of the worst.
    ``winner`` and ``best`` name the kind that is so most often.
    """
    states = [verdict.state for verdict in verdicts.values()]
    state = min(states, key=SEVERITY.index)
    open_ = {series: verdict for series, verdict in verdicts.items() if verdict.champion is None}
    reasons = [
        f"Decided for each of {len(verdicts)} series: {states.count('promoted')} new champions, "
        f"{states.count('kept')} kept, {len(open_)} without a winner."
    ]
    for series, verdict in list(open_.items())[:SHOWN]:
        reasons.append(f"{series} ({verdict.state.replace('_', ' ')}): {' '.join(verdict.reasons)}")
    if len(open_) > SHOWN:
        reasons.append(f"And {len(open_) - SHOWN} more series without a winner: the verdict has them all.")
    champions = {verdict.champion for verdict in verdicts.values()}
    return Verdict(
        state=state,
        exit_code=EXIT_CODES[state],
        champion=champions.pop() if len(champions) == 1 else None,
        winner=_most([verdict.winner for verdict in verdicts.values()]),
        best=_most([verdict.best for verdict in verdicts.values()]),
        reasons=tuple(reasons),
        series=dict(verdicts),
    )


def _most(models: Sequence[str | None]) -> str | None:
    names = sorted(model for model in models if model is not None)
    return max(names, key=names.count, default=None)
