"""A sweep on Ray Tune: reads no test rows, loses nothing when it is killed, and its winner becomes a candidate."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from flts_ray.cluster import Cluster
from flts_ray.config import Settings
from flts_ray.errors import ConfigError, TrainingError
from flts_ray.telemetry.heartbeat import Beat, Pulse
from flts_ray.training.fit import fit_recurrent, refit_recurrent
from flts_ray.training.refit import refit_best, tuned_id
from flts_ray.training.stage import bundle_of
from flts_ray.training.sweep import run_sweep
from flts_ray.training.sweep_ledger import Ledger, SweepResult, Trial, sweep_id
from tests.stages import Bench, make_bench

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

SPACE = {
    "recurrent.hidden_size": {"values": [4, 8]},
    "training.learning_rate": {"low": 0.002, "high": 0.05, "log": True},
}
TRIALS = 4


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A dataset whose test rows are gone."""
    made = make_bench(
        tmp_path_factory.mktemp("sweep"),
        tune={"trials": TRIALS, "space": SPACE},
        training={"epochs": 6, "batch_size": 32, "learning_rate": 0.02, "cpus_per_worker": 1},
    )
    made.store.delete(f"datasets/{made.dataset.dataset_id}/test")
    return made


Swept = tuple[SweepResult, list[Beat], list[Trial]]


def sweep(bench: Bench, settings: Settings | None = None) -> Swept:
    beats: list[Beat] = []
    told: list[Trial] = []
    chosen = settings or bench.settings
    with Cluster(chosen.run) as cluster:
        result = run_sweep(
            bench.dataset.dataset_id, chosen, store=bench.store, cluster=cluster, pulse=Pulse([beats.append]),
            on_trial=told.append,
        )  # fmt: skip
    return result, beats, told


@pytest.fixture(scope="module")
def swept(bench: Bench) -> Iterator[Swept]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield sweep(bench)
    torch.set_num_threads(threads)


def test_it_ends_with_as_many_trials_as_asked_for_and_never_opens_the_test_rows(bench: Bench, swept: Swept) -> None:
    result, _, _ = swept
    assert not bench.store.list(f"datasets/{bench.dataset.dataset_id}/test")
    assert len(result.trials) == TRIALS
    assert [trial.number for trial in result.trials] == list(range(1, TRIALS + 1))
    assert len({trial.key for trial in result.trials}) == TRIALS
    assert {trial.state for trial in result.trials} <= {"finished", "stopped"}
    assert result.best.best == min(trial.best for trial in result.trials if trial.best is not None)


def test_the_settings_as_they_are_come_first_once_a_network(bench: Bench, swept: Swept) -> None:
    result, _, _ = swept
    assert [trial.params["cell"] for trial in result.trials[:2]] == ["gru", "lstm"]
    for trial in result.trials[:2]:
        assert trial.params["recurrent.hidden_size"] == bench.settings.recurrent.hidden_size
        assert trial.params["training.learning_rate"] == bench.settings.training.learning_rate


def test_a_trial_is_the_plain_loop_to_the_bit(bench: Bench, swept: Swept) -> None:
    best = swept[0].best
    fitted = fit_recurrent(best.cell, bench.dataset.frames, bench.dataset.transforms, swept[0].best_settings)
    plain = [metrics.val_composite for metrics in fitted.result.history]
    assert [metrics["val_composite"] for metrics in best.history] == plain[: len(best.history)]


def test_what_is_told_ends_with_every_trial_done(swept: Swept) -> None:
    result, beats, told = swept
    last = [beat for beat in beats if beat["stage"] == "trials"][-1]
    assert (last["done"], last["running"], last["failed"], last["total"]) == (TRIALS, 0, 0, TRIALS)
    assert last["best"] == result.best.best
    assert {trial.number for trial in told if trial.state == "running"} == set(range(1, TRIALS + 1))
    assert sorted(trial.number for trial in told if trial.state != "running") == list(range(1, TRIALS + 1))
    ranks = {beat["rank"] for beat in beats if beat["stage"] == "epoch"}
    assert ranks == set(range(1, TRIALS + 1))


def test_it_is_done_once(bench: Bench, swept: Swept) -> None:
    again, beats, told = sweep(bench)
    assert again == swept[0]
    assert [beat["stage"] for beat in beats] == ["trials"]
    assert [trial.state for trial in told] == [trial.state for trial in swept[0].trials]


def test_asking_for_more_goes_on(bench: Bench, swept: Swept) -> None:
    more, _, told = sweep(bench, bench.with_settings(tune={"trials": TRIALS + 1}))
    assert more.trials[:TRIALS] == swept[0].trials
    assert len(more.trials) == TRIALS + 1
    assert {trial.number for trial in told if trial.state == "running"} == {TRIALS + 1}


