"""What the training loop reads: rows of all stations one below the other, and the origins of its windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flts_ray.config import Settings
from flts_ray.data.frame import Float32Array, FloatArray, IntArray, SeriesFrame
from flts_ray.data.scaling import ColumnScaler
from flts_ray.data.transform import Transform
from flts_ray.data.windows import training_origins
from flts_ray.errors import TooFewRowsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Train rows of all stations, and the windows on them. Windows are formed when a batch is read, never stored.

    A station that is left out (see :func:`left_out`) has its rows and its place here, but no windows.

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

    def series_of(self, origins: IntArray) -> IntArray:
        """Numbers ``(m,)`` of the stations that the origins ``(m,)`` belong to."""
        numbers: IntArray = np.searchsorted(self.first_rows, origins, side="right") - 1
        return numbers

    def validation_errors(self, forecast: FloatArray, origins: IntArray) -> tuple[FloatArray, FloatArray]:
        """Errors of forecasts in physical units and in the leaderboard's scaled units.

        Args:
            forecast: ``(m, horizon, n_targets)`` levels in model units.
            origins: ``(m,)``.

        Returns:
            Two arrays ``(m, horizon, n_targets)``: forecast minus truth, in physical and in scaled units.
        """
        series = self.series_of(origins)
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


def left_out(frames: Sequence[SeriesFrame], settings: Settings) -> dict[str, str]:
    """Stations that a network cannot learn from, and why: they give no training window.

    The network forecasts them all the same, as far as their history reaches.

    Args:
        frames: One a station; test rows are not read.
        settings: Windows and validation tail.
    """
    lookback, horizon = settings.windows.lookback, settings.windows.horizon
    fraction = settings.training.validation_fraction
    return {
        frame.series: _too_short(frame, lookback, horizon, fraction)
        for frame in frames
        if len(_origins(frame, lookback, horizon, fraction)[0]) == 0
    }


def build_examples(
    frames: Sequence[SeriesFrame],
    transforms: Mapping[str, Transform],
    *,
    lookback: int,
    horizon: int,
    validation_fraction: float,
    all_rows: bool = False,
) -> Examples:
    """Split each station's train rows chronologically and put the stations one below the other.

    Without gaps a station of ``n`` train rows, of which ``f = fit_row_count(...)`` precede the tail, gives exactly
    ``f - lookback - horizon + 1`` training and ``n - f - horizon + 1`` validation windows. Test rows are not read.
    A station without training windows has no say in validation either.

    Args:
        frames: One a station.
        transforms: By station; their target scalers fix the model's units.
        lookback: Rows of history, the origin included.
        horizon: Rows after the origin.
        validation_fraction: Last share of each station's train rows held for validation.
        all_rows: Whether the training windows are all there are, those of the validation tail too.

    Raises:
        TooFewRowsError: If no station has a training window, or none has a validation window.
    """
    train_origins, validation_origins, first_rows = [], [], []
    first_row = 0
    for frame in frames:
        fitting, validating = _origins(frame, lookback, horizon, validation_fraction)
        if all_rows and len(fitting):
            fitting = training_origins(frame.segment[: frame.train_rows], lookback, horizon)
        train_origins.append(fitting + first_row)
        validation_origins.append(validating + first_row)
        first_rows.append(first_row)
        first_row += frame.train_rows
    if not any(len(origins) for origins in train_origins):
        raise TooFewRowsError(
            "; ".join(_too_short(frame, lookback, horizon, validation_fraction) for frame in frames[:3])
            + (f"; nor has any of the {len(frames) - 3} other series" if len(frames) > 3 else "")
            + ": lower windows.lookback or give more rows"
        )
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


def _origins(frame: SeriesFrame, lookback: int, horizon: int, validation_fraction: float) -> tuple[IntArray, IntArray]:
    """Origins of a station's training and validation windows, counted from its first row."""
    fit_rows = fit_row_count(frame.train_rows, validation_fraction, horizon)
    origins = training_origins(frame.segment[: frame.train_rows], lookback, horizon)
    fitting = origins[origins + horizon < fit_rows]
    return fitting, origins[origins + 1 >= fit_rows] if len(fitting) else fitting


def _too_short(frame: SeriesFrame, lookback: int, horizon: int, validation_fraction: float) -> str:
    fit_rows = max(0, fit_row_count(frame.train_rows, validation_fraction, horizon))
    return (
        f"series '{frame.series}' has no gap-free stretch of {lookback + horizon} rows among the {fit_rows} train rows "
        "before its validation tail"
    )
