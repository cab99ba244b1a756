"""Prophet on many stations: Ray tasks against one process, joblib and multiprocessing, with the same pins.

Every contestant fits the same jobs by the same function and starts cold: it imports Prophet in processes of its own,
within the time that is measured. Peers run in a fresh Python each; ours on a Ray that is up, as a job finds it.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.harness import Pairs, Row
from benchmarks.memory import Resident
from flts_ray.cluster import Cluster
from flts_ray.config import ProphetSettings, Settings
from flts_ray.config_layers import load_settings
from flts_ray.data.frame import SeriesFrame, segment_ids
from flts_ray.data.scaling import ColumnScaler
from flts_ray.models.prophet import FitJob, TargetFit, fit_series
from flts_ray.telemetry.logging import LOGGER
from flts_ray.training.prophet_tasks import fit_jobs, fit_prophet

STATIONS, ROWS, STEP_S, PROCESSES = 300, 720, 600.0, 2
PINS = {"OMP_NUM_THREADS": "1", "STAN_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
BARS = {"one process": 1.8, "multiprocessing": 1.0, "joblib": 1.0}


def run(*, quick: bool) -> list[Row]:
    """Fits per minute of all four in every round, and the memory that ours holds meanwhile."""
    stations, rounds = (8, 1) if quick else (STATIONS, 5)
    settings = prophet_settings()
    found: dict[str, list[float]] = {name: [] for name in ("ours", *PEERS)}
    growths, peaks_mb = [], []
    before = LOGGER.level
    LOGGER.setLevel(logging.ERROR)
    with Cluster(settings.run) as cluster:
        cluster.ensure()
        for number in range(rounds):
            order = ["ours", *PEERS]
            for name in order if number % 2 == 0 else reversed(order):
                found[name].append(ours(stations, settings) if name == "ours" else measured_alone(name, stations))
        for _ in range(1 if quick else 2):  # not timed: looking at memory four times a second costs ours a tenth
            with Resident() as memory:
                ours(stations, settings)
            growths.append(memory.growth)
            peaks_mb.append(max(memory.total_mb))
    LOGGER.setLevel(before)
    rows = [
        Pairs(tuple(found["ours"]), tuple(found[name])).row(
            higher_is_better=True,
            benchmark="stations",
            case=f"Prophet on {stations} stations of {ROWS} rows, {PROCESSES} CPUs, against {name}",
            unit="fits/min",
            bar=BARS[name],
        )
        for name in PEERS
    ]
    memory_row = Row(
        benchmark="stations",
        case="memory of driver and workers: last quarter of the fits over the second",
        ours=statistics.median(peaks_mb),
        unit="MB peak",
        score=statistics.median(growths),
        spread=(min(growths), max(growths)),
        sense="<",
        bar=1.1,
    )
    return [*rows, memory_row]


def prophet_settings() -> Settings:
    """The default settings with a short station's seasons, on a Ray of two CPUs."""
    return load_settings(options={"run.num_cpus": PROCESSES}, environ={}).settings


def frame_of(number: int) -> SeriesFrame:
    """A made-up station: a daily cycle, a slow wave, and noise that depends on the station's number only."""
    rng = np.random.default_rng(number)
    time_of = np.datetime64("2026-01-05T00:00", "ns") + np.arange(ROWS) * np.timedelta64(round(STEP_S), "s")
    day = np.arange(ROWS) * 2 * np.pi * STEP_S / 86_400
    bits = np.exp(14 + 0.6 * np.sin(day + rng.uniform(0, 6)) + 0.2 * np.sin(day / 3) + rng.normal(0, 0.25, ROWS))
    return SeriesFrame(
        series=f"station-{number:04d}",
        time=time_of,
        features=np.zeros((ROWS, 1), dtype=np.float32),
        targets=bits[:, None],
        observed=bits[:, None],
        segment=segment_ids(time_of, STEP_S),
        train_rows=ROWS,
    )


def stations_of(count: int) -> tuple[list[SeriesFrame], dict[str, tuple[ColumnScaler]]]:
    """Frames and scalers of the first ``count`` stations."""
    frames = [frame_of(number) for number in range(count)]
    return frames, {frame.series: (ColumnScaler(kind="log", offset=1.0),) for frame in frames}


def ours(count: int, settings: Settings) -> float:
    """Fits per minute through Ray, from the call to the forecaster."""
    frames, scalers = stations_of(count)
    started = time.perf_counter()
    fit = fit_prophet(frames, scalers, settings, step_s=STEP_S, rows=ROWS)
    elapsed_s = time.perf_counter() - started
    if fit.failures or len(fit.forecaster.series) != count:
        raise RuntimeError(f"not every station was fitted: {fit.failures}")
    return 60 * count / elapsed_s


def measured_alone(name: str, count: int) -> float:
    """Fits per minute of a peer, in a Python of its own with the pins."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.stations", name, str(count)],
        env={**os.environ, **PINS},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(json.loads(done.stdout)["fits_per_min"])


def fit_one(job: FitJob, settings: ProphetSettings) -> TargetFit:
    """What every contestant does with one station."""
    return fit_series(job, settings, horizon=1, seed=42)


def one_process(jobs: Sequence[FitJob], settings: ProphetSettings) -> list[TargetFit]:
    """A plain loop."""
    return [fit_one(job, settings) for job in jobs]


def with_joblib(jobs: Sequence[FitJob], settings: ProphetSettings) -> list[TargetFit]:
    """Loky's two processes, batches as it chooses."""
    from joblib import Parallel, delayed  # type: ignore[import-untyped]

    fits: list[TargetFit] = Parallel(n_jobs=PROCESSES)(delayed(fit_one)(job, settings) for job in jobs)
    return fits


def with_multiprocessing(jobs: Sequence[FitJob], settings: ProphetSettings) -> list[TargetFit]:
    """A pool of two processes, chunks as it chooses."""
    import multiprocessing

    with multiprocessing.Pool(PROCESSES) as pool:
        return pool.starmap(fit_one, [(job, settings) for job in jobs])


PEERS: Mapping[str, Callable[[Sequence[FitJob], ProphetSettings], list[TargetFit]]] = {
    "one process": one_process,
    "multiprocessing": with_multiprocessing,
    "joblib": with_joblib,
}


def main(name: str, count: int) -> dict[str, Any]:
    """One peer, measured in this process."""
    settings = prophet_settings()
    frames, scalers = stations_of(count)
    started = time.perf_counter()
    fits = PEERS[name](fit_jobs(frames, scalers, settings, rows=ROWS), settings.prophet)
    elapsed_s = time.perf_counter() - started
    return {"fits_per_min": 60 * len(fits) / elapsed_s, "seconds": elapsed_s}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