def test_the_winner_learns_from_all_rows_and_is_judged_by_its_trial(bench: Bench, swept: Swept) -> None:
    result, beats = swept[0], list[Beat]()
    settings = result.best_settings
    with Cluster(settings.run) as cluster:
        first, second = (
            refit_best(
                result, store=bench.store, cluster=cluster, candidates=bench.candidates, pulse=Pulse([beats.append])
            )
            for _ in range(2)
        )
    assert first.summary.candidate_id == second.summary.candidate_id == tuned_id(result)
    assert first.summary.kind == "tuned"
    assert not first.reused
    assert second.reused
    assert beats[-1]["stage"] == "fitted"
    dataset, best = bench.dataset, result.best
    trial = fit_recurrent(best.cell, dataset.frames, dataset.transforms, settings)
    assert first.summary.facts["train_windows"] > trial.result.train_windows
    judged = bundle_of(trial.forecaster, "trial", dataset, settings)
    for name, scores in judged.interval_arrays.items():
        np.testing.assert_array_equal(first.bundle.interval_arrays[name], scores)
    everything = refit_recurrent(trial.forecaster, dataset.frames, dataset.transforms, settings)
    assert everything.result.train_windows == first.summary.facts["train_windows"]
    for name, values in everything.forecaster.state()[1].items():
        assert values.tobytes() == first.bundle.forecaster.state()[1][name].tobytes()


def test_a_trial_that_diverges_is_a_row_with_its_reason_and_all_of_them_an_error(bench: Bench) -> None:
    space = {"training.learning_rate": {"values": [1e30]}}
    wild = bench.with_settings(
        tune={"trials": 1, "space": space, "cells": ("gru",), "start_from_settings": False},
        recurrent={"target": "level"},
    )
    with pytest.raises(TrainingError, match=r"none of 1 trials .* not finite"):
        sweep(bench, wild)
    (trial,) = Ledger.open(bench.store, sweep_id(bench.dataset.dataset_id, wild)).trials.values()
    assert (trial.state, trial.again, trial.history) == ("failed", False, ())


def test_what_shapes_data_or_scores_is_refused_before_anything_starts(bench: Bench) -> None:
    settings = bench.with_settings(tune={"space": {"features.lags": {"values": [1, 2]}}})
    with pytest.raises(ConfigError, match=r"must not search features\.lags"):
        sweep(bench, settings)


CHILD = """
import sys
from flts_ray.cluster import Cluster
from flts_ray.config import Settings
from flts_ray.data.storage import Store
from flts_ray.telemetry.heartbeat import Pulse
from flts_ray.training.sweep import run_sweep
settings = Settings.model_validate_json(sys.stdin.read())
with Cluster(settings.run) as cluster:
    run_sweep(sys.argv[1], settings, store=Store(settings.run.home), cluster=cluster, pulse=Pulse())
"""


@pytest.mark.fault
@pytest.mark.timeout(400)
def test_a_killed_sweep_loses_no_trial_and_trains_no_epoch_twice(bench: Bench) -> None:
    settings = bench.with_settings(
        tune={"trials": 4, "grace_epochs": 60},
        training={"epochs": 60},
        seed=7,
    )
    dataset_id = bench.dataset.dataset_id

    def ledger() -> Ledger:
        return Ledger.open(bench.store, sweep_id(dataset_id, settings))

    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, dataset_id], stdin=subprocess.PIPE, env=environment, start_new_session=True
    )
    assert child.stdin is not None
    child.stdin.write(settings.model_dump_json().encode())
    child.stdin.close()
    try:
        # One has ended and one has begun: two that run side by side may end at once.
        _wait_for(lambda: {t.ended for t in ledger().trials.values()} == {True, False} or child.poll() is not None)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    before = ledger()
    ended = {trial.key: trial for trial in before.ended()}
    assert 1 <= len(ended) < 4
    resumed: dict[int, int] = {}
    trained: list[tuple[int, int]] = []

    def hear(beat: Beat) -> None:
        if beat["stage"] == "resumed":
            resumed[beat["rank"]] = beat["epoch"]
        elif beat["stage"] == "epoch":
            trained.append((beat["rank"], beat["epoch"]))

    with Cluster(settings.run) as cluster:
        result = run_sweep(dataset_id, settings, store=bench.store, cluster=cluster, pulse=Pulse([hear]))
    assert len(result.trials) == 4
    after = {trial.key: trial for trial in result.trials}
    assert {key: after[key] for key in ended} == ended
    numbers = {trial.number for trial in ended.values()}
    assert not numbers & {number for number, _ in trained}
    begun = [trial for trial in before.trials.values() if not trial.ended]
    assert begun
    assert {trial.key for trial in begun} <= after.keys()
    assert {trial.number for trial in begun} >= resumed.keys()
    for trial in result.trials:
        assert [metrics["epoch"] for metrics in trial.history] == list(range(1, len(trial.history) + 1))


def _wait_for(condition: Any, limit_s: float = 240.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)
