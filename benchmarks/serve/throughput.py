"""Requests a second and latencies of the service and its peers, each alone on the machine, round after round."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.harness import Row, Sense
from benchmarks.serve.load import generate
from benchmarks.serve.plan import Outcome
from benchmarks.serve.scenario import (
    Options,
    Result,
    Table,
    full_payloads,
    load_now,
    plan_for,
    scratch_folder,
    short_payloads,
)
from benchmarks.serve.servers import NAMES, Kind, serving

FULL_CLIENTS = (1, 8, 32)
PUBLISHED_RPS = 156.0
"""The best figure published for the pipeline that this one replaces, on eight containers; for the record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One measurement."""

    round: int
    kind: Kind
    payload: str
    clients: int
    load_1min: float
    outcome: Outcome


def run(options: Options) -> Result:
    """Every server, payload and number of clients, ``options.rounds`` times; bars of the issue."""
    kinds: tuple[Kind, ...] = options.kinds or ("fastapi", "local", "throughput", "fastapi-onnx", "mlflow")
    payloads = {"30 rows": short_payloads(options.home), "full context": full_payloads(options.home)}
    cells: list[Cell] = []
    starts: list[dict[str, object]] = []
    with scratch_folder() as scratch:
        for number in range(options.rounds):
            turn = number % len(kinds)
            for kind in kinds[turn:] + kinds[:turn]:  # nobody is always first
                with serving(kind, options.home, scratch, settings=options.settings) as server:
                    starts.append({"round": number, "kind": kind, "ready_s": server.ready_s, **server.facts})
                    for payload, bodies in payloads.items():
                        for clients in options.clients if payload == "30 rows" else FULL_CLIENTS:
                            load = load_now()
                            plan = plan_for(server, bodies, clients=clients, seconds=options.seconds)
                            cells.append(
                                Cell(
                                    round=number,
                                    kind=kind,
                                    payload=payload,
                                    clients=clients,
                                    load_1min=load,
                                    outcome=generate(plan),
                                )
                            )
                            _tell(cells[-1])
    return Result(
        name="throughput",
        rows=[*judge(cells), *_wrongs(cells)],
        tables=[table(cells, payload) for payload in payloads],
        detail={
            "starts": starts,
            "rows": {payload: bodies.rows for payload, bodies in payloads.items()},
            "cells": [
                {
                    "round": c.round,
                    "kind": c.kind,
                    "payload": c.payload,
                    "clients": c.clients,
                    "load_1min": c.load_1min,
                    **c.outcome.document(),
                }
                for c in cells
            ],
        },
    )


def judge(cells: Iterable[Cell]) -> list[Row]:
    """The issue's bars, on histories of 30 rows."""
    figures = _Figures([cell for cell in cells if cell.payload == "30 rows"])
    rows = [
        *(figures.ratio("throughput", "fastapi", clients, bar=1.5) for clients in (32, 128)),
        *(figures.tail("throughput", "fastapi", clients) for clients in (32, 128)),
        figures.distance("throughput", "fastapi", 1, bar_ms=5.0),
        *(figures.ahead("throughput", "mlflow", clients) for clients in figures.clients),
        figures.ratio("local", "fastapi", 32, bar=1.0),
        *(figures.ratio("throughput", "fastapi-onnx", clients) for clients in (32, 128)),
        figures.ratio("local", "fastapi-onnx", 32),
        figures.published("throughput", 32),
    ]
    return [row for row in rows if row is not None]


