"""Five times as many requests as the service can answer: what it refuses, how it answers the rest, what it keeps."""

from __future__ import annotations

import threading
import time
from typing import Any

import psutil

from benchmarks.harness import Row
from benchmarks.serve.load import Generator, generate
from benchmarks.serve.plan import Latency, Outcome
from benchmarks.serve.scenario import Options, Result, Table, plan_for, scratch_folder, short_payloads
from benchmarks.serve.servers import NAMES, Kind, Server, serving

FACTOR = 5.0
TOGETHER = 32
"""Histories in one request: an expensive one, so that one generator can offer several times what is answered."""
BODIES = 4
CLIENTS = 8
HALF = 0.5
REFUSED_MS, RECOVERY_S, GROWTH_MB = 1000.0, 10.0, 500.0


class Memory:
    """Resident size of some processes together, looked at four times a second."""

    def __init__(self, processes: list[psutil.Process]) -> None:
        self._processes = processes
        self._stop = threading.Event()
        self.samples: list[tuple[float, float]] = []
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def mb(self) -> list[float]:
        """Megabytes, oldest first."""
        return [size for _, size in self.samples]

    def _follow(self) -> None:
        while not self._stop.wait(0.25):
            try:
                size = sum(process.memory_info().rss for process in self._processes) / 1e6
            except psutil.NoSuchProcess:
                continue  # a replica was replaced: the figures of the rest would not compare
            self.samples.append((time.monotonic(), size))


def run(options: Options) -> Result:
    """Each profile once a round; the first round is reported, the others must agree with the bars too."""
    payloads = short_payloads(options.home, together=TOGETHER, count=BODIES)
    found: list[dict[str, Any]] = []
    with scratch_folder() as scratch:
        for profile in options.profiles():
            for _ in range(options.rounds):
                with serving(profile, options.home, scratch, settings=options.settings) as server:
                    found.append(_round(profile, server, options, payloads))
    return Result(
        name="overload",
        rows=[row for profile in options.profiles() for row in _rows(profile, found, options)],
        tables=[_table(found)],
        detail={"histories_per_request": TOGETHER, "rounds": found},
    )


def _round(profile: Kind, server: Server, options: Options, payloads: Any) -> dict[str, Any]:
    capacity = generate(plan_for(server, payloads, clients=CLIENTS, seconds=options.seconds, warmup_s=3)).rps
    calm = generate(plan_for(server, payloads, rate=HALF * capacity, seconds=options.seconds))
    deadline_s = options.home.settings.serve.deadline_s
    with Memory(server.replicas()) as memory:
        time.sleep(1)
        before = max(memory.mb())
        seconds = 4 * options.seconds
        heavy = Generator(
            plan_for(
                server,
                payloads,
                rate=FACTOR * capacity,
                seconds=seconds,
                warmup_s=0,
                connections=4096,
                timeout_s=2 * deadline_s,
            )
        )
        time.sleep(max(0.0, heavy.began_s + seconds - time.monotonic()))
        after = Generator(
            plan_for(
                server,
                payloads,
                rate=HALF * capacity,
                seconds=2 * RECOVERY_S,
                warmup_s=0,
                timeout_s=2 * deadline_s,
                samples=True,
            )
        )
        overload, recovery = heavy.outcome(), after.outcome()
    sizes = memory.mb()
    return {
        "profile": profile,
        "capacity_rps": capacity,
        "offered_rps": FACTOR * capacity,
        "calm": calm.document(),
        "overload": overload.document(),
        "recovery": recovery.document(),
        "recovered_s": _recovered(recovery, calm),
        "rss_before_mb": before,
        "rss_peak_mb": max(sizes),
        "rss_end_mb": sizes[-1],
        "rss_mb": [round(size) for size in sizes],
        "failed": overload.failed,
        "refused_p99_ms": _refused_p99(overload),
    }


def _recovered(recovery: Outcome, calm: Outcome) -> float:
    """Seconds after the overload to the end of the last second with a wrong answer, or with 5 % that were not quick."""
    usual_ms = 2 * (calm.latency.p99 or 0.0) + 50
    seconds: dict[int, list[bool]] = {}
    for sample in recovery.samples:
        slow = sample.kind != "ok" or sample.latency_ms > usual_ms
        seconds.setdefault(int(sample.ended_s - recovery.began_s), []).append(slow)
    failed = {int(s.ended_s - recovery.began_s) for s in recovery.samples if s.kind != "ok"}
    late = [second for second, slow in seconds.items() if second in failed or sum(slow) > 0.05 * len(slow)]
    return float(max(late) + 1) if late else 0.0


def _refused_p99(outcome: Outcome) -> float | None:
    found = [latency.p99 for kind, latency in outcome.by_kind.items() if kind.startswith("refused")]
    return max((p99 for p99 in found if p99 is not None), default=None)


def _rows(profile: Kind, found: list[dict[str, Any]], options: Options) -> list[Row]:
    """The worst round decides."""
    rounds = [f for f in found if f["profile"] == profile]
    offered = max(f["offered_rps"] for f in rounds)
    label = f"{NAMES[profile]}, {FACTOR:g} times its capacity ({offered:.0f} requests/s)"
    deadline_ms = options.home.settings.serve.deadline_s * 1000
    slowest = max(f["overload"]["latency"]["max"] or 0.0 for f in rounds)
    quickly = max(f["refused_p99_ms"] or 0.0 for f in rounds)
    silent = sum(f["overload"]["without_retry_after"] for f in rounds)
    growth = max(f["rss_peak_mb"] - f["rss_before_mb"] for f in rounds)
    return [
        _row(f"{label}: neither answered rightly nor refused", sum(f["failed"] for f in rounds), "requests", 0),
        _row(f"{label}: slowest accepted request", slowest, "ms", deadline_ms),
        _row(f"{label}: refused, p99", quickly, "ms", REFUSED_MS),
        _row(f"{label}: refusals without Retry-After", silent, "requests", 0),
        _row(f"{label}: growth of the replicas' memory", growth, "MB", GROWTH_MB),
        _row(f"{label}: as quick as before after", max(f["recovered_s"] for f in rounds), "s", RECOVERY_S),
    ]


def _row(case: str, value: float, unit: str, bar: float) -> Row:
    return Row(benchmark="overload", case=case, ours=value, unit=unit, score=value, sense="<=", bar=bar)


def _table(found: list[dict[str, Any]]) -> Table:
    rows = []
    for f in found:
        overload, latency = f["overload"], Latency(**f["overload"]["latency"])
        kinds = ", ".join(f"{kind} {n}" for kind, n in overload["kinds"].items())
        figures = (f["capacity_rps"], f["offered_rps"], overload["rps"])
        tails = (latency.p50, latency.p99, f["refused_p99_ms"])
        sizes = (f["rss_before_mb"], f["rss_peak_mb"], f["rss_end_mb"])
        rows.append(
            (
                NAMES[f["profile"]],
                *(round(x, 1) for x in figures),
                kinds,
                *(x and round(x, 1) for x in tails),
                "-".join(f"{size:.0f}" for size in sizes),
                round(f["recovered_s"], 1),
            )
        )
    columns = ("service", "capacity rps", "offered rps", "answered rps", "requests", "p50 ms", "p99 ms")
    columns += ("refused p99 ms", "memory MB: before, peak, end", "recovered s")
    return Table(title=f"Overload, {TOGETHER} histories a request", columns=columns, rows=tuple(rows))
