"""A sweep of 20 trials on two CPUs: how busy they are, what a kill costs, and whether the winner is worth the search.

The first sweep is killed (SIGKILL, driver and Ray) when 8 trials have ended, and taken up again. The second runs
through, and is timed from before Ray starts until its result is there. Shares of CPU time are those of the sweep's own
processes: on a machine that others use they say less than they would on a quiet one, so the share of time in which a
trial trained on each CPU, and how busy the whole machine was, stand beside them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil

from benchmarks.harness import Row
from benchmarks.sources import Source, prepare, station
from flts_ray.candidates import CandidateStore
from flts_ray.cluster import Cluster
from flts_ray.config import Settings
from flts_ray.data.dataset import Dataset
from flts_ray.data.storage import Store
from flts_ray.evaluation.backtest import common_origins
from flts_ray.evaluation.stage import entry, fit_baselines, leaderboard
from flts_ray.models.base import Forecaster
from flts_ray.telemetry.heartbeat import Pulse
from flts_ray.training.fit import fit_recurrent
from flts_ray.training.sweep_ledger import Ledger, SweepResult, sweep_id

TRIALS, KILL_AT, CPUS = 20, 8, 2
BUSY_BAR = 0.85
SAMPLE_S = 0.25


def run(*, quick: bool) -> list[Row]:
    """Kill and resume one sweep, time another, and score its winner on the test rows."""
    trials, kill_at = (4, 2) if quick else (TRIALS, KILL_AT)
    with tempfile.TemporaryDirectory(prefix="flts-bench-") as scratch:
        source = station(Path(scratch))
        options: dict[str, Any] = {"tune__trials": trials, **({"training__epochs": 2} if quick else {})}
        home = f"{scratch}/home"
        with Cluster(Settings().run) as cluster:
            cluster.ensure()
            settings, dataset = prepare(source, Store(home), options)
        rows = [_killed(settings, dataset.dataset_id, home, kill_at)]
        Store(home).delete("sweeps")
        sweep, row = _timed(settings, dataset.dataset_id, home)
        return [*rows, row, _winner(source, settings, dataset, sweep, home)]


def _killed(settings: Settings, dataset_id: str, home: str, kill_at: int) -> Row:
    """Kill the driver and its Ray at a trial, run the same again: every trial once, all of them."""

    def ledger() -> Ledger:
        return Ledger.open(Store(home), sweep_id(dataset_id, settings))

    first = _start(settings, dataset_id, home)
    try:
        while len(list(ledger().ended())) < kill_at and first.poll() is None:
            time.sleep(SAMPLE_S)
    finally:
        tree = [*psutil.Process(first.pid).children(recursive=True)] if first.poll() is None else []
        os.killpg(first.pid, signal.SIGKILL)
        for process in tree:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        first.wait()
    before = {trial.key: trial for trial in ledger().trials.values()}
    again = _start(settings, dataset_id, home)
    if again.wait() != 0:
        raise RuntimeError("the second attempt at the sweep failed: see its output above")
    after = {trial.key: trial for trial in ledger().trials.values()}
    kept = sum(after[key] == trial for key, trial in before.items() if trial.ended)
    epochs = json.loads(Path(home, "epochs.json").read_text(encoding="utf-8"))
    return Row(
        benchmark="sweep",
        case=f"killed at trial {kill_at}, resumed: finished trials",
        ours=sum(trial.ended for trial in after.values()),
        peer=settings.tune.trials,
        unit="trials",
        score=float(
            len(after) == settings.tune.trials
            and all(trial.ended for trial in after.values())
            and kept == sum(trial.ended for trial in before.values())
        ),
        bar=1.0,
        detail={
            "ended_before_the_kill": sum(trial.ended for trial in before.values()),
            "kept_as_they_were": kept,
            "running_at_the_kill": sum(not trial.ended for trial in before.values()),
            "epochs_trained_twice": len(epochs) - len({tuple(epoch) for epoch in epochs}),
        },
    )


def _start(settings: Settings, dataset_id: str, home: str) -> subprocess.Popen[bytes]:
    code = (
        "from benchmarks.sweep import child; from flts_ray.config import Settings; import sys;"
        "child(Settings.model_validate_json(sys.stdin.read()), *sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, dataset_id, home], stdin=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    if process.stdin is not None:
        process.stdin.write(settings.model_dump_json().encode())
        process.stdin.close()
    return process


def child(settings: Settings, dataset_id: str, home: str) -> None:
    """One attempt at the sweep, in its own process; notes every epoch that was trained in it."""
    noted = Path(home, "epochs.json")
    epochs: list[tuple[int, int]] = json.loads(noted.read_text(encoding="utf-8")) if noted.exists() else []
    resumed: dict[int, int] = {}

    def hear(beat: dict[str, Any]) -> None:
        if beat["candidate"] != "sweep" or "rank" not in beat:
            return
        if beat["stage"] == "resumed":
            resumed[beat["rank"]] = beat["epoch"]
        elif beat["stage"] == "epoch" and beat["epoch"] > resumed.get(beat["rank"], 0):
            epochs.append((beat["rank"], beat["epoch"]))
            noted.write_text(json.dumps(epochs), encoding="utf-8")

    _sweep(settings, dataset_id, home, Pulse([hear]))


def _sweep(settings: Settings, dataset_id: str, home: str, pulse: Pulse) -> SweepResult:
    from flts_ray.training.sweep import run_sweep

    run = settings.run.model_copy(update={"num_cpus": CPUS})
    with Cluster(run) as cluster:
        return run_sweep(dataset_id, settings, store=Store(home), cluster=cluster, pulse=pulse, owner="benchmark")


def _timed(settings: Settings, dataset_id: str, home: str) -> tuple[SweepResult, Row]:
    """A sweep from before Ray starts to its result."""
    last: dict[int, float] = {}
    held_s: list[float] = []

    def hear(beat: dict[str, Any]) -> None:
        if beat["candidate"] == "sweep" and "rank" in beat:
            if beat["stage"] != "loading":
                held_s.append(beat["time_ms"] / 1e3 - last[beat["rank"]])
            last[beat["rank"]] = beat["time_ms"] / 1e3

    cpu_s: dict[int, float] = {}
    over = Event()

    def sample() -> None:
        own = psutil.Process()
        while not over.wait(SAMPLE_S):
            for process in [own, *own.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    cpu_s[process.pid] = times.user + times.system

    mine = psutil.Process().cpu_times()
    spent_before = mine.user + mine.system
    sampler = Thread(target=sample, daemon=True)
    sampler.start()
    machine = psutil.cpu_times()
    started = time.perf_counter()
    result = _sweep(settings, dataset_id, home, Pulse([hear]))
    wall_s = time.perf_counter() - started
    over.set()
    sampler.join()
    idle_s = psutil.cpu_times().idle - machine.idle
    own_s = sum(cpu_s.values()) - spent_before
    return result, Row(
        benchmark="sweep",
        case=f"{len(result.trials)} trials on {CPUS} CPUs: share of their time used, start included",
        ours=wall_s,
        unit="s",
        score=own_s / (CPUS * wall_s),
        bar=BUSY_BAR,
        detail={
            "training_share": sum(held_s) / (CPUS * wall_s),
            "machine_busy_share": 1 - idle_s / ((psutil.cpu_count() or 1) * wall_s),
            "epochs": sum(len(trial.history) for trial in result.trials),
            "stopped_early": sum(trial.state == "stopped" for trial in result.trials),
            "load_1min": os.getloadavg()[0],
        },
    )


def _winner(source: Source, settings: Settings, dataset: Dataset, sweep: SweepResult, home: str) -> Row:
    """The refitted winner against the better of the default networks, on the test rows."""
    from flts_ray.training.refit import refit_best

    store = Store(home)
    with Cluster(settings.run) as cluster:
        candidate = refit_best(
            sweep, store=store, cluster=cluster, candidates=CandidateStore(Path(home), store), pulse=Pulse()
        )
    models: dict[str, Forecaster] = {"tuned": candidate.bundle.forecaster}
    for cell in settings.tune.cells:
        models[cell] = fit_recurrent(cell, dataset.frames, dataset.transforms, settings).forecaster
    baselines = fit_baselines(dataset, settings)
    origins = {frame.series: common_origins(frame, list(models.values())) for frame in dataset.frames}
    entries = [
        entry(name, "baseline", baselines[name].model, baselines[name].frames, origins, {}, fit_s=None)
        for name in ("persistence", "ridge")
    ]
    entries += [
        entry(name, "candidate", model, dataset.frames, origins, {}, fit_s=None) for name, model in models.items()
    ]
    board = leaderboard(entries, dataset, settings)
    scores = {name: board.overall(name) for name in [*models, "persistence", "ridge"]}
    found = {name: row.model_dump() for name, row in scores.items() if row is not None}
    composite = {name: row["composite"] for name, row in found.items()}
    best = min((name for name in settings.tune.cells), key=lambda name: composite[name])
    return Row(
        benchmark="sweep",
        case=f"{source.name}: winner against {best} as it is, composite on the test rows",
        ours=composite["tuned"],
        peer=composite[best],
        unit="composite",
        score=composite[best] / composite["tuned"],
        bar=1.0,
        detail={
            "params": sweep.best.params,
            "trial": sweep.best.number,
            "scores": found,
        },
    )
