"""Integrated gradients: which numbers of a window move the output of a network away from that of an average window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from flts_ray.data.frame import FloatArray, IntArray, SeriesFrame
from flts_ray.data.windows import histories
from flts_ray.explain.document import Attribution
from flts_ray.models.recurrent import RecurrentForecaster

PATH_WINDOWS = 4096
"""Windows put through the network at once: bounds memory, not results."""


def attributions(
    name: str,
    model: RecurrentForecaster,
    frames: Mapping[str, SeriesFrame],
    origins: Mapping[str, IntArray],
    *,
    features: Sequence[str],
    targets: Sequence[str],
    steps: int,
) -> tuple[Attribution, ...]:
    """Attribute what the network says of each target, mean over the steps, to the numbers that it reads.

    The path leads straight from the baseline, a window of nothing but the station's mean train row, to the window
    (Gauss-Legendre). Where the model forecasts changes, the last value that they are added to has no part in this.

    Args:
        name: The model's name on the leaderboard.
        model: GRU or LSTM.
        frames: The stations.
        origins: By station, the rows to forecast from.
        features: Names of the feature columns.
        targets: Names of the targets.
        steps: Points on the path.
    """
    found = []
    for k, target in enumerate(targets):
        parts = [
            window_attributions(model, frames[series], rows, target=k, steps=steps) for series, rows in origins.items()
        ]
        parts_of, differences = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        output = float(np.abs(differences).mean())
        worst = float(np.abs(parts_of.sum(axis=(1, 2)) - differences).max())
        found.append(
            Attribution(
                model=name,
                target=target,
                features=tuple(features),
                size=tuple(tuple(row) for row in np.abs(parts_of).mean(axis=0)[::-1].tolist()),
                output=output,
                completeness_error=worst / output if output > 0 else 0.0,
            )
        )
    return tuple(found)


def window_attributions(
    model: RecurrentForecaster, frame: SeriesFrame, origins: IntArray, *, target: int, steps: int
) -> tuple[FloatArray, FloatArray]:
    """Attributions of each window of one station.

    Args:
        model: GRU or LSTM.
        frame: The station; it has train rows.
        origins: ``(m,)``.
        target: Number of the target.
        steps: Points on the path.

    Returns:
        ``(m, lookback, n_features)`` in scaled units, oldest row first, and ``(m,)`` what they should add up to:
        output for the window minus output for the baseline.
    """
    import torch
    from captum.attr import IntegratedGradients

    device = model.net.head.weight.device

    def output(windows: torch.Tensor) -> torch.Tensor:
        numbers = torch.from_numpy(model.net.shape.numbers(frame.series, len(windows))).to(device)
        made: torch.Tensor = model.net(windows, numbers)
        return made[:, :, target].mean(dim=1)

    windows = torch.from_numpy(histories(frame.features, origins, model.lookback)).to(device)
    mean = torch.from_numpy(frame.features[: frame.train_rows].mean(axis=0)).to(device)
    baseline = mean.expand(1, model.lookback, -1)
    found = IntegratedGradients(output).attribute(
        windows, baseline.expand_as(windows), n_steps=steps, internal_batch_size=max(PATH_WINDOWS, len(windows))
    )
    with torch.inference_mode():
        difference = output(windows) - output(baseline)
    return found.detach().cpu().numpy().astype(np.float64), difference.cpu().numpy().astype(np.float64)