class _Figures:
    """Medians over rounds of pairs of servers; None where one of the two was not measured."""

    def __init__(self, cells: list[Cell]) -> None:
        self._by_key: dict[tuple[Kind, int], list[Outcome]] = {}
        for cell in cells:
            self._by_key.setdefault((cell.kind, cell.clients), []).append(cell.outcome)
        self.clients = sorted({cell.clients for cell in cells})

    def ratio(self, ours: Kind, peer: Kind, clients: int, bar: float | None = None) -> Row | None:
        """Requests a second, ours by the peer's."""
        return self._row(ours, peer, clients, "requests/s", ">=", bar)

    def ahead(self, ours: Kind, peer: Kind, clients: int) -> Row | None:
        """Requests a second, the peer's by ours: below 1."""
        return self._row(ours, peer, clients, "requests/s", "<", 1.0, inverted=True)

    def tail(self, ours: Kind, peer: Kind, clients: int) -> Row | None:
        """p99, ours by the peer's: below 1."""
        return self._row(ours, peer, clients, "ms (p99)", "<", 1.0)

    def distance(self, ours: Kind, peer: Kind, clients: int, bar_ms: float) -> Row | None:
        """p99, ours less the peer's."""
        return self._row(ours, peer, clients, "ms (p99)", "<=", bar_ms, difference=True)

    def published(self, ours: Kind, clients: int) -> Row | None:
        """For the record: what was once published for another machine and another program."""
        mine = self._by_key.get((ours, clients))
        if not mine:
            return None
        rps = statistics.median(o.rps for o in mine)
        return Row(
            benchmark="throughput",
            case=f"{NAMES[ours]}, {clients} clients; peer: best published for the pipeline replaced, 8 containers",
            ours=rps,
            peer=PUBLISHED_RPS,
            unit="requests/s",
            score=rps / PUBLISHED_RPS,
        )

    def _row(
        self,
        ours: Kind,
        peer: Kind,
        clients: int,
        unit: str,
        sense: Sense,
        bar: float | None,
        *,
        inverted: bool = False,
        difference: bool = False,
    ) -> Row | None:
        mine, theirs = self._values(ours, clients, unit), self._values(peer, clients, unit)
        if not mine or not theirs:
            return None
        scores = [
            a - b if difference else (b / a if inverted else a / b)
            for a, b in zip(mine, theirs, strict=True)
            if a and b
        ] or [float("nan")]
        what = "requests/s" if unit == "requests/s" else "p99"
        how = "difference" if difference else ("peer by ours" if inverted else "ours by peer")
        return Row(
            benchmark="throughput",
            case=f"{NAMES[ours]} against {NAMES[peer]}, {clients} clients: {what}, {how}",
            ours=statistics.median(mine),
            peer=statistics.median(theirs),
            unit=unit,
            score=statistics.median(scores),
            spread=(min(scores), max(scores)),
            sense=sense,
            bar=bar,
            detail={"ours": mine, "peer": theirs},
        )

    def _values(self, kind: Kind, clients: int, unit: str) -> list[float]:
        outcomes = self._by_key.get((kind, clients), [])
        return [o.rps if unit == "requests/s" else o.latency.p99 or 0.0 for o in outcomes]


def table(cells: Iterable[Cell], payload: str) -> Table:
    """Medians over rounds: requests a second / p50 / p99 in ms, a server a row, clients across."""
    chosen = [cell for cell in cells if cell.payload == payload]
    clients = sorted({cell.clients for cell in chosen})
    rows = []
    for kind in dict.fromkeys(cell.kind for cell in chosen):
        line = [NAMES[kind]]
        for number in clients:
            found = [c.outcome for c in chosen if (c.kind, c.clients) == (kind, number)]
            rps = statistics.median(o.rps for o in found)
            p50, p99 = (statistics.median(getattr(o.latency, q) or 0.0 for o in found) for q in ("p50", "p99"))
            bad = sum(o.failed + o.refused for o in found)
            line.append(f"{rps:,.0f} / {p50:.1f} / {p99:.1f}" + (f" ({bad} not answered)" if bad else ""))
        rows.append(tuple(line))
    heads = [f"{n} client{'s' if n > 1 else ''}" for n in clients]
    return Table(title=f"Histories of {payload}: requests/s / p50 / p99 in ms", columns=("", *heads), rows=tuple(rows))


def _wrongs(cells: list[Cell]) -> list[Row]:
    bad = sum(c.outcome.failed + sum(n for k, n in c.outcome.warmup.items() if k != "ok") for c in cells)
    return [
        Row(
            benchmark="throughput",
            case=f"answers that were wrong or failed, of {sum(c.outcome.sent for c in cells):,} and the warm-up",
            ours=bad,
            unit="requests",
            score=bad,
            sense="<=",
            bar=0,
        )
    ]


def _tell(cell: Cell) -> None:
    o = cell.outcome
    print(
        f"round {cell.round + 1} {NAMES[cell.kind]}, {cell.payload}, {cell.clients} clients: {o.rps:,.0f} rps, "
        f"p50 {o.latency.p50 or 0:.1f} p99 {o.latency.p99 or 0:.1f} ms, {o.kinds}, load {cell.load_1min:.1f}"
        + (f", e.g. {o.examples[0]}" if o.examples else ""),
        file=sys.stderr,
        flush=True,
    )
