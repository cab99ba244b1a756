"""Training under Ray Train is the plain loop: same bits, with more workers, and after a worker has died."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flts_ray.cluster import Cluster
from flts_ray.config import Settings
from flts_ray.data.dataset import Dataset, load_dataset
from flts_ray.data.preprocess import preprocess
from flts_ray.data.storage import Store
from flts_ray.errors import DataError, ResourceError, TrainingError
from flts_ray.telemetry.heartbeat import Beat
from flts_ray.training import trainer
from flts_ray.training.fit import FittedRecurrent, fit_recurrent
from flts_ray.training.trainer import Relay, fit_on_ray
from tests.helpers import write_stations

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

EPOCHS = 5
WORKER = trainer._train_worker
CLOCKS = ("seconds", "windows_per_s", "rss_mb")


@dataclass(frozen=True)
class Setup:
    store: Store
    dataset: Dataset
    settings: Settings

    def fit(self, name: str, *, workers: int = 1, dataset_id: str = "", **training: Any) -> tuple[Any, list[Beat]]:
        """Train on Ray; also the heartbeats."""
        beats: list[Beat] = []
        changed = self.settings.training.model_copy(update={"workers": workers, **training})
        with Relay(beats.append) as relay:
            fitted = fit_on_ray(
                "gru",
                store=self.store,
                dataset_id=dataset_id or self.dataset.dataset_id,
                settings=self.settings.model_copy(update={"training": changed}),
                run_name=name,
                relay=relay,
            )
        return fitted, beats


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Setup:
    folder = tmp_path_factory.mktemp("trainer")
    train, test = write_stations(folder, ("alpha", "beta"), train=150, test=20)
    settings = Settings.model_validate(
        {
            "data": {"train": train, "test": test, "targets": ("down", "up")},
            "features": {"ema_spans": (6,), "rolling_std": (), "profile": False},
            "windows": {"lookback": 4, "horizon": 2},
            "recurrent": {"hidden_size": 8},
            "training": {"epochs": EPOCHS, "batch_size": 33, "cpus_per_worker": 0.5},
        }
    )
    Cluster(settings.run).ensure()  # prepares the environment; Ray runs already
    store = Store(str(folder / "home"))
    claim = preprocess(settings, store, code_version="test").claim
    return Setup(store, load_dataset(store, claim.dataset_id), settings)


@pytest.fixture(scope="module")
def plain(setup: Setup) -> Iterator[FittedRecurrent]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield fit_recurrent("gru", setup.dataset.frames, setup.dataset.transforms, setup.settings)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def alone(setup: Setup) -> tuple[FittedRecurrent, list[Beat]]:
    return setup.fit("alone")


def numbers(fitted: FittedRecurrent) -> list[dict[str, float]]:
    """The history without what a clock measured."""
    return [{k: v for k, v in asdict(metrics).items() if k not in CLOCKS} for metrics in fitted.result.history]


def weights(fitted: FittedRecurrent) -> dict[str, np.ndarray]:
    return dict(fitted.forecaster.state()[1])


def assert_same_bits(one: FittedRecurrent, other: FittedRecurrent) -> None:
    assert numbers(one) == numbers(other)
    assert one.forecaster.state()[0] == other.forecaster.state()[0]
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    assert mine
    for name, values in mine.items():
        assert values.tobytes() == theirs[name].tobytes(), name


def test_one_worker_is_the_plain_loop_to_the_bit(
    alone: tuple[FittedRecurrent, list[Beat]], plain: FittedRecurrent
) -> None:
    fitted, _ = alone
    assert len(fitted.result.history) == EPOCHS
    assert fitted.result.workers == 1
    assert_same_bits(fitted, plain)


def test_heartbeats_tell_of_loading_with_its_memory_and_of_every_epoch(
    alone: tuple[FittedRecurrent, list[Beat]],
) -> None:
    fitted, beats = alone
    assert {(beat["candidate"], beat["rank"]) for beat in beats} == {("gru", 0)}
    loading, loaded = beats[0], beats[1]
    assert (loading["stage"], loaded["stage"]) == ("loading", "loaded")
    assert loading["rss_mb"] == loaded["rss_before_mb"] > 1
    assert loaded["rss_mb"] >= loaded["rss_before_mb"]
    epochs = [beat for beat in beats if beat["stage"] == "epoch"]
    assert [beat["epoch"] for beat in epochs] == list(range(1, EPOCHS + 1))
    assert [beat["val_rmse_bits"] for beat in epochs] == [m.val_rmse_bits for m in fitted.result.history]
    times = [beat["time_ms"] for beat in beats]
    assert times == sorted(times)


def test_two_workers_are_one_worker_at_the_same_global_batch(setup: Setup, plain: FittedRecurrent) -> None:
    fitted, beats = setup.fit("two", workers=2)
    assert fitted.result.workers == 2
    assert {beat["rank"] for beat in beats} == {0, 1}
    assert {beat["rank"] for beat in beats if beat["stage"] == "epoch"} == {0}
    for mine, theirs in zip(numbers(fitted), numbers(plain), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3)
    for name, values in weights(plain).items():
        np.testing.assert_allclose(weights(fitted)[name], values, rtol=1e-3, atol=1e-4)


def assert_resumed(beats: list[Beat]) -> None:
    """Resumed once, from the last checkpoint that Ray Train had taken note of before the death in epoch 3."""
    stages = [(beat["stage"], beat["epoch"]) for beat in beats if "epoch" in beat]
    (start,) = (i for i, (stage, _) in enumerate(stages) if stage == "resumed")
    kept = stages[start][1]
    assert kept in (1, 2)
    assert stages[start + 1 :] == [("epoch", epoch) for epoch in range(kept + 1, EPOCHS + 1)]


def dying_worker(config: dict[str, Any]) -> dict[str, Any]:
    """A worker whose process is killed in its third epoch, once for every file in ``deaths``."""
    own_epoch = trainer._Beats.epoch
    deaths = Path(os.environ["FLTS_TEST_DEATHS"])

    def epoch(self: Any, metrics: Any, capture: Any) -> None:
        if metrics.epoch == 3 and deaths.exists():
            deaths.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        own_epoch(self, metrics, capture)

    trainer._Beats.epoch = epoch  # type: ignore[method-assign]
    return WORKER(config)


class DyingWorker:
    """Carries the place of the flag to the worker's process."""

    def __init__(self, flag: Path) -> None:
        flag.touch()
        self.flag = flag

    def __call__(self, config: dict[str, Any]) -> dict[str, Any]:
        os.environ["FLTS_TEST_DEATHS"] = str(self.flag)
        return dying_worker(config)


