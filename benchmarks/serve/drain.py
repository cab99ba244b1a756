"""The service is stopped, and deployed anew, under load: what it has taken it finishes."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from typing import Any

from benchmarks.harness import Row
from benchmarks.serve.load import Generator
from benchmarks.serve.plan import Latency, Outcome
from benchmarks.serve.scenario import Options, Result, Table, failures, plan_for, scratch_folder, short_payloads
from benchmarks.serve.servers import NAMES, REPLICAS, Kind, Server, environ, ray_access, serving

CLIENTS = 32
STOP_BAR_S = 30.0
"""The drain that Ray Serve's throughput mode takes by default; ours must stay below it."""
REDEPLOY_S = 120.0
LONGEST_STOP_S = 15.0
"""Seconds that the load goes on after SIGTERM: to its end and beyond."""


def run(options: Options) -> Result:
    """Stop and redeploy each profile once a round."""
    payloads = short_payloads(options.home)
    found: list[dict[str, Any]] = []
    with scratch_folder() as scratch:
        for profile in options.profiles():
            for _ in range(options.rounds):
                with serving(profile, options.home, scratch, settings=options.settings) as server:
                    seconds = 4 * options.seconds
                    generator = Generator(plan_for(server, payloads, clients=CLIENTS, seconds=seconds))
                    _sleep_until(generator.began_s + options.seconds)
                    took, error = _redeploy(server, options)
                    found.append(_found(profile, "redeploy", took, error, generator.outcome()))
                    seconds = options.seconds + LONGEST_STOP_S
                    generator = Generator(plan_for(server, payloads, clients=CLIENTS, seconds=seconds))
                    _sleep_until(generator.began_s + options.seconds)
                    server.stop()
                    left = ", ".join(server.left_behind)
                    error = f"status {server.returncode}" if server.returncode else left and f"left behind: {left}"
                    found.append(_found(profile, "SIGTERM", server.stop_s or 0.0, error, generator.outcome()))
    return Result(name="drain", rows=_rows(found), tables=[_table(found)], detail={"events": found})


def _redeploy(server: Server, options: Options) -> tuple[float, str]:
    """Seconds until only new replicas ran, and why they do not, if so."""
    changed = f"serve.retry_after_s={1 + time.time() % 1:.3f}"
    settings = [f"serve.port={server.port}", f"serve.profile={server.kind}", *options.settings, changed]
    if server.kind == "throughput":
        settings.append(f"serve.replicas={REPLICAS}")
    address, access = ray_access(server)
    words = [sys.executable, "-m", "benchmarks.serve.redeploy", "--address", address]
    words += ["--home", str(options.home.folder), "--identifier", options.home.identifier]
    words += [word for setting in settings for word in ("--set", setting)]
    started = time.monotonic()
    try:
        done = subprocess.run(
            words, env=environ() | access, capture_output=True, text=True, timeout=REDEPLOY_S, check=False
        )
    except subprocess.TimeoutExpired:
        return REDEPLOY_S, "it did not end"
    took = re.search(r"redeployed in ([\d.]+) s", done.stdout)
    if done.returncode or not took:
        return time.monotonic() - started, done.stderr[-500:]
    return float(took[1]), ""


def _found(profile: Kind, event: str, seconds: float, error: str, outcome: Outcome) -> dict[str, Any]:
    return {
        "profile": profile,
        "event": event,
        "seconds": seconds,
        "error": error,
        "failed": outcome.failed,
        "failures": failures(outcome),
        "outcome": outcome.document(),
    }


def _rows(found: list[dict[str, Any]]) -> list[Row]:
    rows = []
    for profile, event in dict.fromkeys((f["profile"], f["event"]) for f in found):
        same = [f for f in found if (f["profile"], f["event"]) == (profile, event)]
        label = f"{NAMES[profile]}, {event} under {CLIENTS} clients"
        failed, sent = sum(f["failed"] for f in same), sum(f["outcome"]["sent"] for f in same)
        rows.append(_row(f"{label}: failed of {sent:,} requests taken", failed, "requests", 0, "<="))
        seconds = sorted(f["seconds"] for f in same)
        rows.append(_row(f"{label}: took", seconds[len(seconds) // 2], "s", STOP_BAR_S, "<"))
        wrong = [f["error"] for f in same if f["error"]]
        rows.append(_row(f"{label}: did not go as it should", len(wrong), "times", 0, "<=", {"errors": wrong}))
    return rows


def _row(case: str, value: float, unit: str, bar: float, sense: Any, detail: dict[str, Any] | None = None) -> Row:
    return Row(
        benchmark="drain", case=case, ours=value, unit=unit, score=value, sense=sense, bar=bar, detail=detail or {}
    )


def _table(found: list[dict[str, Any]]) -> Table:
    rows = []
    for f in found:
        outcome, latency = f["outcome"], Latency(**f["outcome"]["latency"])
        kinds = ", ".join(f"{kind} {n}" for kind, n in outcome["kinds"].items())
        figures = (latency.p50, latency.p99, latency.max)
        rows.append(
            (NAMES[f["profile"]], f["event"], round(f["seconds"], 1), kinds, *(x and round(x, 1) for x in figures))
        )
    columns = ("service", "event", "took s", "requests", "p50 ms", "p99 ms", "max ms")
    return Table(title=f"Stopped and redeployed under {CLIENTS} clients", columns=columns, rows=tuple(rows))


def _sleep_until(moment_s: float) -> None:
    time.sleep(max(0.0, moment_s - time.monotonic()))
