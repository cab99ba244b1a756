"""The loop: same seed same numbers, resume to the bit, two workers equal one, best weights kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flts_ray.config import Settings
from flts_ray.errors import TrainingError
from flts_ray.models.recurrent import RecurrentNet, RecurrentShape
from flts_ray.training.communicator import TorchCommunicator
from flts_ray.training.examples import Examples, build_examples
from flts_ray.training.fit import fit_recurrent
from flts_ray.training.loop import epoch_order, shard, train
from flts_ray.training.loop_state import EpochMetrics, FitResult, LoopState, TrainSpec
from flts_ray.training.schedule import onecycle
from tests.models.processes import autoregressive, station, tiny_settings
from tests.training.ranks import Rank, side_by_side

pytestmark = pytest.mark.unit


def setup(
    cell: str = "gru", *, rows: int = 120, seed: int = 42, **training: object
) -> tuple[RecurrentNet, Examples, TrainSpec]:
    settings = tiny_settings(horizon=2, seed=seed, **training)
    frame, transform = station(autoregressive(rows), rows, settings)
    examples = build_examples([frame], {"a": transform}, lookback=4, horizon=2, validation_fraction=0.25)
    shape = RecurrentShape(
        cell=cell, n_features=2, n_targets=1, lookback=4, horizon=2, hidden_size=4, num_layers=1, target="delta"
    )
    return RecurrentNet(shape, seed=seed), examples, TrainSpec.from_settings(settings)


def numbers(result: FitResult) -> list[tuple[float, ...]]:
    """What must repeat; wall clock and memory need not."""
    return [
        (m.epoch, m.train_loss_scaled, m.val_loss_scaled, m.val_rmse_scaled, m.val_mae_bits, m.val_composite, m.lr)
        for m in result.history
    ]


def same_weights(one: RecurrentNet, two: RecurrentNet) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_the_same_seed_gives_the_same_metrics_and_weights(cell):
    runs = []
    for _ in range(2):
        net, examples, spec = setup(cell)
        runs.append((numbers(train(net, examples, spec)), net))
    assert runs[0][0] == runs[1][0]
    assert same_weights(runs[0][1], runs[1][1])


def test_another_seed_gives_other_weights():
    net, examples, spec = setup()
    other, _, other_spec = setup(seed=7)
    assert numbers(train(net, examples, spec)) != numbers(train(other, examples, other_spec))


def test_training_lowers_the_loss():
    net, examples, spec = setup(rows=400, epochs=8, learning_rate=0.01)
    history = train(net, examples, spec).history
    assert history[-1].train_loss_scaled < 0.9 * history[0].train_loss_scaled


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("stop_after", [1, 3])
def test_resuming_ends_in_the_same_bits(cell, stop_after):
    whole, examples, spec = setup(cell, epochs=4, weight_decay=0.1)
    undisturbed = train(whole, examples, spec)
    state = stopped_after(stop_after, setup(cell, epochs=4, weight_decay=0.1))
    net, _, _ = setup(cell, epochs=4, weight_decay=0.1, seed=42)
    resumed = train(net, examples, spec, resume=state)
    assert numbers(resumed) == numbers(undisturbed)
    assert same_weights(net, whole)


class Stop(Exception):
    pass


def stopped_after(epoch: int, parts: tuple[RecurrentNet, Examples, TrainSpec]) -> LoopState:
    """The checkpoint of a run that dies right after an epoch."""
    kept = []

    def on_epoch(metrics: EpochMetrics, capture: Callable[[], LoopState]) -> None:
        if metrics.epoch == epoch:
            kept.append(capture())
            raise Stop

    with pytest.raises(Stop):
        train(*parts, on_epoch=on_epoch)
    return kept[0]


def test_a_checkpoint_of_a_finished_run_gives_its_result_again():
    parts = setup()
    states = []
    finished = train(*parts, on_epoch=lambda metrics, capture: states.append(capture()))
    net, examples, spec = setup()
    again = train(net, examples, spec, resume=states[-1])
    assert numbers(again) == numbers(finished)
    assert same_weights(net, parts[0])


def test_a_checkpoint_does_not_change_while_training_goes_on():
    states = []
    net, examples, spec = setup(epochs=2)
    train(net, examples, spec, on_epoch=lambda metrics, capture: states.append((capture(), capture())))
    first, twin = states[0]
    assert len(first.history) == 1
    assert all(np.array_equal(first.arrays[name], twin.arrays[name]) for name in first.arrays)
    assert not np.array_equal(first.arrays["weights/head.bias"], states[1][0].arrays["weights/head.bias"])


def test_a_checkpoint_of_other_settings_is_refused():
    state = stopped_after(1, setup())
    net, examples, spec = setup()
    with pytest.raises(TrainingError, match=r"batch_size=16.*now say 8"):
        train(net, examples, dataclasses.replace(spec, batch_size=8), resume=state)
    lstm, _, _ = setup("lstm")
    with pytest.raises(TrainingError, match=r"cell=gru.*now say lstm"):
        train(lstm, examples, spec, resume=state)


def train_on(world_size: int, **training: object) -> list[tuple[FitResult, RecurrentNet]]:
    parts = [setup(**training) for _ in range(world_size)]  # before the threads: seeding is the process's

    def work(rank: Rank) -> tuple[FitResult, RecurrentNet]:
        net, examples, spec = parts[rank.rank]
        return train(net, examples, spec, comm=rank), net

    return side_by_side(world_size, work)


@pytest.mark.parametrize("batch_size", [16, 12, 84])
def test_two_workers_train_like_one(batch_size):
    """85 windows: the last batch holds 5, 1 and 1 of them, so the ranks' shares are uneven or empty."""
    net, examples, spec = setup(batch_size=batch_size, clip_norm=0.05)
    assert len(examples.train_origins) == 85
    alone = train(net, examples, spec)
    ranks = train_on(2, batch_size=batch_size, clip_norm=0.05)
    assert numbers(ranks[0][0]) == numbers(ranks[1][0])
    assert same_weights(ranks[0][1], ranks[1][1])
    np.testing.assert_allclose(numbers(ranks[0][0]), numbers(alone), rtol=1e-4)
    for one, two in zip(net.parameters(), ranks[0][1].parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)


