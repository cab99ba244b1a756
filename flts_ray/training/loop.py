"""The training loop: plain PyTorch, the same for one worker and for many, resumable to the bit.

Three choices carry it. Every worker runs the same steps, each on its slice of the same global batch, and gradients are
summed with every window weighted by one over the global batch: the number of workers changes nothing but speed. The
order of windows and the learning rate are pure functions of (seed, epoch) and of the step: a checkpoint needs only
weights and optimiser moments. Losses stay on the device until the epoch ends: no step waits for a number.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from flts_ray.errors import TrainingError
from flts_ray.evaluation.metrics import composite
from flts_ray.models.recurrent import PREDICT_WINDOWS, RecurrentNet
from flts_ray.telemetry.memory import rss_mb
from flts_ray.training.batches import Batches
from flts_ray.training.communicator import Alone, Communicator
from flts_ray.training.examples import Examples
from flts_ray.training.loop_state import EpochMetrics, FitResult, LoopState, TrainSpec, Weights
from flts_ray.training.schedule import onecycle

OnEpoch = Callable[[EpochMetrics, Callable[[], LoopState]], None]
OnStep = Callable[[int], None]


def train(
    net: RecurrentNet,
    examples: Examples,
    spec: TrainSpec,
    *,
    comm: Communicator | None = None,
    resume: LoopState | None = None,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
    device: torch.device | str = "cpu",
) -> FitResult:
    """Train ``net`` in place and leave the weights of the best epoch in it.

    The caller decides on threads (``torch.set_num_threads``); one is fastest for these sizes.

    Args:
        net: Freshly seeded network, or one to go on with, equal on all ranks.
        examples: Rows and windows, equal on all ranks.
        spec: Optimiser, budget and loss.
        comm: The other workers; none: this one is alone.
        resume: Checkpoint to continue from.
        on_epoch: Called on every rank after each epoch with its metrics and a function that takes a checkpoint.
        on_step: Called on every rank after each step with the number of steps done: the heartbeat.
        device: Where to compute.

    Raises:
        TrainingError: If the loss is no longer finite, or ``resume`` belongs to other settings.
    """
    started = time.perf_counter()
    run = _Run(net, examples, spec, comm or Alone(), torch.device(device))
    if resume is not None:
        run.restore(resume)
    while not run.finished:
        metrics = run.epoch(on_step)
        if on_epoch is not None:
            on_epoch(metrics, run.capture)
    net.load_state_dict(run.best)
    net.eval()
    return FitResult(
        history=tuple(run.history),
        best_epoch=run.best_epoch,
        stopped_early=len(run.history) < spec.epochs,
        train_windows=len(examples.train_origins),
        validation_windows=len(examples.validation_origins),
        workers=run.comm.world_size,
        fit_s=time.perf_counter() - started,
    )


def epoch_order(windows: int, seed: int, epoch: int) -> torch.Tensor:
    """The order in which an epoch visits the training windows: ``(windows,)`` int64, the same on every rank."""
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(windows))


def shard(size: int, rank: int, world_size: int) -> slice:
    """The contiguous part of ``size`` things that a rank works on; parts differ by one at most."""
    return slice(size * rank // world_size, size * (rank + 1) // world_size)


class _Run:
    """The mutable state of one training."""

    def __init__(
        self, net: RecurrentNet, examples: Examples, spec: TrainSpec, comm: Communicator, device: torch.device
    ) -> None:
        self.net, self.spec, self.comm, self.device, self.examples = net.to(device), spec, comm, device, examples
        self.shape = net.shape.document()
        self.batches = Batches(examples, net.shape.target, device)
        self.origins = torch.from_numpy(examples.train_origins)
        self.steps_per_epoch = -(-len(self.origins) // spec.batch_size)
        self.step = 0
        self.history: list[EpochMetrics] = []
        self.best: Weights = {}
        self.params = dict(net.named_parameters())
        self.gradients = _flat_gradients(list(self.params.values()))
        self.optimizer = torch.optim.AdamW(
            self.params.values(), lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=True
        )

    @property
    def best_epoch(self) -> int:
        """Epoch of the lowest validation composite so far, the first one if several tie."""
        return min(self.history, key=lambda m: m.val_composite).epoch

    @property
    def finished(self) -> bool:
        """Whether epochs or patience ran out."""
        done = len(self.history)
        stale = done - self.best_epoch if done else 0
        return done >= self.spec.epochs or (self.spec.early_stopping and stale >= self.spec.patience)

    def epoch(self, on_step: OnStep | None) -> EpochMetrics:
        """One pass over the training windows, then validation."""
        started = time.perf_counter()
        number = len(self.history) + 1
        lr = self.spec.learning_rate
        self.net.train()
        order = self.origins[epoch_order(len(self.origins), self.spec.seed, number)].to(self.device)
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        for start in range(0, len(order), self.spec.batch_size):
            lr = self._learning_rate()
            loss_sum += self._train_step(order[start : start + self.spec.batch_size], lr)
            if on_step is not None:
                on_step(self.step)
        self.comm.sum_(loss_sum)
        train_loss = loss_sum.item() / len(order)
        train_s = time.perf_counter() - started
        val_loss, rmse, mae, rmse_scaled, mae_scaled = self._validate()
        if not all(map(math.isfinite, (train_loss, val_loss, rmse))):
            raise TrainingError(
                f"the loss of {self.shape['cell']} is not finite in epoch {number} (train {train_loss}, validation "
                f"{val_loss}, RMSE {rmse}): lower training.learning_rate (now {self.spec.learning_rate:g}) or "
                "training.clip_norm"
            )
        metrics = EpochMetrics(
            epoch=number,
            train_loss_scaled=train_loss,
            val_loss_scaled=val_loss,
            val_rmse_scaled=rmse_scaled,
            val_rmse_bits=rmse,
            val_mae_bits=mae,
            val_composite=composite(rmse_scaled, mae_scaled, rmse_scaled**2),
            lr=lr,
            windows=len(order),
            seconds=time.perf_counter() - started,
            windows_per_s=len(order) / train_s,
            rss_mb=rss_mb(),
        )
        self.history.append(metrics)
        if self.best_epoch == number:
            self.best = {name: value.detach().clone() for name, value in self.net.state_dict().items()}
        return metrics

    def _learning_rate(self) -> float:
        if self.spec.schedule == "constant":
            return self.spec.learning_rate
        return onecycle(self.step, self.steps_per_epoch * self.spec.epochs, self.spec.learning_rate)

    def _train_step(self, batch: torch.Tensor, lr: float) -> torch.Tensor:
        """One optimiser step on this rank's slice of the global batch; returns the slice's summed loss a window."""
        own = batch[shard(len(batch), self.comm.rank, self.comm.world_size)]
        self.gradients.zero_()
        share = torch.zeros((), device=self.device)
        if len(own):  # a ragged last batch may leave a rank without windows; it still takes part in the sum
            output = self.net(self.batches.inputs(own), self.batches.series(own))
            loss = self._loss_sum(output, self.batches.outputs(own)) / len(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            share = loss.detach()
        self.comm.sum_(self.gradients)
        norm = torch.linalg.vector_norm(self.gradients)
        self.gradients.mul_((self.spec.clip_norm / (norm + 1e-6)).clamp_(max=1.0))
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.step()
        self.step += 1
        return share * len(batch)

    def _loss_sum(self, output: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Loss summed over windows, averaged over steps and targets."""
        if self.spec.loss == "huber":
            loss = functional.huber_loss(output, wanted, reduction="sum", delta=self.spec.huber_delta)
        elif self.spec.loss == "mse":
            loss = functional.mse_loss(output, wanted, reduction="sum")
        else:
            loss = functional.l1_loss(output, wanted, reduction="sum")
        return loss / (self.examples.horizon * wanted.shape[-1])

    def _validate(self) -> tuple[float, float, float, float, float]:
        """Loss, RMSE and MAE in physical, RMSE and MAE in scaled units, over the validation windows of all ranks."""
        self.net.eval()
        origins = self.examples.validation_origins
        own = origins[shard(len(origins), self.comm.rank, self.comm.world_size)]
        sums = np.zeros(5)
        with torch.inference_mode():
            for start in range(0, len(own), PREDICT_WINDOWS):
                part = own[start : start + PREDICT_WINDOWS]
                at = torch.from_numpy(part).to(self.device)
                output = self.net(self.batches.inputs(at), self.batches.series(at))
                levels = self.batches.levels(output, at).double().cpu().numpy()
                errors, scaled = self.examples.validation_errors(levels, part)
                loss = self._loss_sum(output, self.batches.outputs(at)).item() * errors[0].size
                sums += [loss, *(f(e).sum() for e in (errors, scaled) for f in (np.square, np.abs))]
        total = torch.from_numpy(sums).to(self.device)
        self.comm.sum_(total)
        count = len(origins) * self.examples.horizon * self.examples.targets.shape[1]
        loss, square, mae, scaled_square, scaled_mae = (total.cpu().numpy() / count).tolist()
        return loss, math.sqrt(square), mae, math.sqrt(scaled_square), scaled_mae

    def capture(self) -> LoopState:
        """A checkpoint of the last finished epoch."""
        moments = {
            kind: {name: self.optimizer.state[p][kind] for name, p in self.params.items()}
            for kind in ("exp_avg", "exp_avg_sq")
        }
        parts = {"weights": self.net.state_dict(), "best": self.best, **moments}
        return LoopState.capture(self.spec, self.shape, self.step, self.history, parts)

    def restore(self, state: LoopState) -> None:
        """Continue where ``state`` was captured."""
        state.check(self.spec, self.shape)
        self.net.load_state_dict(state.part("weights"))
        self.best = state.part("best")
        self.history, self.step = state.history, state.meta["step"]
        first, second = state.part("exp_avg"), state.part("exp_avg_sq")
        for name, p in self.params.items():
            self.optimizer.state[p] = {
                "step": torch.tensor(float(self.step), device=self.device),
                "exp_avg": first[name].to(self.device),
                "exp_avg_sq": second[name].to(self.device),
            }


def _flat_gradients(params: list[torch.nn.Parameter]) -> torch.Tensor:
    """One vector that holds every gradient, so that workers add and clipping scales all of them in one call."""
    flat = torch.zeros(sum(p.numel() for p in params), device=params[0].device)
    start = 0
    for p in params:
        p.grad = flat[start : start + p.numel()].view_as(p)
        start += p.numel()
    return flat
