"""A comparison as a person reads it: the verdict, what causes what, and what is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console

from flts_ray.reconcile.causes import UNSURE, text
from flts_ray.reconcile.comparison import Comparison
from flts_ray.reconcile.ledger import Difference
from flts_ray.reconcile.side import Side

MAX_LINES = 12
"""Differences shown of one group; the rest is counted."""

TELLING = ("dataset_id", "kept rows", "scaler", "candidate_id", "epochs run", "rmse_scaled", "verdict", "champion")
"""What is shown first of the consequences in an area."""


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print who is compared, the verdict, each cause with what follows from it, and what is left."""

    def line(words: str = "", style: str | None = None) -> None:
        console.print(words, style=style, markup=False, highlight=False, soft_wrap=True)

    for label, side in (("A", comparison.a), ("B", comparison.b)):
        line(f"{label}  {side.kind} {side.name}{_facts(side)}")
    line()
    line(comparison.verdict, "bold red" if comparison.differences else "bold green")
    for number, cause in enumerate(comparison.causes, 1):
        line()
        line(f"{number}. {cause.title}", "bold")
        for words in _lines(cause.differences):
            line(f"     {words}")
        if cause.consequences:
            line("   may have changed" if cause.rule in UNSURE else "   leads to")
            for words in _summary(cause.consequences):
                line(f"     {words}")
        line(f"   do: {cause.remedy}", "cyan")
    if comparison.unexplained:
        line()
        line("Without a known cause", "bold")
        for words in _lines(comparison.unexplained):
            line(f"     {words}")
    line()
    if equal := {area: count for area, count in comparison.equal.items() if count}:
        line(f"Equal: {', '.join(f'{area} {count}' for area, count in equal.items())}", "dim")
    if comparison.ignored:
        names = [one.name for one in comparison.ignored]
        more = f" and {len(names) - MAX_LINES} more" if len(names) > MAX_LINES else ""
        line(f"Ignored, as it cannot change a result: {', '.join(names[:MAX_LINES])}{more}", "dim")
    for note in comparison.notes:
        line(f"Note: {note}", "dim")


def shown(one: Difference) -> str:
    """A difference in a line."""
    change = f"  ({one.change:+.2%})" if one.change is not None else ""
    origins = [f"{label}: {origin}" for label, origin in (("A", one.origin_a), ("B", one.origin_b)) if origin]
    details = "; ".join([*origins, *([one.note] if one.note else [])])
    return f"{one.name}: {text(one.a)} → {text(one.b)}{change}{f'   [{details}]' if details else ''}"


def _lines(found: Sequence[Difference]) -> list[str]:
    more = [f"and {len(found) - MAX_LINES} more"] if len(found) > MAX_LINES else []
    return [*(shown(one) for one in found[:MAX_LINES]), *more]


def _summary(found: Sequence[Difference]) -> list[str]:
    """Consequences, an area a line: the telling ones first, the rest counted."""
    lines = []
    for area, count in Counter(one.area for one in found).items():
        mine = sorted((one for one in found if one.area == area), key=lambda one: one.outcome == "baselines")
        telling = [one for one in mine if one.key in TELLING] or mine
        few = "; ".join(one.name if area == "transform" else shown(one) for one in telling[:3])  # else many numbers
        more = count - min(3, len(telling))
        lines.append(f"{area}: {few}{f'; and {more} more' if more else ''}")
    return lines


def _facts(side: Side) -> str:
    known = side.record or side.claim
    if known is None:
        return f"  (services {', '.join(service.name for service in side.services.values())})" if side.services else ""
    run = f"run {side.record.run_id}, " if side.record and side.record.run_id != side.name else ""
    return f"  ({run}dataset {known.dataset_id}, code {known.code_version})"
