"""What the training loop reads: rows of all stations one below the other, and the origins of its windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flts_ray.data.frame import Float32Array, FloatArray, IntArray, SeriesFrame
from flts_ray.data.scaling import ColumnScaler
from flts_ray.data.transform import Transform
from flts_ray.data.windows import training_origins
from flts_ray.errors import TooFewRowsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Train rows of all stations, and the windows on them. Windows are formed when a batch is read, never stored.

    Attributes:
        features: ``(n, n_features)`` float32.
        scaled: ``(n, n_targets)`` float32, the targets in model units.
        targets: ``(n, n_targets)`` float64, the targets in physical units.
        first_rows: ``(n_series,)`` the first row of each station.
        scalers: For each station, the scaler of each target.
        ranges: ``(n_series, n_targets)`` one scaled unit of the leaderboard, in physical units.
        lookback: Rows of history, the origin included.
        horizon: Rows after the origin.
        train_origins: ``(w,)`` origins of the training windows; none reaches into the validation tail.
        validation_origins: ``(v,)`` origins of the windows whose targets all lie in the tail.
    """

    features: Float32Array
    scaled: Float32Array
    targets: FloatArray
    first_rows: IntArray
    scalers: tuple[tuple[ColumnScaler, ...], ...]
    ranges: FloatArray
    lookback: int
    horizon: int
    train_origins: IntArray
    validation_origins: IntArray

    def validation_errors(self, forecast: FloatArray, origins: IntArray) -> tuple[FloatArray, FloatArray]:
        """Errors of forecasts in physical units and in the leaderboard's scaled units.

        Args:
            forecast: ``(m, horizon, n_targets)`` levels in model units.
            origins: ``(m,)``.

        Returns:
            Two arrays ``(m, horizon, n_targets)``: forecast minus truth, in physical and in scaled units.
        """
        series = np.searchsorted(self.first_rows, origins, side="right") - 1
        errors = np.empty(forecast.shape)
        for s in np.unique(series):
            own = series == s
            for k, scaler in enumerate(self.scalers[s]):
                with np.errstate(over="ignore"):  # a diverged network; the loop reports what is not finite
                    errors[own, :, k] = scaler.inverse(forecast[own, :, k])
        errors -= self.targets[origins[:, None] + np.arange(1, self.horizon + 1)]
        return errors, errors / self.ranges[series][:, None, :]


def fit_row_count(train_rows: int, validation_fraction: float, horizon: int) -> int:
    """Train rows before the validation tail; the tail holds the stated share, and at least one horizon."""
    return train_rows - max(horizon, int(train_rows * validation_fraction))


def build_examples(
    frames: Sequence[SeriesFrame],
    transforms: Mapping[str, Transform],
    *,
    lookback: int,
    horizon: int,
    validation_fraction: float,
) -> Examples:
    """Split each station's train rows chronologically and put the stations one below the other.

    Without gaps a station of ``n`` train rows, of which ``f = fit_row_count(...)`` precede the tail, gives exactly
    ``f - lookback - horizon + 1`` training and ``n - f - horizon + 1`` validation windows. Test rows are not read.

    Args:
        frames: One a station.
        transforms: By station; their target scalers fix the model's units.
        lookback: Rows of history, the origin included.
        horizon: Rows after the origin.
        validation_fraction: Last share of each station's train rows held for validation.

    Raises:
        TooFewRowsError: If a station has no training window, or none has a validation window.
    """
    train_origins, validation_origins, first_rows = [], [], []
    first_row = 0
    for frame in frames:
        n = frame.train_rows
        fit_rows = fit_row_count(n, validation_fraction, horizon)
        origins = training_origins(frame.segment[:n], lookback, horizon)
        fitting = origins[origins + horizon < fit_rows]
        if len(fitting) == 0:
            raise TooFewRowsError(
                f"series '{frame.series}' has no gap-free stretch of {lookback + horizon} rows among the {fit_rows} "
                f"train rows before its validation tail: lower windows.lookback or give more rows"
            )
        train_origins.append(fitting + first_row)
        validation_origins.append(origins[origins + 1 >= fit_rows] + first_row)
        first_rows.append(first_row)
        first_row += n
    if not any(len(origins) for origins in validation_origins):
        raise TooFewRowsError(
            "no series has a validation window: give more train rows or raise training.validation_fraction"
        )
    targets = np.concatenate([frame.targets[: frame.train_rows] for frame in frames])
    scalers = tuple(transforms[frame.series].target_scalers for frame in frames)
    scaled = [
        np.column_stack([s.forward(x) for s, x in zip(own, frame.targets[: frame.train_rows].T, strict=True)])
        for own, frame in zip(scalers, frames, strict=True)
    ]
    return Examples(
        features=np.concatenate([frame.features[: frame.train_rows] for frame in frames]),
        scaled=np.concatenate(scaled).astype(np.float32),
        targets=targets,
        first_rows=np.array(first_rows, dtype=np.int64),
        scalers=scalers,
        ranges=np.array([transforms[frame.series].target_range for frame in frames]),
        lookback=lookback,
        horizon=horizon,
        train_origins=np.concatenate(train_origins),
        validation_origins=np.concatenate(validation_origins),
    )
