"""What goes into a training loop and what comes out of it: settings, metrics of an epoch, checkpoint, result."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch

from flts_ray.config import Settings
from flts_ray.errors import TrainingError
from flts_ray.models.base import Arrays

Weights = dict[str, torch.Tensor]

LOOP_STATE_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSpec:
    """The optimiser, its budget and the loss; meanings as in the settings of the same names."""

    epochs: int
    batch_size: int
    learning_rate: float
    schedule: Literal["onecycle", "constant"]
    weight_decay: float
    clip_norm: float
    early_stopping: bool
    patience: int
    loss: Literal["huber", "mse", "mae"]
    huber_delta: float
    seed: int

    @classmethod
    def from_settings(cls, settings: Settings) -> TrainSpec:
        """Pick what the loop needs from the whole configuration."""
        t, r = settings.training, settings.recurrent
        return cls(
            epochs=t.epochs,
            batch_size=t.batch_size,
            learning_rate=t.learning_rate,
            schedule=t.schedule,
            weight_decay=t.weight_decay,
            clip_norm=t.clip_norm,
            early_stopping=t.early_stopping,
            patience=t.patience,
            loss=r.loss,
            huber_delta=r.huber_delta,
            seed=settings.seed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochMetrics:
    """One epoch, over all workers.

    Attributes:
        epoch: From 1.
        train_loss_scaled: Mean training loss in model units, while the weights were changing.
        val_loss_scaled: The same loss on the validation tail, after the epoch.
        val_rmse_scaled: Root mean squared error on the tail in the leaderboard's scaled units.
        val_rmse_bits: The same in the target's physical unit.
        val_mae_bits: Mean absolute error on the tail in the target's physical unit.
        val_composite: 0.5 RMSE + 0.3 MAE + 0.2 MSE on the tail, in scaled units: what the leaderboard ranks by, and
            what decides which epoch's weights are kept.
        lr: Learning rate of the epoch's last step.
        windows: Training windows seen in this epoch.
        seconds: Wall clock of the epoch, validation included.
        windows_per_s: Training windows per second of the training pass.
        rss_mb: Resident memory of this worker.
    """

    epoch: int
    train_loss_scaled: float
    val_loss_scaled: float
    val_rmse_scaled: float
    val_rmse_bits: float
    val_mae_bits: float
    val_composite: float
    lr: float
    windows: int
    seconds: float
    windows_per_s: float
    rss_mb: float


@dataclass(frozen=True, slots=True)
class LoopState:
    """A checkpoint: JSON plus named arrays, complete, so that a resumed run ends in the same bits.

    Attributes:
        meta: Version, spec, network shape, optimiser step and history: JSON-able.
        arrays: ``weights/…``, ``best/…``, ``exp_avg/…`` and ``exp_avg_sq/…`` by parameter name.
    """

    meta: dict[str, Any]
    arrays: Arrays

    @classmethod
    def capture(
        cls,
        spec: TrainSpec,
        shape: dict[str, Any],
        step: int,
        history: list[EpochMetrics],
        parts: dict[str, Weights],
    ) -> LoopState:
        """Copy everything a checkpoint holds.

        Args:
            spec: Settings of the run.
            shape: The network's shape.
            step: Optimiser steps done.
            history: Metrics so far.
            parts: Named groups of tensors: ``weights``, ``best``, ``exp_avg``, ``exp_avg_sq``.
        """
        meta = {
            "version": LOOP_STATE_VERSION,
            "spec": asdict(spec),
            "shape": shape,
            "step": step,
            "history": [asdict(metrics) for metrics in history],
        }
        arrays = {
            f"{part}/{name}": value.detach().cpu().numpy().copy()
            for part, tensors in parts.items()
            for name, value in tensors.items()
        }
        return cls(meta, arrays)

    def part(self, name: str) -> Weights:
        """One group of tensors, fresh copies on the CPU."""
        prefix = f"{name}/"
        return {
            key.removeprefix(prefix): torch.from_numpy(np.array(value))
            for key, value in self.arrays.items()
            if key.startswith(prefix)
        }

    @property
    def history(self) -> list[EpochMetrics]:
        """Metrics of the epochs done."""
        return [EpochMetrics(**metrics) for metrics in self.meta["history"]]

    def check(self, spec: TrainSpec, shape: dict[str, Any]) -> None:
        """Refuse to continue a run of other settings.

        Raises:
            TrainingError: Naming the first setting that differs.
        """
        if self.meta.get("version") != LOOP_STATE_VERSION:
            raise TrainingError(
                f"the checkpoint has version {self.meta.get('version')}, this program writes {LOOP_STATE_VERSION}: "
                "start the training anew"
            )
        then, now = {**self.meta["spec"], **self.meta["shape"]}, {**asdict(spec), **shape}
        for key in {**now, **then}:
            if then.get(key) != now.get(key):
                raise TrainingError(
                    f"the checkpoint was trained with {key}={then.get(key)}, the settings now say {now.get(key)}: "
                    "restore the setting or start the training anew"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """A finished training. The network it was called with holds the best weights.

    Attributes:
        history: One entry an epoch.
        best_epoch: Epoch (from 1) whose weights were kept: the lowest ``val_composite``.
        stopped_early: Whether patience ran out before the epochs did.
        train_windows: Training windows of one epoch.
        validation_windows: Windows of the validation tail.
        workers: Workers that trained.
        fit_s: Wall clock of this call.
    """

    history: tuple[EpochMetrics, ...]
    best_epoch: int
    stopped_early: bool
    train_windows: int
    validation_windows: int
    workers: int
    fit_s: float
