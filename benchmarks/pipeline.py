"""A whole ``flts run`` in a fresh home: what share of it is neither model fitting nor Ray's start; then once more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.harness import Row
from benchmarks.sources import Source, station
from flts_ray.env_names import LEGACY_NAMES

OURS = ("FLTS_", "SAMPLE_", "MLFLOW_", "RAY_", "AWS_")


def outside(wall_s: float, timings: dict[str, float]) -> float:
    """Seconds of a run that are neither the start of Ray nor the train stage (fits and what starts them)."""
    return wall_s - timings.get("ray_start", 0.0) - timings["train"]


def fitting(events: Iterable[Mapping[str, Any]]) -> float:
    """Seconds in which some candidate was on its way: from the start of its fit to the last heartbeat of training.

    Narrower than the train stage: what follows a fit (end of the workers, intervals, saving) does not count.
    """
    spans: dict[str, list[float]] = {}
    for event in events:
        if event["event"] == "fit_started":
            spans[event["candidate"]] = [_seconds(event["ts"])] * 2
        elif event["event"] == "heartbeat" and event["stage"] in ("training", "epoch"):
            spans[event["candidate"]][1] = _seconds(event["ts"])
    total, reached = 0.0, 0.0
    for start, end in sorted(spans.values()):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def run(*, quick: bool) -> list[Row]:
    """Run twice in one home."""
    with tempfile.TemporaryDirectory(prefix="flts-bench-") as scratch:
        source, home = station(Path(scratch)), Path(scratch) / "home"
        extra = ["--set", "training.epochs=1"] if quick else []
        first_s, first = flts_run(source, home, extra)
        again_s, again = flts_run(source, home, extra)
        log = (home / "runs" / first["run_id"] / "events.jsonl").read_text(encoding="utf-8")
    timings = first["timings_s"]
    wide = outside(first_s, timings)
    strict = first_s - timings["ray_start"] - fitting(map(json.loads, log.splitlines()))
    detail = {"wall_s": first_s, "timings_s": timings, "verdict": first["verdict"]["state"]}
    same: dict[str, Any] = {"benchmark": "pipeline", "unit": "s"}
    run_name = f"flts run on {source.name}, fresh home"
    return [
        Row(
            case=f"{run_name}: outside the train stage and Ray's start (score: share)",
            ours=wide,
            score=wide / first_s,
            sense="<",
            bar=0.5,
            detail=detail,
            **same,
        ),
        Row(
            case="the same, only fits themselves taken out of the train stage (score: share)",
            ours=strict,
            score=strict / first_s,
            sense="<",
            bar=0.5,
            **same,
        ),
        Row(case="the same, from start to end", ours=first_s, score=first_s, **same),
        Row(
            case="the same again, nothing left to fit (score: share of the first run)",
            ours=again_s,
            score=again_s / first_s,
            detail={"timings_s": again["timings_s"]},
            **same,
        ),
    ]


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def flts_run(source: Source, home: Path, extra: list[str]) -> tuple[float, dict[str, Any]]:
    """One ``flts run --json`` in a process of its own: wall-clock seconds, and its document.

    Raises:
        RuntimeError: If it ended in an error.
    """
    files = [*(f"--train={path}" for path in source.train), *(f"--test={path}" for path in source.test)]
    entry = "from flts_ray.cli import main; main()"
    command = [sys.executable, "-c", entry, "run", *files, f"--home={home}", "--json", *extra]
    clean = {name: v for name, v in os.environ.items() if not name.startswith(OURS) and name not in LEGACY_NAMES}
    started = time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**clean, "OMP_NUM_THREADS": "1"}, cwd=home.parent
    )
    wall_s = time.perf_counter() - started
    if not done.stdout:
        raise RuntimeError(f"flts run ended with {done.returncode}: {done.stderr[-1000:]}")
    return wall_s, json.loads(done.stdout)
