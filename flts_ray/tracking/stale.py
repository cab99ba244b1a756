"""Runs that MLflow shows as RUNNING although nobody works on them."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flts_ray.config import TrackingSettings
from flts_ray.runs import RUNS, is_alive
from flts_ray.tracking.client import RUNNING, Gateway, now_ms
from flts_ray.tracking.delivery import HOME, HOST, RUN_KEY

FORGOTTEN_MS = 3_600_000
"""Age at which a run of this host without a folder counts as dead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StaleRun:
    """A run without a process.

    Attributes:
        run_id: MLflow's id.
        run_key: Its key: the run, or the run and the candidate.
        host: Where it was started.
        age_s: Seconds since it was started.
    """

    run_id: str
    run_key: str
    host: str
    age_s: float


def stale_runs(settings: TrackingSettings, home: Path) -> list[StaleRun]:
    """Runs of this program that are RUNNING in the store and not at work, as far as this machine can tell.

    Those whose folder is here (in ``home``, or in the home that they name, on this host) and is not held by a process;
    and those of this host that are over an hour old and have no folder. Deliver the journals first (:func:`sync`):
    that ends most of them with the right time.

    Raises:
        TrackingError: If the store refused or did not answer.
    """
    gateway = Gateway(settings, home)
    host, now = socket.gethostname(), now_ms()
    found = []
    for run in gateway.find_runs(gateway.experiment_id(), f"attributes.status = '{RUNNING}'"):
        key = run.tags.get(RUN_KEY, "")
        here = run.tags.get(HOST) == host
        homes = [home, *([Path(run.tags[HOME])] if here and HOME in run.tags else [])]
        folders = [folder for place in homes if (folder := place / RUNS / key.partition("/")[0]).is_dir()]
        forgotten = here and not folders and now - run.start_ms > FORGOTTEN_MS
        if key and (forgotten or (folders and not any(is_alive(folder) for folder in folders))):
            age_s = (now - run.start_ms) / 1000
            found.append(StaleRun(run_id=run.run_id, run_key=key, host=run.tags.get(HOST, ""), age_s=age_s))
    return found


def end_stale(settings: TrackingSettings, home: Path, stale: Sequence[StaleRun]) -> None:
    """End such runs as KILLED, now.

    Raises:
        TrackingError: If the store refused or did not answer.
    """
    gateway = Gateway(settings, home)
    for run in stale:
        gateway.end_run(run.run_id, "KILLED", now_ms())
