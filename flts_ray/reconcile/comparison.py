"""Two sides held against each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from flts_ray.reconcile.causes import Cause, find_causes, values
from flts_ray.reconcile.inputs import compare_inputs, rounds_otherwise
from flts_ray.reconcile.ledger import Difference, Ledger
from flts_ray.reconcile.outcomes import compare_outcomes
from flts_ray.reconcile.sampling import places_of
from flts_ray.reconcile.side import Side

SAME, DIFFERENT = 0, 1
"""Exit codes, as those of ``diff``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What differs, and why.

    Attributes:
        a: One side.
        b: The other.
        causes: What makes them differ, in the order in which data flow.
        differences: Everything that differs and matters.
        ignored: What differs and cannot matter: places, names of machines, durations.
        equal: Area → how much of it was found equal.
        notes: What could not be compared, and what is odd although it makes no difference.
    """

    a: Side
    b: Side
    causes: tuple[Cause, ...]
    differences: tuple[Difference, ...]
    ignored: tuple[Difference, ...]
    equal: Mapping[str, int]
    notes: tuple[str, ...]

    @property
    def unexplained(self) -> tuple[Difference, ...]:
        """Differences that no cause accounts for."""
        told = {id(one) for cause in self.causes for one in (*cause.differences, *cause.consequences)}
        return tuple(one for one in self.differences if id(one) not in told)

    @property
    def exit_code(self) -> int:
        """0 if nothing that matters differs, else 1."""
        return DIFFERENT if self.differences else SAME

    @property
    def verdict(self) -> str:
        """The whole in a sentence."""
        if not sum(self.equal.values()) and not self.differences:
            return "Nothing to compare: the two sides have nothing in common."
        if not self.differences:
            return "No difference that matters."
        number, causes, rest = len(self.differences), len(self.causes), len(self.unexplained)
        return (
            f"{number} difference{'s' if number > 1 else ''} that matter{'' if number > 1 else 's'}, "
            f"{causes or 'no'} cause{'' if causes == 1 else 's'}, {rest or 'none'} unexplained."
        )

    def document(self) -> dict[str, Any]:
        """The answer of ``flts reconcile --json``."""
        return {
            "a": _side(self.a),
            "b": _side(self.b),
            "same": not self.differences,
            "verdict": self.verdict,
            "causes": [cause.document() for cause in self.causes],
            "differences": [self._difference(one) for one in self.differences],
            "unexplained": [one.name for one in self.unexplained],
            "ignored": [one.document() for one in self.ignored],
            "equal": dict(self.equal),
            "notes": list(self.notes),
        }

    def _difference(self, one: Difference) -> dict[str, Any]:
        rules = [
            cause.rule for cause in self.causes if any(one is o for o in (*cause.differences, *cause.consequences))
        ]
        return {"name": one.name, **one.document(), "explained_by": rules}


def compare(a: Side, b: Side) -> Comparison:
    """Hold two sides, of one kind or of two, against each other in everything that both know."""
    ledger = Ledger()
    compare_inputs(a, b, ledger)
    compare_outcomes(a, b, ledger)
    if proven := _without_effect(ledger):
        ledger.differences = [replace(one, matters=False) if one in proven else one for one in ledger.differences]
    mattering = tuple(one for one in ledger.differences if one.matters)
    causes = find_causes(a, b, mattering)
    notes: list[str] = []
    for label, side in (("A", a), ("B", b)):
        notes += [f"{label}: {note}" for note in side.notes]
        if (places := places_of(side)) and not any(cause.rule == "sampling_in_several_places" for cause in causes):
            notes.append(f"{label} sets sampling in several places: {', '.join(places)}")
        if side.record and side.claim and side.record.claim_digest != side.claim.digest():
            notes.append(f"{label}: its dataset {side.claim.dataset_id} was written anew after the run")
        if side.record and side.record.claim_code_version != side.record.code_version:
            notes.append(
                f"{label}: a run of {side.record.code_version} used a dataset made by {side.record.claim_code_version}"
            )
        if latest := [service.name for service in side.services.values() if service.image.endswith(":latest")]:
            notes.append(f"{label}: the image tag 'latest' does not say which code runs in {', '.join(latest)}")
    if proven:
        notes.append(f"every score is the same, so it made no difference: {values(proven)}")
    if scored := [one for one in mattering if one.key == "forecasts scored"]:
        notes.append(f"scores are over different rows: A {scored[0].a:,} forecasts, B {scored[0].b:,}")
    return Comparison(
        a=a,
        b=b,
        causes=causes,
        differences=mattering,
        ignored=tuple(one for one in ledger.differences if not one.matters),
        equal=dict(ledger.equal),
        notes=tuple(notes),
    )


def _without_effect(ledger: Ledger) -> list[Difference]:
    """Other libraries, threads or machines can only round otherwise. Where all scores are the same, they did not."""
    if not ledger.equal["metrics"] or any(one.outcome and one.matters for one in ledger.differences):
        return []
    return [one for one in ledger.differences if one.matters and rounds_otherwise(one)]


def _side(side: Side) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": side.kind, "name": side.name}
    if side.record or side.claim:
        known = side.record or side.claim
        assert known
        found |= {"dataset_id": known.dataset_id, "code_version": known.code_version}
    if side.record:
        found["run_id"] = side.record.run_id
    if side.services:
        found["services"] = {role: service.name for role, service in side.services.items()}
    return found
