"""Ridge regression on the whole history window: the strongest linear baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import ValidationError

from flts_ray.config import Settings
from flts_ray.data.frame import FloatArray, IntArray, SeriesFrame
from flts_ray.data.scaling import ColumnScaler
from flts_ray.data.transform import Transform
from flts_ray.data.windows import histories, training_origins
from flts_ray.errors import BundleError, DataError, TooFewRowsError
from flts_ray.models.base import Arrays, Forecaster

CHUNK_WINDOWS = 4096
"""Windows held in memory at once."""


@dataclass(frozen=True, slots=True)
class Line:
    """One station's regression: ``change of z = flat window @ weights + bias``.

    Attributes:
        weights: ``(lookback * n_features, horizon * n_targets)``.
        bias: ``(horizon * n_targets,)``.
        scalers: One a target.
    """

    weights: FloatArray
    bias: FloatArray
    scalers: tuple[ColumnScaler, ...]


@dataclass(frozen=True, slots=True)
class LineJob:
    """What one station's fit needs: plain arrays, so that it can travel to another process.

    Attributes:
        frame: The train rows.
        scalers: One a target.
        lookback: Rows of history, the origin included.
        horizon: Steps to forecast.
        alpha: Penalty.
    """

    frame: SeriesFrame
    scalers: tuple[ColumnScaler, ...]
    lookback: int
    horizon: int
    alpha: float

    @property
    def names(self) -> dict[str, str]:
        """The series, as a field of heartbeats and events."""
        return {"series": self.frame.series}

    @property
    def rows(self) -> int:
        """Rows to fit on."""
        return len(self.frame)


def line_jobs(frames: Sequence[SeriesFrame], transforms: Mapping[str, Transform], settings: Settings) -> list[LineJob]:
    """One job a station; test rows do not enter it."""
    lookback, horizon, alpha = settings.windows.lookback, settings.windows.horizon, settings.baselines.ridge_alpha
    return [LineJob(f.train(), transforms[f.series].target_scalers, lookback, horizon, alpha) for f in frames]


class Ridge(Forecaster):
    """Direct multi-step ridge regression, one a station, on the same features as the networks.

    Inputs are the flattened ``lookback x n_features`` window, standardised; outputs the change of each target in model
    units from the origin to each step, so that a strong penalty leads to persistence. Closed form (Hoerl and Kennard,
    1970), fitted on all train rows: nothing is chosen on a validation tail.
    """

    kind: ClassVar[str] = "ridge"

    def __init__(self, lines: Mapping[str, Line], lookback: int, horizon: int) -> None:
        """Wrap fitted regressions, at least one, by station; or use :meth:`fit`."""
        self._lines = dict(lines)
        self.lookback, self.horizon = lookback, horizon

    @classmethod
    def fit(cls, frames: Sequence[SeriesFrame], transforms: Mapping[str, Transform], settings: Settings) -> Self:
        """Solve the normal equations of each station, accumulated in chunks in float64.

        Args:
            frames: One a station; test rows are not read.
            transforms: By station.
            settings: Window and penalty.

        Raises:
            TooFewRowsError: If a station has no training window.
        """
        lines = {job.frame.series: fit_line(job) for job in line_jobs(frames, transforms, settings)}
        return cls(lines, settings.windows.lookback, settings.windows.horizon)

    def knows(self, series: str) -> bool:
        """See :meth:`Forecaster.knows`."""
        return series in self._lines

    def predict(self, frame: SeriesFrame, origins: IntArray) -> FloatArray:
        """Forecast from each origin; see :meth:`Forecaster.predict`.

        Raises:
            DataError: If the station is unknown or has other features than in training.
        """
        if frame.series not in self._lines:
            known = ", ".join(sorted(self._lines))
            raise DataError(f"series '{frame.series}' is unknown to this ridge model: it was fitted on {known}")
        line = self._lines[frame.series]
        if frame.features.shape[1] * self.lookback != len(line.weights):
            raise DataError(
                f"series '{frame.series}' has {frame.features.shape[1]} feature columns, this ridge model reads "
                f"{len(line.weights) // self.lookback}: use the transform that it was fitted with"
            )
        out = np.empty((len(origins), self.horizon, len(line.scalers)))
        for part, chunk in _chunks(origins):
            windows = histories(frame.features, chunk, self.lookback).reshape(len(chunk), -1).astype(np.float64)
            out[part] = (windows @ line.weights + line.bias).reshape(len(chunk), self.horizon, -1)
        for k, scaler in enumerate(line.scalers):
            now = scaler.forward(frame.targets[origins, k])[:, None]
            out[:, :, k] = scaler.inverse(out[:, :, k] + now)
        return out

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Sizes and scalers as JSON; weights and bias of each station as arrays."""
        names = list(self._lines)
        meta = {
            "lookback": self.lookback,
            "horizon": self.horizon,
            "series": [
                {"name": name, "scalers": [s.model_dump() for s in self._lines[name].scalers]} for name in names
            ],
        }
        arrays: Arrays = {}
        for i, name in enumerate(names):
            arrays[f"weights/{i}"] = self._lines[name].weights
            arrays[f"bias/{i}"] = self._lines[name].bias
        return meta, arrays

    @classmethod
    def from_state(cls, meta: dict[str, Any], arrays: Arrays) -> Self:
        """Rebuild from :meth:`state`.

        Raises:
            BundleError: If a part is missing or has the wrong shape.
        """
        try:
            lines = {}
            for i, entry in enumerate(meta["series"]):
                scalers = tuple(ColumnScaler.model_validate(s) for s in entry["scalers"])
                weights, bias = arrays[f"weights/{i}"], arrays[f"bias/{i}"]
                if bias.shape != (meta["horizon"] * len(scalers),) or weights.shape[1:] != bias.shape:
                    raise ValueError(f"weights {weights.shape} and bias {bias.shape} do not fit together")
                lines[entry["name"]] = Line(weights, bias, scalers)
            return cls(lines, int(meta["lookback"]), int(meta["horizon"]))
        except (KeyError, TypeError, ValueError, ValidationError) as error:
            raise BundleError(f"the state of a 'ridge' model cannot be read ({error}): fit it again") from error


