"""What the preprocessing benchmark compares with: vectorised pandas, one process, the same inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flts_ray.config import Settings
from flts_ray.data.parquet import RAW_PREFIX

OUR_ENCODING: dict[str, Any] = {"use_dictionary": False, "use_byte_stream_split": True}
"""How the program lays numbers down in Parquet; pandas writes dictionaries unless told otherwise."""


def shape(path: Path, folder: Path, settings: Settings, encoding: Mapping[str, Any]) -> None:
    """Read, check, fill, clip, scale and extend one station, and write its train and test rows."""
    columns = list(settings.data.columns)
    table = pd.read_parquet(path, columns=[settings.data.time_column, *columns])
    time, raw = table[settings.data.time_column], table[columns]
    _check(time, raw, settings)
    cut = len(table) - max(1, round(settings.data.test_fraction * len(table)))
    train = raw.iloc[:cut]
    clean = raw.fillna(train.mean())
    quartiles = train.quantile([0.25, 0.75]).T
    low, high = quartiles[0.25], quartiles[0.75]
    margin = settings.cleaning.clip_factor * (high - low)
    clean = clean.clip(low - margin, high + margin, axis=1)
    fitted = clean.iloc[:cut]
    scaled = (clean - fitted.mean()) / fitted.std(ddof=0)
    features = pd.concat([scaled, _calendar(time)], axis=1).astype(np.float32)
    stored = pd.concat([time.rename("time"), raw.add_prefix(RAW_PREFIX), features], axis=1)
    for split, rows in (("train", stored.iloc[:cut]), ("test", stored.iloc[cut:])):
        rows.to_parquet(folder / f"{path.stem}_{split}.parquet", index=False, compression="zstd", **encoding)


def _check(time: pd.Series[pd.Timestamp], raw: pd.DataFrame, settings: Settings) -> None:
    if not time.is_monotonic_increasing or time.duplicated().any():
        raise ValueError("timestamps are repeated or not in order")
    if np.isinf(raw.to_numpy()).any():
        raise ValueError("a value is not finite")
    if raw.isna().mean().max() > settings.data.max_missing_fraction:
        raise ValueError("a column lacks too many values")


def _calendar(time: pd.Series[pd.Timestamp]) -> pd.DataFrame:
    parts = {
        "min_of_day": (time.dt.hour * 60 + time.dt.minute) / 1440,
        "day_of_week": time.dt.day_of_week / 7,
        "day_of_year": time.dt.day_of_year / 365.25,
    }
    waves = {"sin": np.sin, "cos": np.cos}
    return pd.DataFrame(
        {f"{part}_{name}": wave(2 * np.pi * share) for part, share in parts.items() for name, wave in waves.items()}
    )
