"""SIGKILL to one of two replicas under load: what becomes of the requests, and when there are two again."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.harness import Row
from benchmarks.serve.load import Generator
from benchmarks.serve.plan import Latency, Sample
from benchmarks.serve.scenario import Options, Result, Table, plan_for, scratch_folder, short_payloads
from benchmarks.serve.servers import NAMES, REPLICAS, Server, ready_replicas, serving

CLIENTS = 32
LATEST_S = 60.0
"""Seconds after the kill at which two replicas should be up again."""


def run(options: Options) -> Result:
    """Kill a replica once a round."""
    payloads = short_payloads(options.home)
    rounds: list[dict[str, Any]] = []
    with scratch_folder() as scratch:
        for _ in range(options.rounds):
            with serving("throughput", options.home, scratch, settings=options.settings) as server:
                seconds = 2 * options.seconds + LATEST_S / 2
                generator = Generator(plan_for(server, payloads, clients=CLIENTS, seconds=seconds, samples=True))
                time.sleep(max(0.0, generator.began_s + options.seconds - time.monotonic()))
                server.replicas()[0].kill()
                killed_s = time.monotonic()
                restored_s = _full_strength(server, killed_s + LATEST_S)
                outcome = generator.outcome()
                rounds.append(_round(outcome.samples, killed_s, restored_s) | {"outcome": outcome.document()})
    return Result(name="kill", rows=_rows(rounds), tables=[_table(rounds)], detail={"rounds": rounds})


def _full_strength(server: Server, deadline_s: float) -> float | None:
    """When all replicas answered on their own ports, by ``time.monotonic``; None: not before the deadline."""
    while time.monotonic() < deadline_s:
        time.sleep(0.25)
        if ready_replicas(server) >= REPLICAS:
            return time.monotonic()
    return None


def _round(samples: tuple[Sample, ...], killed_s: float, restored_s: float | None) -> dict[str, Any]:
    def bad(sample: Sample) -> bool:
        return sample.kind != "ok" and not sample.kind.startswith("refused")

    flying = [s for s in samples if s.due_s <= killed_s <= s.ended_s]
    later = [s for s in samples if s.due_s > killed_s]
    before = [s for s in samples if s.ended_s < killed_s and s.kind == "ok"]
    troubled = [s for s in later if s.due_s < killed_s + 5 and s.kind == "ok"]
    kinds = [s.kind for s in (*flying, *later) if bad(s)]
    return {
        "in_flight": len(flying),
        "failed_in_flight": sum(map(bad, flying)),
        "failed_later": sum(map(bad, later)),
        "refused": sum(s.kind.startswith("refused") for s in (*flying, *later)),
        "kinds": {kind: kinds.count(kind) for kind in set(kinds)},
        "full_strength_s": None if restored_s is None else restored_s - killed_s,
        "p99_before_ms": Latency.of([s.latency_ms for s in before]).p99,
        "p99_after_ms": Latency.of([s.latency_ms for s in troubled]).p99,
        "longest_ms": Latency.of([s.latency_ms for s in (*flying, *later)]).max,
    }


def _rows(rounds: list[dict[str, Any]]) -> list[Row]:
    flying, failed, later = (sum(r[k] for r in rounds) for k in ("in_flight", "failed_in_flight", "failed_later"))
    times = sorted(r["full_strength_s"] if r["full_strength_s"] is not None else float("inf") for r in rounds)
    label = f"{NAMES['throughput']}, SIGKILL to one, {len(rounds)} times"
    return [
        _row(f"{label}: failed of {flying} requests in flight (not retried)", failed, "requests", flying / REPLICAS),
        _row(f"{label}: failed of the requests that came later", later, "requests", 0),
        _row(f"{label}: two replicas answer again after", times[len(times) // 2], "s", None),
    ]


def _row(case: str, value: float, unit: str, bar: float | None) -> Row:
    return Row(benchmark="kill", case=case, ours=value, unit=unit, score=value, sense="<=", bar=bar)


def _table(rounds: list[dict[str, Any]]) -> Table:
    columns = ("in_flight", "failed_in_flight", "failed_later", "refused", "full_strength_s")
    columns += ("p99_before_ms", "p99_after_ms", "longest_ms")
    rows = tuple(tuple(r[c] if r[c] is None else round(r[c], 2) for c in columns) for r in rounds)
    return Table(title="One replica of two killed", columns=tuple(c.replace("_", " ") for c in columns), rows=rows)