@pytest.fixture
def dies_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "_train_worker", DyingWorker(tmp_path / "deaths"))


@pytest.mark.fault
@pytest.mark.usefixtures("dies_once")
def test_a_killed_worker_is_replaced_and_goes_on_from_its_checkpoint(setup: Setup, plain: FittedRecurrent) -> None:
    fitted, beats = setup.fit("replaced", max_failures=1)
    assert_resumed(beats)
    assert {beat["epoch"] for beat in beats if beat["stage"] == "epoch"} == {1, 2, 3, 4, 5}
    assert_same_bits(fitted, plain)


@pytest.mark.fault
def test_a_run_that_was_cut_off_continues_under_its_name(
    setup: Setup, plain: FittedRecurrent, dies_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TrainingError, match=r"^training gru failed on its workers: rank 0: \S.*$"):
        setup.fit("cut-off", max_failures=0)
    monkeypatch.setattr(trainer, "_train_worker", WORKER)
    fitted, beats = setup.fit("cut-off", max_failures=0)
    assert_resumed(beats)
    assert 1 not in {beat["epoch"] for beat in beats if beat["stage"] == "epoch"}
    assert_same_bits(fitted, plain)


def test_what_a_worker_refuses_comes_back_as_it_was_raised(setup: Setup) -> None:
    absent = "0" * 64
    with pytest.raises(DataError) as local:
        load_dataset(setup.store, absent)
    with pytest.raises(DataError) as remote:
        setup.fit("refused", dataset_id=absent)
    assert type(remote.value) is type(local.value)
    assert str(remote.value) == str(local.value)


def test_a_request_that_can_never_fit_is_refused_in_a_sentence(setup: Setup) -> None:
    cluster = Cluster(setup.settings.run)
    cluster.check_fits(name="gru", workers=2, cpus_per_worker=1)
    with pytest.raises(ResourceError) as caught:
        cluster.check_fits(name="gru", workers=3, cpus_per_worker=1)
    sentence = str(caught.value)
    assert sentence.startswith(
        "gru asks for 3 workers of 1 CPU each, but this cluster of 1 node(s) with 2 CPUs has room"
    )
    assert "lower training.workers" in sentence
    with pytest.raises(ResourceError, match="1 CPU and 1 GPU each"):
        cluster.check_fits(name="lstm", workers=1, cpus_per_worker=1, gpus_per_worker=1)


def test_one_that_listens_slowly_or_to_nothing_does_not_lose_the_last_beat() -> None:
    beats: list[Beat] = []
    with Relay(beats.append) as relay:
        for step in range(50):
            relay.mailbox.post.remote({"candidate": "gru", "stage": "training", "step": step})
    assert [beat["step"] for beat in beats] == list(range(50))
    assert "heartbeats" not in {thread.name for thread in threading.enumerate()}
