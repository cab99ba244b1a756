"""Steady-state training through Ray Train against a plain PyTorch ``DataLoader`` loop with one thread."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.harness import Row, alternate
from benchmarks.sources import prepare, station
from flts_ray.cluster import Cluster
from flts_ray.config import Settings
from flts_ray.data.dataset import Dataset
from flts_ray.data.storage import Store
from flts_ray.models.recurrent import Cell, RecurrentNet, RecurrentShape
from flts_ray.training.examples import Examples, build_examples
from flts_ray.training.loop import epoch_order
from flts_ray.training.loop_state import TrainSpec
from flts_ray.training.relay import Relay
from flts_ray.training.trainer import fit_on_ray

LOSSES = {"huber": nn.HuberLoss, "mse": nn.MSELoss, "mae": nn.L1Loss}
RECIPES = ("default", "classic")
CELLS: tuple[Cell, ...] = ("gru", "lstm")


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the training windows."""

    windows_per_s: float
    loss: float


def examples_of(dataset: Dataset, settings: Settings) -> Examples:
    """What the loop trains on."""
    return build_examples(
        dataset.frames,
        dataset.transforms,
        lookback=settings.windows.lookback,
        horizon=settings.windows.horizon,
        validation_fraction=settings.training.validation_fraction,
    )


def peer(cell: Cell, examples: Examples, settings: Settings) -> Iterator[Epoch]:
    """The loop of every tutorial: materialised windows, ``DataLoader``, AdamW, clipping, OneCycleLR.

    Same network, initial weights, loss, optimiser, schedule, batch and order of windows as ours.
    """
    inputs, outputs = materialised(examples, settings.recurrent.target)
    net = RecurrentNet(shape_of(cell, examples, settings), seed=settings.seed)
    spec = TrainSpec.from_settings(settings)
    data = TensorDataset(inputs, outputs)
    order: list[int] = []
    loader = DataLoader(data, batch_size=spec.batch_size, sampler=order)
    criterion = nn.HuberLoss(delta=spec.huber_delta) if spec.loss == "huber" else LOSSES[spec.loss]()
    optimizer = torch.optim.AdamW(net.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay)
    steps = -(-len(data) // spec.batch_size) * spec.epochs
    schedule = (
        torch.optim.lr_scheduler.OneCycleLR(optimizer, spec.learning_rate, total_steps=steps, cycle_momentum=False)
        if spec.schedule == "onecycle"
        else torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    )
    for epoch in range(1, spec.epochs + 1):
        order[:] = epoch_order(len(data), spec.seed, epoch).tolist()
        started, total = time.perf_counter(), 0.0
        net.train()
        for x, y in loader:
            optimizer.zero_grad()
            loss = criterion(net(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), spec.clip_norm)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(x)
        yield Epoch(len(data) / (time.perf_counter() - started), total / len(data))


def materialised(examples: Examples, target: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Every training window as its own copy: ``(n, lookback, d)`` and ``(n, horizon, targets)``."""
    origins, lookback, horizon = examples.train_origins, examples.lookback, examples.horizon
    inputs = np.stack([examples.features[i - lookback + 1 : i + 1] for i in origins])
    outputs = np.stack([examples.scaled[i + 1 : i + 1 + horizon] for i in origins])
    if target == "delta":
        outputs = outputs - examples.scaled[origins][:, None, :]
    return torch.from_numpy(inputs), torch.from_numpy(outputs)


def shape_of(cell: Cell, examples: Examples, settings: Settings) -> RecurrentShape:
    """The network of these settings."""
    return RecurrentShape(
        cell=cell,
        n_features=examples.features.shape[1],
        n_targets=examples.scaled.shape[1],
        lookback=examples.lookback,
        horizon=examples.horizon,
        hidden_size=settings.recurrent.hidden_size,
        num_layers=settings.recurrent.num_layers,
        target=settings.recurrent.target,
    )


def ours(cell: Cell, store: Store, dataset: Dataset, settings: Settings, relay: Relay) -> list[Epoch]:
    """The program's own way: one Ray Train worker."""
    name = f"benchmark-{cell}-{time.time_ns()}"
    fitted = fit_on_ray(cell, store=store, dataset_id=dataset.dataset_id, settings=settings, run_name=name, relay=relay)
    return [Epoch(m.windows_per_s, m.train_loss_scaled) for m in fitted.result.history]


def steady(epochs: list[Epoch]) -> float:
    """Median windows/s, the first epoch left out: it warms caches."""
    return statistics.median(epoch.windows_per_s for epoch in epochs[1:])


def run(*, quick: bool) -> list[Row]:
    """Both recipes, GRU and LSTM."""
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory(prefix="flts-bench-") as scratch:
        source, store = station(Path(scratch)), Store(f"{scratch}/home")
        with Cluster(source.settings().run) as cluster, _relay(cluster) as relay:
            for recipe in RECIPES:
                options: dict[str, Any] = {"recipe": recipe, "training__epochs": 2 if quick else EPOCHS[recipe]}
                if quick:
                    options |= {"sampling__train_rows": 3_000, "sampling__test_rows": 100}
                settings, dataset = prepare(source, store, options)
                for cell in CELLS:
                    rows.append(_row(cell, store, dataset, settings, relay, rounds=1 if quick else 3))
    return rows


EPOCHS = {"default": 6, "classic": 3}
"""Passes of one round; the classic network takes four times as long."""


def _relay(cluster: Cluster) -> Relay:
    cluster.ensure()
    return Relay(lambda beat: None)


def _row(cell: Cell, store: Store, dataset: Dataset, settings: Settings, relay: Relay, *, rounds: int) -> Row:
    examples = examples_of(dataset, settings)
    losses: dict[str, float] = {}

    def measured(side: str, epochs: list[Epoch]) -> float:
        losses[side] = epochs[-1].loss
        return steady(epochs)

    pairs = alternate(
        lambda: measured("ours", ours(cell, store, dataset, settings, relay)),
        lambda: measured("peer", list(peer(cell, examples, settings))),
        rounds,
    )
    recurrent, count = settings.recurrent, len(examples.train_origins)
    return pairs.row(
        higher_is_better=True,
        benchmark="training",
        case=(
            f"{settings.recipe}: {cell.upper()} {recurrent.num_layers}x{recurrent.hidden_size}, "
            f"{examples.features.shape[1]} features, batch {settings.training.batch_size}, {count:,} windows"
        ),
        unit="windows/s",
        bar=1.0,
        detail={"last_training_loss": losses, "epochs": settings.training.epochs},
    )
