"""Small bundles with untrained networks and real calibrations, and the rows behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from flts_ray.config import Settings
from flts_ray.data.frame import RawFrame, SeriesFrame
from flts_ray.data.transform import Transform
from flts_ray.evaluation.intervals import pack
from flts_ray.evaluation.stage import interval_states
from flts_ray.models.base import Forecaster
from flts_ray.models.bundle import Bundle, BundleIdentity
from flts_ray.models.recurrent import RECURRENT, RecurrentNet, RecurrentShape
from flts_ray.models.ridge import Ridge

STEP_S = 600.0
STEP = np.timedelta64(600, "s")
COLUMNS = ("down", "up", "users")
IDENTITY = BundleIdentity(candidate_id="c1", dataset_id="d1", config_hash="h1", claim_digest="x1", sampled=False)
CLASSIC = {
    "cleaning": {"missing": "ffill"},
    "features": {
        "calendar": "cyclic",
        "scale_calendar": True,
        "ema_spans": (),
        "rolling_std": (),
        "profile": False,
        "lags": 2,
        "lag_step": 3,
    },
    "scaling": {"scaler": "minmax"},
}


@dataclass(frozen=True)
class Made:
    """A bundle and what it was made from."""

    bundle: Bundle
    raws: dict[str, RawFrame]
    frames: dict[str, SeriesFrame]
    settings: Settings


def station_rows(name: str = "north", rows: int = 500, *, missing: float = 0.02) -> RawFrame:
    """Positive values with a daily wave, some of them missing."""
    rng = np.random.default_rng(sum(map(ord, name)))
    time = np.datetime64("2026-01-05T00:00", "ns") + np.arange(rows) * STEP
    wave = np.exp(0.5 * np.sin(np.arange(rows) / 23)[:, None])
    values = wave * rng.gamma(8.0, 1.0, (rows, len(COLUMNS))) * (1e6, 1e5, 100.0)
    values[rng.random(values.shape) < missing] = np.nan
    return RawFrame(series=name, time=time, columns=COLUMNS, values=values)


def part(raw: RawFrame, rows: slice | np.ndarray) -> RawFrame:
    """Some rows of a station."""
    return replace(raw, time=raw.time[rows], values=raw.values[rows])


def make_bundle(
    *,
    kind: str = "gru",
    series: Sequence[str] = ("north",),
    horizon: int = 1,
    lookback: int = 10,
    layers: int = 1,
    target: str = "delta",
    calibrated: bool = True,
    train_rows: int = 400,
    vectors: int = 0,
    **sections: Any,
) -> Made:
    """A bundle whose network nobody trained, told stations apart by so many numbers; ``ridge`` is fitted."""
    settings = Settings.model_validate(
        {
            "features": {"ema_spans": (3, 6), "rolling_std": (5,), "profile": True},
            "windows": {"lookback": lookback, "horizon": horizon},
            **sections,
            "data": {"columns": COLUMNS, "targets": ("down",), **sections.get("data", {})},
        }
    )
    raws = {name: station_rows(name) for name in series}
    transforms = {name: Transform.fit(raw.head(train_rows), settings, STEP_S) for name, raw in raws.items()}
    frames = {name: transforms[name].apply(raw, train_rows) for name, raw in raws.items()}
    forecaster = _forecaster(kind, frames, transforms, settings, layers, target, vectors)
    states = interval_states(forecaster, list(frames.values()), settings) if calibrated else {}
    bundle = Bundle.create(forecaster, transforms, IDENTITY, target_unit="bits", intervals=pack(states))
    return Made(bundle, raws, frames, settings)


def _forecaster(
    kind: str,
    frames: dict[str, SeriesFrame],
    transforms: dict[str, Transform],
    settings: Settings,
    layers: int,
    target: str,
    vectors: int,
) -> Forecaster:
    if kind == "ridge":
        return Ridge.fit(list(frames.values()), transforms, settings)
    some = next(iter(transforms.values()))
    shape = RecurrentShape.model_validate(
        {
            "cell": kind,
            "n_features": len(some.feature_names),
            "n_targets": len(some.targets),
            "lookback": settings.windows.lookback,
            "horizon": settings.windows.horizon,
            "hidden_size": 8,
            "num_layers": layers,
            "target": target,
            "series": tuple(transforms) if vectors else (),
            "series_embedding": vectors,
        }
    )
    net = RecurrentNet(shape, seed=3)
    if vectors:
        numbers = np.random.default_rng(3).normal(size=net.series.shape)
        net.series.data[:] = torch.from_numpy(numbers)
    scalers = {name: transform.target_scalers for name, transform in transforms.items()}
    return RECURRENT[shape.cell](net, scalers)
