"""What all benchmarks share: paired timing, medians, rows of the table, and a description of the machine."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

Sense = Literal[">=", "<", "<="]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the result.

    Attributes:
        benchmark: Module that measured it.
        case: What was measured.
        ours: The program's figure, in ``unit``.
        peer: The peer's figure, in ``unit``; None where there is no peer.
        unit: Unit of both.
        score: What is judged: a ratio for timings (above 1: we are faster), a share or a difference otherwise.
        spread: Lowest and highest score of the single rounds.
        sense: How the score is compared with the bar.
        bar: What must be reached; None: for the record.
        detail: Further facts, for the JSON output.
    """

    benchmark: str
    case: str
    ours: float
    peer: float | None = None
    unit: str
    score: float
    spread: tuple[float, float] | None = None
    sense: Sense = ">="
    bar: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool | None:
        """Whether the bar was reached; None without a bar."""
        if self.bar is None:
            return None
        return {">=": self.score >= self.bar, "<": self.score < self.bar, "<=": self.score <= self.bar}[self.sense]

    def document(self) -> dict[str, Any]:
        """The row for JSON."""
        return {**asdict(self), "passed": self.passed}


@dataclass(frozen=True, slots=True)
class Pairs:
    """Figures of rounds in which both sides were measured one right after the other."""

    ours: tuple[float, ...]
    peer: tuple[float, ...]

    def row(self, *, higher_is_better: bool, **fields: Any) -> Row:
        """Medians of both sides, and the median of the rounds' ratios (above 1: we are better)."""
        pairs = zip(self.ours, self.peer, strict=True)
        ratios = [mine / theirs if higher_is_better else theirs / mine for mine, theirs in pairs]
        detail = {"ours": self.ours, "peer": self.peer, **fields.pop("detail", {})}
        return Row(
            ours=statistics.median(self.ours),
            peer=statistics.median(self.peer),
            score=statistics.median(ratios),
            spread=(min(ratios), max(ratios)),
            detail=detail,
            **fields,
        )


def alternate(ours: Callable[[], float], peer: Callable[[], float], rounds: int) -> Pairs:
    """Measure both sides in every round, the one that goes first changing from round to round."""
    found: dict[str, list[float]] = {"ours": [], "peer": []}
    sides = [("ours", ours), ("peer", peer)]
    for _ in range(rounds):
        for name, measure in sides:
            found[name].append(measure())
        sides.reverse()
    return Pairs(tuple(found["ours"]), tuple(found["peer"]))


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def machine() -> dict[str, Any]:
    """Where and when: processor, cores, memory, load, versions."""
    import numpy
    import psutil
    import ray
    import torch

    return {
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_1min": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ray": ray.__version__,
        "numpy": numpy.__version__,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
