"""Each expected candidate ends up fitted or failed; what is known is not fitted again, and starts no Ray."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import pytest

from flts_ray.candidates import FittedCandidate, candidate_id
from flts_ray.cluster import Cluster
from flts_ray.config import Settings
from flts_ray.errors import ResourceError, StalledError, TrainingError
from flts_ray.models.baselines import Persistence
from flts_ray.models.bundle import WEIGHTS_FILE
from flts_ray.telemetry.heartbeat import Beat, Pulse
from flts_ray.training import prophet_tasks, relay, trainer
from flts_ray.training.fit import FittedRecurrent, fit_recurrent
from flts_ray.training.stage import Trained, identity_of, train_candidates
from tests.stages import Bench, make_bench
from tests.training.fits import Event

pytestmark = pytest.mark.unit


class NoRay:
    """A cluster of two CPUs that only counts how often it was asked for."""

    def __init__(self) -> None:
        self.ensured = 0

    def ensure(self) -> None:
        self.ensured += 1

    def cpus(self) -> float:
        return 2.0

    def check_fits(self, *, name: str, workers: int, cpus_per_worker: float, gpus_per_worker: float = 0.0) -> None:
        if workers * cpus_per_worker > 2:
            raise ResourceError(f"{name} asks for too much")


class Quiet:
    """A relay that carries nothing."""

    def __init__(self, on_beat: Any) -> None:
        self.mailbox = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("training"), candidates=("gru", "lstm"), training={"epochs": 2})


class Fits:
    """Stands in for Ray Train with the plain loop; notes what it was asked for."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.run_names: list[str] = []
        self.refuses: dict[str, Exception] = {}
        self.resumed_from = 0
        self.fitting, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def __call__(self, cell: Any, *, run_name: str, settings: Settings, **_: Any) -> FittedRecurrent:
        self.run_names.append(run_name)
        self.fitting.set()
        assert self.go_on.wait(30)
        if cell in self.refuses:
            raise self.refuses[cell]
        fitted = fit_recurrent(cell, self.bench.dataset.frames, self.bench.dataset.transforms, settings)
        return replace(fitted, resumed_from_epoch=self.resumed_from)


@pytest.fixture
def fits(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Fits:
    found = Fits(bench)
    monkeypatch.setattr(trainer, "fit_on_ray", found)
    monkeypatch.setattr(relay, "Relay", Quiet)
    return found


def train(
    bench: Bench, settings: Settings, cluster: NoRay, beats: list[Beat] | None = None, owner: str = "one"
) -> Trained:
    return train_candidates(
        bench.dataset,
        settings,
        cluster=cast(Cluster, cluster),
        store=bench.store,
        candidates=bench.candidates,
        pulse=Pulse([] if beats is None else [beats.append]),
        owner=owner,
    )


def test_what_was_fitted_before_is_reused_and_needs_no_cluster(bench: Bench, fits: Fits) -> None:
    settings, beats = bench.with_settings(seed=1), list[Beat]()
    first = train(bench, settings, NoRay(), beats)
    assert (list(first.fitted), first.failures) == (["gru", "lstm"], {})
    assert [beat["stage"] for beat in beats if beat["candidate"] == "gru"] == ["starting", "fitted"]
    names = [candidate_id(kind, bench.dataset.dataset_id, settings) for kind in ("gru", "lstm")]
    assert sorted(fits.run_names) == sorted(names)
    idle = NoRay()
    again = train(bench, settings, idle)
    assert idle.ensured == 0
    assert len(fits.run_names) == 2
    assert all(candidate.reused for candidate in again.fitted.values())
    assert {k: c.summary for k, c in again.fitted.items()} == {k: c.summary for k, c in first.fitted.items()}


def test_a_fit_is_saved_with_where_it_comes_from_and_how_it_went(bench: Bench, fits: Fits) -> None:
    fitted: FittedCandidate = train(bench, bench.with_settings(seed=2, candidates=("gru",)), NoRay()).fitted["gru"]
    manifest = fitted.bundle.manifest
    assert manifest.identity == identity_of(bench.dataset.claim, fitted.summary.candidate_id)
    assert manifest.identity.claim_digest == bench.dataset.claim.digest()
    assert set(manifest.transforms) == {"alpha"}
    assert [metrics["epoch"] for metrics in fitted.summary.history] == [1, 2]
    facts = fitted.summary.facts
    assert facts["train_windows"] + facts["validation_windows"] == 240 - 4
    assert fitted.summary.fit_s > 0


def test_a_station_too_short_to_learn_from_is_left_out_with_an_event_and_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: Fits, events: list[Event]
) -> None:
    bench = make_bench(tmp_path, ("alpha", "short"), late={"short": 5}, candidates=("gru",), training={"epochs": 1})
    monkeypatch.setattr(fits, "bench", bench)
    fitted = train(bench, bench.settings, NoRay()).fitted["gru"]
    ((fields, facts),) = [(fields, fitted.summary.facts) for name, fields in events if name == "series_left_out"]
    assert (fields["candidate"], fields["series"]) == ("gru", "short")
    assert "no gap-free stretch of 5 rows among the 4 train rows" in fields["reason"]
    assert facts["left_out"] == {"short": fields["reason"]}
    assert facts["train_windows"] + facts["validation_windows"] == 240 - 4
    assert set(fitted.bundle.manifest.transforms) == {"alpha", "short"}


