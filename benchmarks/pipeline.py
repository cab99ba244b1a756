"""A whole ``flts run`` in a fresh home: what share of it is neither model fitting nor Ray's start; then once more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import Row
from benchmarks.sources import Source, station
from flts_ray.env_names import LEGACY_NAMES

OURS = ("FLTS_", "SAMPLE_", "MLFLOW_", "RAY_", "AWS_")


def outside(wall_s: float, timings: dict[str, float]) -> float:
    """Seconds of a run that are neither the start of Ray nor the train stage (fits and what starts them)."""
    return wall_s - timings.get("ray_start", 0.0) - timings["train"]


def run(*, quick: bool) -> list[Row]:
    """Run twice in one home."""
    with tempfile.TemporaryDirectory(prefix="flts-bench-") as scratch:
        source, home = station(Path(scratch)), Path(scratch) / "home"
        extra = ["--set", "training.epochs=1"] if quick else []
        first_s, first = flts_run(source, home, extra)
        again_s, again = flts_run(source, home, extra)
    share = outside(first_s, first["timings_s"]) / first_s
    fits = {row["model"]: row["fit_s"] for row in first["leaderboard"] if row["role"] == "candidate"}
    return [
        Row(
            benchmark="pipeline",
            case=f"flts run on {source.name}, fresh home: share outside fitting and Ray's start",
            ours=outside(first_s, first["timings_s"]),
            unit="s",
            score=share,
            sense="<",
            bar=0.5,
            detail={"wall_s": first_s, "timings_s": first["timings_s"], "fit_s": fits, "verdict": first["verdict"]},
        ),
        Row(
            benchmark="pipeline",
            case="the same: from start to end",
            ours=first_s,
            unit="s",
            score=first_s,
            detail={"wall_s": first_s},
        ),
        Row(
            benchmark="pipeline",
            case="the same again, nothing left to fit",
            ours=again_s,
            unit="s",
            score=again_s / first_s,
            sense="<",
            detail={"wall_s": again_s, "timings_s": again["timings_s"]},
        ),
    ]


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
