"""Small stations with known dynamics, for the tests of models and of the training loop."""

from __future__ import annotations

import numpy as np

from flts_ray.config import DataSettings, FeatureSettings, RecurrentSettings, Settings, TrainingSettings, WindowSettings
from flts_ray.data.frame import FloatArray, RawFrame, SeriesFrame, segment_ids
from flts_ray.data.transform import Transform

STEP_S = 120.0


def autoregressive(rows: int, *, seed: int = 0, noise: float = 0.1) -> FloatArray:
    """``(rows, 2)`` positive values: an AR(1) logarithm and an unrelated column."""
    rng = np.random.default_rng(seed)
    x = np.zeros(rows)
    for t in range(1, rows):
        x[t] = 0.8 * x[t - 1] + noise * rng.normal()
    return np.column_stack([1e6 * np.exp(x), rng.uniform(1.0, 2.0, rows)])


def tiny_settings(
    *, lookback: int = 4, horizon: int = 1, features: FeatureSettings | None = None, seed: int = 42, **training: object
) -> Settings:
    """Two columns, a network of four units, two epochs."""
    return Settings(
        seed=seed,
        data=DataSettings(columns=("down", "noise"), targets=("down",)),
        features=features or FeatureSettings(calendar="none", ema_spans=(), rolling_std=(), profile=False),
        windows=WindowSettings(lookback=lookback, horizon=horizon),
        recurrent=RecurrentSettings(hidden_size=4),
        training=TrainingSettings.model_validate({"epochs": 2, "batch_size": 16, **training}),
    )


def station(
    values: FloatArray, train_rows: int, settings: Settings, *, series: str = "a", gap_at: int | None = None
) -> tuple[SeriesFrame, Transform]:
    """A frame and the transform fitted on its train rows; ``gap_at`` lets one step pass before that row."""
    seconds = np.arange(len(values)) * STEP_S
    if gap_at is not None:
        seconds[gap_at:] += STEP_S
    time = np.datetime64("2026-01-01", "ns") + seconds.astype("timedelta64[s]")
    raw = RawFrame(series=series, time=time, columns=settings.data.columns, values=values)
    train = RawFrame(series=series, time=time[:train_rows], columns=raw.columns, values=values[:train_rows])
    transform = Transform.fit(train, settings, STEP_S)
    return transform.apply(raw, train_rows), transform


def plain_frame(values: FloatArray, *, gap_at: int | None = None) -> SeriesFrame:
    """A frame of one target whose features are its values; every row is a train row."""
    targets = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    seconds = np.arange(len(targets)) * STEP_S
    if gap_at is not None:
        seconds[gap_at:] += STEP_S
    time = np.datetime64("2026-01-01", "ns") + seconds.astype("timedelta64[s]")
    return SeriesFrame(
        series="a",
        time=time,
        features=targets.astype(np.float32),
        targets=targets,
        observed=targets,
        segment=segment_ids(time, STEP_S),
        train_rows=len(targets),
    )
