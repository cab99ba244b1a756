"""Differences, and what was found equal, as a comparison goes along."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

Area = Literal[
    "sampling",
    "configuration",
    "source",
    "code",
    "libraries",
    "environment",
    "dataset",
    "rows",
    "transform",
    "candidates",
    "metrics",
    "verdict",
]
SAME_METRIC = 1e-9
"""Relative change up to which two metrics count as equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that is not the same on both sides.

    Attributes:
        area: Where it belongs.
        key: What it is: a setting, a variable, a library, a field, a metric.
        where: Which of several: a station and split, a model, services.
        a: Value on side A; None where it is not set.
        b: Value on side B.
        origin_a: What set it on side A.
        origin_b: What set it on side B.
        outcome: For what follows from other things, which result it is; empty for what is put in.
        matters: Whether it can change a result. Places, names of machines and durations cannot.
        change: Relative change from A to B of a metric; None where it has none.
        note: What else to know.
    """

    area: Area
    key: str
    where: str = ""
    a: Any
    b: Any
    origin_a: str = ""
    origin_b: str = ""
    outcome: str = ""
    matters: bool = True
    change: float | None = None
    note: str = ""

    @property
    def name(self) -> str:
        """The key, and which one."""
        return f"{self.key} ({self.where})" if self.where else self.key

    def document(self) -> dict[str, Any]:
        """As JSON, without what is empty."""
        optional = {
            "where": self.where,
            "origin_a": self.origin_a,
            "origin_b": self.origin_b,
            "change": self.change,
            "note": self.note,
        }
        given = {name: value for name, value in optional.items() if value not in ("", None)}
        return {"area": self.area, "key": self.key, "a": self.a, "b": self.b, **given}


@dataclass(slots=True)
class Ledger:
    """What was compared so far."""

    differences: list[Difference] = field(default_factory=list)
    equal: Counter[str] = field(default_factory=Counter)

    def compare(self, area: Area, key: str, a: Any, b: Any, **details: Any) -> None:
        """Note whether two known values are the same; ``details`` are those of :class:`Difference`."""
        if plain(a) == plain(b):
            self.equal[area] += 1
        else:
            self.differences.append(Difference(area=area, key=key, a=a, b=b, **details))

    def metric(self, key: str, a: float | None, b: float | None, **details: Any) -> None:
        """Note whether two metrics are the same, up to rounding."""
        size = max(abs(a or 0.0), abs(b or 0.0))
        if a is not None and b is not None and abs(a - b) <= SAME_METRIC * size:
            self.equal["metrics"] += 1
            return
        change = (b - a) / abs(a) if a and b is not None else None
        self.compare("metrics", key, a, b, change=change, **details)


def plain(value: Any) -> Any:
    """A value with tuples as lists, as JSON has it."""
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value
