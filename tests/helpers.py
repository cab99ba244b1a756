"""Whole stations and whole command lines, for the suites that act as a user does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flts_ray.config import RAW_COLUMNS
from flts_ray.env_names import LEGACY_NAMES

REPOSITORY = Path(__file__).resolve().parents[1]
FLTS = (sys.executable, "-c", "from flts_ray.cli import main; main()")
OURS = ("FLTS_", "SAMPLE_", "MLFLOW_", "AWS_", "RAY_")


def station_values(rows: int, *, seed: int) -> np.ndarray:
    """``(rows, 11)`` reports whose next value a straight line cannot foretell, and a small network can."""
    rng = np.random.default_rng(seed)
    z = np.empty((rows, 2))
    z[0] = 0.1
    for t in range(1, rows):
        z[t] = np.clip(1 - 1.6 * np.abs(z[t - 1]) + rng.normal(0, 0.03, 2), -1, 1)
    values = rng.gamma(3.0, 2.0, (rows, len(RAW_COLUMNS)))
    values[:, :2] = np.exp(0.5 * z) * (1e8, 2e7)
    return values.round(3)


def write_csv(path: Path, values: np.ndarray, *, first: int = 0, step_s: int = 600) -> Path:
    """One file of reports, its first row ``first`` steps after the epoch of all test stations."""
    times = np.datetime64("2018-02-05T00:00:00") + (first + np.arange(len(values))) * np.timedelta64(step_s, "s")
    lines = [",".join(("time", *RAW_COLUMNS))]
    lines += [
        ",".join((str(time).replace("T", " "), *map(repr, row)))
        for time, row in zip(times, values.tolist(), strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_stations(
    folder: Path,
    names: tuple[str, ...],
    *,
    train: int = 600,
    test: int = 200,
    gap: int = 0,
    late: Mapping[str, int] | None = None,
) -> tuple[str, str]:
    """A folder of train files and one of test files, a pair a station, with a gap in steps between the two.

    Stations in ``late`` were set up so many rows before the end of the train rows.
    """
    for i, name in enumerate(names):
        values = station_values(train + test, seed=i)
        first = train - (late or {}).get(name, train)
        write_csv(folder / "train" / f"{name}.csv", values[first:train], first=first)
        write_csv(folder / "test" / f"{name}.csv", values[train:], first=train + gap)
    return str(folder / "train"), str(folder / "test")


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This environment without anything that configures the program."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS) and name not in LEGACY_NAMES}
    return {**kept, "OMP_NUM_THREADS": "1", **(extra or {})}


@dataclass(frozen=True)
class Answer:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """Its whole stdout as one JSON document."""
        found: dict[str, Any] = json.loads(self.out)
        return found

    @property
    def events(self) -> list[dict[str, Any]]:
        """The JSON lines among its stderr."""
        return [json.loads(line) for line in self.err.splitlines() if line.startswith('{"ts"')]

    def named(self, event: str) -> list[dict[str, Any]]:
        """Events of one name."""
        return [found for found in self.events if found["event"] == event]


def flts(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None, timeout_s: float = 280) -> Answer:
    """Run ``flts`` in a process of its own, in an otherwise clean environment."""
    done = subprocess.run(
        [*FLTS, *arguments],
        cwd=cwd,
        env=clean_environment(env),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def sets(settings: Mapping[str, Any]) -> list[str]:
    """Settings as ``--set`` options."""
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