def _chunks(origins: IntArray) -> list[tuple[slice, IntArray]]:
    starts = range(0, len(origins), CHUNK_WINDOWS)
    return [(slice(s, s + CHUNK_WINDOWS), origins[s : s + CHUNK_WINDOWS]) for s in starts]


def fit_line(job: LineJob) -> Line:
    """Ridge with an unpenalised intercept on inputs standardised over the train rows: the unit of parallel work.

    Raises:
        TooFewRowsError: If the station has no training window.
    """
    frame, scalers, lookback, horizon = job.frame, job.scalers, job.lookback, job.horizon
    origins = training_origins(frame.segment, lookback, horizon)
    if len(origins) == 0:
        raise TooFewRowsError(
            f"series '{frame.series}' has no gap-free stretch of {lookback + horizon} train rows: lower "
            "windows.lookback or give more rows"
        )
    z = np.column_stack([s.forward(x) for s, x in zip(scalers, frame.targets.T, strict=True)])
    center = frame.features.mean(axis=0, dtype=np.float64)
    scale = frame.features.std(axis=0, dtype=np.float64)
    scale = np.where(scale > 0, scale, 1.0)
    inputs, outputs = lookback * len(center), horizon * z.shape[1]
    square, cross = np.zeros((inputs, inputs)), np.zeros((inputs, outputs))
    input_sum, output_sum = np.zeros(inputs), np.zeros(outputs)
    for _, chunk in _chunks(origins):
        x = ((histories(frame.features, chunk, lookback) - center) / scale).reshape(len(chunk), -1)
        future = z[chunk[:, None] + np.arange(1, horizon + 1)]
        y = (future - z[chunk][:, None, :]).reshape(len(chunk), -1)
        square += x.T @ x
        cross += x.T @ y
        input_sum += x.sum(axis=0)
        output_sum += y.sum(axis=0)
    n = len(origins)
    square -= np.outer(input_sum, input_sum) / n
    cross -= np.outer(input_sum, output_sum) / n
    square[np.diag_indices_from(square)] += job.alpha
    standardised, *_ = np.linalg.lstsq(square, cross, rcond=None)  # constant columns make it singular without penalty
    weights = standardised / np.tile(scale, lookback)[:, None]
    bias = (output_sum - input_sum @ standardised) / n - np.tile(center, lookback) @ weights
    return Line(weights, bias, scalers)
