"""Fit one recurrent candidate from frames and settings: examples, network, loop, forecaster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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

REFIT_RATE = 0.1
"""Of the learning rate, when a trained network goes on with rows that it has not seen."""


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

    Raises:
        TooFewRowsError: If no station has the rows of one window; single ones without are left out, see
            :func:`~flts_ray.training.examples.left_out`.
        TrainingError: As in the loop.
    """
    examples = _examples(frames, transforms, settings)
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
    )
    if shape.series:
        _average_the_unlearnt(net, examples)
    scalers = {frame.series: transforms[frame.series].target_scalers for frame in frames}
    done = 0 if resume is None else len(resume.history)
    return FittedRecurrent(RECURRENT[cell](net, scalers), result, resumed_from_epoch=done)


def refit_recurrent(
    forecaster: RecurrentForecaster,
    frames: Sequence[SeriesFrame],
    transforms: Mapping[str, Transform],
    settings: Settings,
    *,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
    device: torch.device | str = "cpu",
) -> FittedRecurrent:
    """Go on with a trained network on all train rows, those of the validation tail too.

    One pass at a tenth of the learning rate. Training anew on all rows, without a row left to say when to stop, moved
    the error by up to one per cent either way; this kept it or lowered it (docs/tuning.md). Validation figures of the
    result mean nothing.

    Args:
        forecaster: What was fitted by :func:`fit_recurrent` with the same settings; it stays as it is.
        frames: As there.
        transforms: As there.
        settings: As there.
        on_epoch: As there.
        on_step: As there.
        device: As there.

    Raises:
        TooFewRowsError: As there.
        TrainingError: As there.
    """
    examples = _examples(frames, transforms, settings, all_rows=True)
    net = RecurrentNet(forecaster.net.shape)
    net.load_state_dict(forecaster.net.state_dict())
    spec = TrainSpec.from_settings(settings)
    once = replace(spec, epochs=1, schedule="constant", learning_rate=spec.learning_rate * REFIT_RATE)
    result = train(net, examples, once, on_epoch=on_epoch, on_step=on_step, device=device)
    return FittedRecurrent(type(forecaster)(net, forecaster.scalers), result)


def _examples(
    frames: Sequence[SeriesFrame], transforms: Mapping[str, Transform], settings: Settings, *, all_rows: bool = False
) -> Examples:
    return build_examples(
        frames,
        transforms,
        lookback=settings.windows.lookback,
        horizon=settings.windows.horizon,
        validation_fraction=settings.training.validation_fraction,
        all_rows=all_rows,
    )


def _average_the_unlearnt(net: RecurrentNet, examples: Examples) -> None:
    """Give stations without training windows the mean vector of the others: what a station is like, on the whole."""
    learnt = np.unique(examples.series_of(examples.train_origins))
    unlearnt = np.setdiff1d(np.arange(len(examples.first_rows)), learnt)
    with torch.no_grad():
        net.series[torch.from_numpy(unlearnt)] = net.series[torch.from_numpy(learnt)].mean(dim=0)
