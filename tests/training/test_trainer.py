"""Training under Ray Train is the plain loop: same bits, with more workers, and after a worker has died."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from flts_ray.cluster import Cluster
from flts_ray.data.dataset import load_dataset
from flts_ray.data.storage import Store
from flts_ray.errors import ClusterError, DataError, ResourceError
from flts_ray.telemetry.heartbeat import CONTROLLER, Beat
from flts_ray.training import trainer
from flts_ray.training.checkpoint import ARRAYS
from flts_ray.training.fit import FittedRecurrent
from flts_ray.training.relay import Relay
from flts_ray.training.trainer import SNAPSHOT
from tests.training.fits import EPOCHS, MortalWorker, Setup, assert_same_bits, epochs_of, numbers, weights

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


@pytest.fixture(scope="module")
def alone(setup: Setup) -> tuple[FittedRecurrent, list[Beat]]:
    return setup.fit("alone")


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
    assert {(beat["candidate"], beat["rank"]) for beat in beats} == {("gru", CONTROLLER), ("gru", 0)}
    assert len({(beat["rank"], beat["pid"], beat["node_id"]) for beat in beats}) == 2
    states = [beat["stage"] for beat in beats if beat["rank"] == CONTROLLER]
    assert states == ["controller", "scheduling", "running", "shutting_down", "finished"]
    beats = [beat for beat in beats if beat["rank"] == 0]
    assert beats[-1]["stage"] == "finished"
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
    assert {beat["rank"] for beat in beats} == {CONTROLLER, 0, 1}
    assert {beat["rank"] for beat in beats if beat["stage"] == "epoch"} == {0}
    for mine, theirs in zip(numbers(fitted), numbers(plain), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3)
    for name, values in weights(plain).items():
        np.testing.assert_allclose(weights(fitted)[name], values, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def cut_off(setup: Setup, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The checkpoints of a training whose only worker was killed after two epochs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "train_worker", MortalWorker(tmp_path_factory.mktemp("deaths"), 3))
        with pytest.raises(ClusterError, match=r"^training gru failed on its workers: rank 0: \S.*$"):
            setup.fit("cut-off", max_failures=0)
    return setup.store.child("checkpoints/cut-off")


@pytest.mark.fault
def test_a_damaged_checkpoint_costs_one_epoch_and_a_damaged_record_nothing(
    setup: Setup, plain: FittedRecurrent, cut_off: Store
) -> None:
    checkpoints = setup.store.child("checkpoints/damaged")
    for file in cut_off.list():
        keep = slice(-100 if file.startswith("epoch_00002") and file.endswith(ARRAYS) else None)
        checkpoints.write_bytes(file, cut_off.read_bytes(file)[keep])
    checkpoints.write_bytes(SNAPSHOT, checkpoints.read_bytes(SNAPSHOT)[:-20])
    fitted, beats = setup.fit("damaged", max_failures=0)
    (damaged,) = [beat for beat in beats if beat["stage"] == "checkpoint_damaged"]
    assert damaged["checkpoint"].startswith("epoch_00002")
    assert epochs_of(beats) == [("resumed", 1), *[("epoch", epoch) for epoch in range(2, EPOCHS + 1)]]
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

    def listener(beat: Beat) -> None:
        beats.append(beat)
        if beat["step"] == 7:
            raise ValueError("one that fails must not stop the others")

    with Relay(listener) as relay:
        for step in range(50):
            relay.mailbox.post.remote({"candidate": "gru", "stage": "training", "step": step})
    assert [beat["step"] for beat in beats] == list(range(50))
    assert "heartbeats" not in {thread.name for thread in threading.enumerate()}
