"""Fit one recurrent candidate from frames and settings: examples, network, loop, forecaster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from flts_ray.config import Settings
from flts_ray.data.frame import SeriesFrame
from flts_ray.data.transform import Transform
from flts_ray.models.recurrent import RECURRENT, Cell, RecurrentForecaster, RecurrentNet, RecurrentShape
from flts_ray.training.communicator import Communicator
from flts_ray.training.examples import Examples, build_examples
from flts_ray.training.loop import OnEpoch, OnStep, train
from flts_ray.training.loop_state import FitResult, LoopState, TrainSpec


@dataclass(frozen=True, slots=True)
class FittedRecurrent:
    """A trained network and how it got there.

    Attributes:
        forecaster: With the weights of the best epoch.
        result: The whole training, epochs before an interruption included.
        resumed_from_epoch: Epochs that an earlier attempt had done; 0 if this one did them all.
    """

    forecaster: RecurrentForecaster
    result: FitResult
    resumed_from_epoch: int = 0


def fit_recurrent(
    cell: Cell,
    frames: Sequence[SeriesFrame],
    transforms: Mapping[str, Transform],
    settings: Settings,
    *,
    comm: Communicator | None = None,
    resume: LoopState | None = None,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
    device: torch.device | str = "cpu",
    all_rows_epochs: int | None = None,
) -> FittedRecurrent:
    """Train one global network on the train rows of all stations.

    Args:
        cell: ``gru`` or ``lstm``.
        frames: One a station; test rows are not read.
        transforms: By station.
        settings: Windows, network, training and seed.
        comm: As in :func:`~flts_ray.training.loop.train`, like the arguments below.
        resume: Checkpoint.
        on_epoch: Called after each epoch.
        on_step: Called after each step.
        device: Where to compute.
        all_rows_epochs: Learn from the validation tail too, for so many epochs of the schedule, and keep the last
            weights: what is known to be good is trained on everything. Validation figures then mean nothing.

    Raises:
        TooFewRowsError: If no station has the rows of one window; single ones without are left out, see
            :func:`~flts_ray.training.examples.left_out`.
        TrainingError: As in the loop.
    """
    examples = build_examples(
        frames,
        transforms,
        lookback=settings.windows.lookback,
        horizon=settings.windows.horizon,
        validation_fraction=settings.training.validation_fraction,
        all_rows=all_rows_epochs is not None,
    )
    shape = RecurrentShape(
        cell=cell,
        n_features=examples.features.shape[1],
        n_targets=examples.scaled.shape[1],
        lookback=settings.windows.lookback,
        horizon=settings.windows.horizon,
        hidden_size=settings.recurrent.hidden_size,
        num_layers=settings.recurrent.num_layers,
        target=settings.recurrent.target,
        series=tuple(frame.series for frame in frames) if settings.recurrent.series_embedding else (),
        series_embedding=settings.recurrent.series_embedding,
    )
    net = RecurrentNet(shape, seed=settings.seed)
    result = train(
        net,
        examples,
        TrainSpec.from_settings(settings),
        comm=comm,
        resume=resume,
        on_epoch=on_epoch,
        on_step=on_step,
        device=device,
        until_epoch=all_rows_epochs,
    )
    if shape.series:
        _average_the_unlearnt(net, examples)
    scalers = {frame.series: transforms[frame.series].target_scalers for frame in frames}
    done = 0 if resume is None else len(resume.history)
    return FittedRecurrent(RECURRENT[cell](net, scalers), result, resumed_from_epoch=done)


def _average_the_unlearnt(net: RecurrentNet, examples: Examples) -> None:
    """Give stations without training windows the mean vector of the others: what a station is like, on the whole."""
    learnt = np.unique(examples.series_of(examples.train_origins))
    unlearnt = np.setdiff1d(np.arange(len(examples.first_rows)), learnt)
    with torch.no_grad():
        net.series[torch.from_numpy(unlearnt)] = net.series[torch.from_numpy(learnt)].mean(dim=0)