def test_one_that_fails_is_a_failure_with_its_reason_and_the_other_is_fitted(bench: Bench, fits: Fits) -> None:
    fits.refuses = {"gru": TrainingError("the loss of gru is not finite")}
    trained = train(bench, bench.with_settings(seed=3), NoRay())
    assert list(trained.fitted) == ["lstm"]
    assert trained.failures == {"gru": "the loss of gru is not finite"}
    assert trained.failure_codes == {"gru": TrainingError.exit_code}
    fits.refuses = {}
    healed = train(bench, bench.with_settings(seed=3), NoRay())
    assert (list(healed.fitted), healed.failures) == (["gru", "lstm"], {})
    assert [healed.fitted[kind].reused for kind in ("gru", "lstm")] == [False, True]


def test_each_failure_keeps_the_exit_code_of_its_error(bench: Bench, fits: Fits) -> None:
    fits.refuses = {"gru": StalledError("it hung"), "lstm": ZeroDivisionError()}
    trained = train(bench, bench.with_settings(seed=8), NoRay())
    assert trained.failures == {"gru": "it hung", "lstm": "ZeroDivisionError"}
    assert trained.failure_codes == {"gru": 60, "lstm": 1}


def test_a_resumed_fit_says_so_in_its_facts(bench: Bench, fits: Fits) -> None:
    settings = bench.with_settings(seed=9, candidates=("gru",))
    fits.resumed_from = 1
    assert train(bench, settings, NoRay()).fitted["gru"].summary.facts["resumed_from_epoch"] == 1


def test_of_two_runs_at_once_one_fits_and_the_other_waits_for_it(bench: Bench, fits: Fits, events: list[Event]) -> None:
    settings = bench.with_settings(seed=10, candidates=("gru",))
    fits.go_on.clear()
    results: dict[str, Trained] = {}

    def run(owner: str) -> None:
        results[owner] = train(bench, settings, NoRay(), owner=owner)

    threads = [threading.Thread(target=run, args=(owner,)) for owner in ("first", "second")]
    threads[0].start()
    assert fits.fitting.wait(30)
    threads[1].start()
    while "candidate_waiting" not in [name for name, _ in events]:
        time.sleep(0.01)
    fits.go_on.set()
    for thread in threads:
        thread.join()
    (waiting,) = [fields for name, fields in events if name == "candidate_waiting"]
    assert waiting["candidate"] == "gru"
    assert "first" in waiting["holder"]
    assert len(fits.run_names) == 1
    assert [results[owner].fitted["gru"].reused for owner in ("first", "second")] == [False, True]


def test_a_damaged_candidate_is_fitted_anew(bench: Bench, fits: Fits) -> None:
    settings = bench.with_settings(seed=4, candidates=("gru",))
    folder = train(bench, settings, NoRay()).fitted["gru"].folder
    (folder / WEIGHTS_FILE).write_bytes(b"not weights")
    again = train(bench, settings, NoRay())
    assert not again.fitted["gru"].reused
    assert len(fits.run_names) == 2


def test_force_fits_anew_and_resumes_nothing(bench: Bench, fits: Fits) -> None:
    settings = bench.with_settings(seed=5, candidates=("gru",))
    name = train(bench, settings, NoRay()).fitted["gru"].summary.candidate_id
    forced = train(bench, bench.with_settings(seed=5, candidates=("gru",), run={"force": True}), NoRay())
    assert not forced.fitted["gru"].reused
    assert forced.fitted["gru"].summary.candidate_id == name
    assert fits.run_names[0] == name
    assert fits.run_names[1] != name, "a forced fit must not go on from the checkpoints of the one before"


def test_what_can_never_fit_is_refused_before_anything_is_trained(bench: Bench, fits: Fits) -> None:
    with pytest.raises(ResourceError, match="gru asks for too much"):
        train(bench, bench.with_settings(seed=6, training={"workers": 3}), NoRay())
    assert fits.run_names == []


def test_a_prophet_that_failed_on_one_series_has_no_result(
    bench: Bench, fits: Fits, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise TrainingError("none of 1 fits succeeded")

    monkeypatch.setattr(prophet_tasks, "fit_prophet", fails)
    trained = train(bench, bench.with_settings(seed=7, candidates=("prophet", "gru")), NoRay())
    assert list(trained.fitted) == ["gru"]
    assert trained.failures == {"prophet": "none of 1 fits succeeded"}


class Alpha(Persistence):
    """Stands in for Prophet: knows one station only."""

    def knows(self, series: str) -> bool:
        return series == "alpha"


def test_a_series_that_failed_is_a_row_with_its_reason_and_not_the_end_of_the_others(
    tmp_path: Path, fits: Fits, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = make_bench(tmp_path, ("alpha", "beta"), candidates=("prophet",))
    asked: list[int] = []
    again = True

    def partly(*_: Any, **__: Any) -> prophet_tasks.ProphetFit:
        asked.append(1)
        return prophet_tasks.ProphetFit(
            forecaster=cast(Any, Alpha.fit(pair.settings)),
            failures={("beta", "down"): "stalled"},
            again=again,
            fit_s=1.0,
        )

    monkeypatch.setattr(prophet_tasks, "fit_prophet", partly)
    trained = train(pair, pair.settings, NoRay())
    assert trained.failures == {}
    fitted = trained.fitted["prophet"]
    assert fitted.summary.failures == {"beta": "Prophet could not be fitted on down: stalled"}
    assert fitted.bundle.series == ("alpha",), "what it does not know is not in what it is served from"
    train(pair, pair.settings, NoRay())
    assert len(asked) == 2, "a fit that may work the next time is tried the next time"
    again = False
    train(pair, pair.settings, NoRay())
    train(pair, pair.settings, NoRay())
    assert len(asked) == 3, "one that cannot is not"
