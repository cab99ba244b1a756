"""Finished runs in the home folder: found and read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flts_ray.errors import ConfigError, IntegrityError

RUN_FILE = "run.json"


def finished_runs(home: Path) -> list[str]:
    """Ids of the runs that ended with a verdict, oldest first."""
    files = sorted((home / "runs").glob(f"*/{RUN_FILE}"), key=lambda file: file.stat().st_mtime_ns)
    return [file.parent.name for file in files]


def read_run(home: Path, run_id: str | None) -> dict[str, Any]:
    """The document of a finished run, as ``flts run --json`` printed it.

    Args:
        home: The home folder.
        run_id: Which run; None: the latest.

    Raises:
        ConfigError: If there is no such run.
        IntegrityError: If its file cannot be read.
    """
    known = finished_runs(home)
    if not known:
        raise ConfigError(f"there is no finished run in {home}: start one with `flts run`, or name another --home")
    if run_id is not None and run_id not in known:
        raise ConfigError(f"there is no finished run '{run_id}' in {home}: the latest is {known[-1]}")
    file = home / "runs" / (run_id or known[-1]) / RUN_FILE
    try:
        document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{file} cannot be read ({error}): run again") from error
    return document