def test_the_process_group_of_torch_is_a_communicator(tmp_path):
    distributed = torch.distributed
    distributed.init_process_group(
        "gloo", store=distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    try:
        comm = TorchCommunicator()
        values = torch.arange(3.0)
        comm.sum_(values)
    finally:
        distributed.destroy_process_group()
    assert (comm.rank, comm.world_size, values.tolist()) == (0, 1, [0.0, 1.0, 2.0])


def test_the_result_counts_windows_and_workers():
    result, _ = train_on(3)[1]
    assert (result.workers, result.train_windows, result.validation_windows) == (3, 85, 29)
    assert [m.windows for m in result.history] == [85, 85]


def test_the_best_weights_are_restored():
    """The network is spoilt after epoch 2 and the rate is next to nothing: epochs 3 and 4 cannot be the best."""
    states: dict[int, LoopState] = {}
    net, examples, spec = setup(epochs=4, schedule="constant", learning_rate=1e-9, weight_decay=0.0)

    def spoil(metrics: EpochMetrics, capture: Callable[[], LoopState]) -> None:
        states[metrics.epoch] = capture()
        if metrics.epoch == 2:
            with torch.no_grad():
                net.head.bias += 5.0

    result = train(net, examples, spec, on_epoch=spoil)
    composites = [m.val_composite for m in result.history]
    assert max(composites[:2]) < min(composites[2:])
    assert result.best_epoch == 1 + int(np.argmin(composites))
    best = states[result.best_epoch].part("weights")
    assert all(torch.equal(value, best[name]) for name, value in net.state_dict().items())


def test_early_stopping_waits_for_its_patience():
    """With a rate of zero, as good as, no epoch is better than the first."""
    still = {"schedule": "constant", "learning_rate": 1e-30, "weight_decay": 0.0, "patience": 3}
    net, examples, spec = setup(epochs=9, **still)
    result = train(net, examples, spec)
    assert (result.stopped_early, result.best_epoch, len(result.history)) == (True, 1, 4)
    other, _, patient = setup(epochs=9, early_stopping=False, **still)
    assert len(train(other, examples, patient).history) == 9


def test_a_loss_that_is_not_finite_is_an_error():
    net, examples, spec = setup(learning_rate=1e30, schedule="constant", epochs=5)
    with pytest.raises(TrainingError, match=r"not finite.*learning_rate"):
        train(net, examples, spec)


def test_every_step_beats_once():
    steps: list[int] = []
    net, examples, spec = setup(epochs=2, batch_size=16)
    train(net, examples, spec, on_step=steps.append)
    assert steps == list(range(1, 2 * 6 + 1))


@pytest.mark.parametrize("loss", ["huber", "mse", "mae"])
def test_the_first_losses_are_the_definitions(loss):
    """With a rate of almost zero the losses of epoch one are those of the initial network."""
    net, examples, spec = setup(learning_rate=1e-20, weight_decay=0.0)
    spec = dataclasses.replace(spec, loss=loss, huber_delta=0.5)
    errors = []
    for origins in (examples.train_origins, examples.validation_origins):
        x = torch.from_numpy(np.stack([examples.features[o - 3 : o + 1] for o in origins]))
        now = examples.scaled[origins][:, None]
        future = examples.scaled[origins[:, None] + [1, 2]]
        with torch.inference_mode():
            errors.append(net(x).numpy() - (future - now))
    metrics = train(net, examples, spec).history[0]
    definition = {
        "mse": lambda e: e**2,
        "mae": np.abs,
        "huber": lambda e: np.where(np.abs(e) < 0.5, e**2 / 2, 0.5 * (np.abs(e) - 0.25)),
    }[loss]
    wanted = [definition(e).mean() for e in errors]
    np.testing.assert_allclose([metrics.train_loss_scaled, metrics.val_loss_scaled], wanted, rtol=1e-5)


def test_validation_metrics_are_in_bits_and_in_the_leaderboards_units():
    settings = tiny_settings(epochs=3)
    frame, transform = station(autoregressive(200), 160, settings)
    fitted = fit_recurrent("gru", [frame], {"a": transform}, settings)
    best = fitted.result.history[fitted.result.best_epoch - 1]
    origins = np.arange(160 - 32 - 1, 159)
    error = fitted.forecaster.predict(frame, origins)[:, 0, 0] - frame.targets[origins + 1, 0]
    np.testing.assert_allclose(best.val_rmse_bits, np.sqrt(np.mean(error**2)), rtol=1e-5)
    np.testing.assert_allclose(best.val_mae_bits, np.abs(error).mean(), rtol=1e-5)
    rmse, mae = best.val_rmse_scaled, best.val_mae_bits / transform.target_range[0]
    np.testing.assert_allclose(best.val_composite, 0.5 * rmse + 0.3 * mae + 0.2 * rmse**2, rtol=1e-6)
    np.testing.assert_allclose(best.val_rmse_scaled, best.val_rmse_bits / transform.target_range[0], rtol=1e-6)
    assert (fitted.forecaster.kind, fitted.result.validation_windows) == ("gru", 32)


def test_one_network_serves_several_stations():
    settings = tiny_settings()
    stations = [station(autoregressive(90, seed=i) * 10.0**i, 70, settings, series=f"s{i}") for i in range(2)]
    frames, transforms = [f for f, _ in stations], {f.series: t for f, t in stations}
    fitted = fit_recurrent("lstm", frames, transforms, settings)
    for frame in frames:
        forecast = fitted.forecaster.predict(frame, np.arange(69, 89))[:, 0, 0]
        ratio = forecast / frame.targets[69:89, 0]
        assert np.all((ratio > 0.3) & (ratio < 3.0))


def test_settings_reach_the_spec():
    settings = Settings.model_validate({"seed": 3, "training": {"epochs": 4}, "recurrent": {"loss": "mae"}})
    spec = TrainSpec.from_settings(settings)
    assert (spec.seed, spec.epochs, spec.loss) == (3, 4, "mae")


@pytest.mark.parametrize("total", [2, 7, 50])
def test_onecycle_is_pytorchs(total):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=total, cycle_momentum=False)
    for step in range(total):
        np.testing.assert_allclose(onecycle(step, total, 0.2), optimizer.param_groups[0]["lr"], rtol=1e-9)
        optimizer.step()
        if step < total - 1:
            theirs.step()


@given(size=st.integers(0, 200), world_size=st.integers(1, 9))
@hypothesis_settings(max_examples=50)
def test_shards_cover_everything_once(size, world_size):
    things = list(range(size))
    parts = [things[shard(size, rank, world_size)] for rank in range(world_size)]
    assert [thing for part in parts for thing in part] == things
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_an_epochs_order_is_a_permutation_of_its_own():
    one, two = epoch_order(50, 1, 1), epoch_order(50, 1, 2)
    assert sorted(one.tolist()) == list(range(50))
    assert one.tolist() == epoch_order(50, 1, 1).tolist()
    assert one.tolist() != two.tolist()
