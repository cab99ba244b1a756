"""The champion changes under load, several times; then the alias is moved to a version that cannot be loaded."""

from __future__ import annotations

import json
import statistics
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import Row
from benchmarks.serve.load import Generator
from benchmarks.serve.plan import Latency, Outcome, Sample
from benchmarks.serve.scenario import (
    Options,
    Result,
    Table,
    failures,
    plan_for,
    scratch_folder,
    short_payloads,
)
from benchmarks.serve.servers import NAMES, Server, serving

RATE, CLIENTS = 20.0, 32
ADDED_MS = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A stretch of the load.

    Attributes:
        kind: ``quiet``, ``swap`` or ``bad`` (the alias named a damaged version).
        start_s: Its start, by ``time.monotonic``.
        end_s: Its end.
        moved_s: When the alias had been moved.
        version: What it then named.
    """

    kind: str
    start_s: float
    end_s: float
    moved_s: float | None = None
    version: str = ""

    def of(self, samples: Sequence[Sample]) -> list[Sample]:
        """The requests that were due in it."""
        return [s for s in samples if self.start_s <= s.due_s < self.end_s]


def run(options: Options) -> Result:
    """20 requests a second, then saturation, in each profile."""
    home = options.home
    first, second, damaged = home.champion, home.second_version(), home.damaged_version()
    payloads = short_payloads(home, (first, second))
    rows: list[Row] = []
    lines: list[tuple[str | float | None, ...]] = []
    detail: dict[str, Any] = {}
    with scratch_folder() as scratch:
        for profile in options.profiles():
            with serving(profile, home, scratch, settings=options.settings) as server:
                for name, how in (("20 rps", {"rate": RATE}), (f"saturated, {CLIENTS} clients", {"clients": CLIENTS})):
                    label = f"{NAMES[profile]}, {name}"
                    length = max(options.seconds, home.settings.serve.poll_s + 3)
                    seconds = length * (2 * options.rounds + 1)
                    generator = Generator(plan_for(server, payloads, seconds=seconds, samples=True, **how))
                    try:
                        windows = _move(options, generator.began_s, length, (first, second), damaged)
                        told = _readiness(server)
                    finally:
                        home.registry.promote(first)
                    outcome = generator.outcome()
                    found = _judged(label, outcome, windows)
                    rows += found
                    lines += _lines(label, outcome, windows)
                    detail[label] = outcome.document() | {"lags": _lags(outcome.samples, windows), "while_bad": told}
                    time.sleep(home.settings.serve.poll_s + 1)  # the champion is back before the next load
    columns = (
        "load",
        "window",
        "requests",
        "failed",
        "refused",
        "p50 ms",
        "p99 ms",
        "max ms",
        "first answer s",
        "last old s",
    )
    table = Table(title="Swaps: windows with and without", columns=columns, rows=tuple(lines))
    return Result(name="swap", rows=rows, tables=[table], detail=detail)


def _move(options: Options, began_s: float, length: float, versions: tuple[str, str], damaged: str) -> list[Window]:
    """Move the alias at the start of every second window, and in the last one to the damaged version."""
    windows = []
    kinds = ["quiet", "swap"] * options.rounds + ["bad"]
    swaps = 0
    for number, kind in enumerate(kinds):
        start = began_s + number * length
        _sleep_until(start)
        moved, version = None, ""
        if kind != "quiet":
            swaps += kind == "swap"
            version = damaged if kind == "bad" else versions[swaps % 2]
            options.home.registry.promote(version)
            moved = time.monotonic()
        windows.append(Window(kind=kind, start_s=start, end_s=start + length, moved_s=moved, version=version))
        _sleep_until(start + length - 0.3)
    return windows


def _judged(label: str, outcome: Outcome, windows: list[Window]) -> list[Row]:
    failed = failures(outcome)
    quiet, swap, bad = ([w.of(outcome.samples) for w in windows if w.kind == kind] for kind in ("quiet", "swap", "bad"))
    p99 = [Latency.of([s.latency_ms for window in part for s in window]).p99 or 0.0 for part in (swap, quiet)]
    each = [(_p99(a) - _p99(b)) for a, b in zip(swap, quiet, strict=True)]
    return [
        _zero(f"{label}: requests failed over {len(swap)} swaps", _failed(swap + quiet), failed),
        _zero(f"{label}: swaps that did not arrive", _missing(outcome.samples, windows), {}),
        Row(
            benchmark="swap",
            case=f"{label}: p99 of windows with a swap against windows without (difference)",
            ours=p99[0],
            peer=p99[1],
            unit="ms",
            score=p99[0] - p99[1],
            spread=(min(each), max(each)),
            sense="<",
            bar=ADDED_MS,
        ),
        _zero(f"{label}: requests failed while the alias named a damaged version", _failed(bad), failed),
    ]


def _lines(label: str, outcome: Outcome, windows: list[Window]) -> list[tuple[str | float | None, ...]]:
    lines: list[tuple[str | float | None, ...]] = []
    for window in windows:
        samples = window.of(outcome.samples)
        latency = Latency.of([s.latency_ms for s in samples if s.kind == "ok"])
        refused = sum(s.kind.startswith("refused") for s in samples)
        lag = _lag(outcome.samples, window) if window.kind == "swap" else (None, None)
        figures = (latency.p50, latency.p99, latency.max, *lag)
        lines.append(
            (label, window.kind, len(samples), _failed([samples]), refused)
            + tuple(None if f is None else round(f, 2) for f in figures)
        )
    return lines


def _lag(samples: Sequence[Sample], window: Window) -> tuple[float | None, float | None]:
    """Seconds from the move to the first answer of the new version, and to the last one of another."""
    if window.moved_s is None:
        return None, None
    inside = [s for s in window.of(samples) if s.kind == "ok" and s.ended_s >= window.moved_s]
    new = [s.ended_s for s in inside if s.version == window.version]
    old = [s.ended_s for s in inside if s.version != window.version]
    return (min(new) - window.moved_s if new else None, max(old) - window.moved_s if old else 0.0)


def _lags(samples: Sequence[Sample], windows: list[Window]) -> dict[str, float | None]:
    lags = [_lag(samples, w) for w in windows if w.kind == "swap"]
    first, last = ([lag[i] for lag in lags if lag[i] is not None] for i in (0, 1))
    return {
        "first_new_answer_s": statistics.median(first) if first else None,
        "last_old_answer_s": statistics.median(last) if last else None,
    }


def _missing(samples: Sequence[Sample], windows: list[Window]) -> int:
    """Swaps after which the new version never answered."""
    return sum(_lag(samples, w)[0] is None for w in windows if w.kind == "swap")


def _failed(windows: Sequence[Sequence[Sample]]) -> int:
    return sum(s.kind != "ok" and not s.kind.startswith("refused") for window in windows for s in window)


def _p99(samples: Sequence[Sample]) -> float:
    return Latency.of([s.latency_ms for s in samples if s.kind == "ok"]).p99 or 0.0


def _zero(case: str, count: int, failed: dict[str, int]) -> Row:
    return Row(
        benchmark="swap",
        case=case,
        ours=count,
        unit="requests",
        score=count,
        sense="<=",
        bar=0,
        detail={"kinds": failed},
    )


def _readiness(server: Server) -> Any:
    """What ``/readyz`` says."""
    try:
        with urllib.request.urlopen(f"{server.address}/readyz", timeout=5) as answer:
            return json.loads(answer.read())
    except (urllib.error.URLError, OSError, ValueError) as error:
        return str(error)


def _sleep_until(moment_s: float) -> None:
    time.sleep(max(0.0, moment_s - time.monotonic()))
