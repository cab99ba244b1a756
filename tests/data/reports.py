"""Small sources for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from flts_ray.config import Settings
from flts_ray.data.frame import RawFrame

COLUMNS = ("down", "up")


def report_lines(rows: int, *, start: int = 0, seed: int = 0, station: str = "") -> list[str]:
    """CSV rows of a two-column station on a 2-minute grid, ``start`` rows after its epoch."""
    rng = np.random.default_rng(seed)
    values = rng.gamma(2.0, 5e7, size=(rows, 2)).round()
    times = np.datetime64("2018-02-05T00:00:00") + (start + np.arange(rows)) * np.timedelta64(120, "s")
    prefix = f"{station}," if station else ""
    return [
        f"{str(time).replace('T', ' ')},{prefix}{down:.1f},{up:.1f}"
        for time, (down, up) in zip(times, values, strict=True)
    ]


def write_report(path: Path, rows: int, *, start: int = 0, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["time,down,up", *report_lines(rows, start=start, seed=seed)]) + "\n")
    return path


def write_station(folder: Path, name: str, *, train: int = 200, test: int = 50, seed: int = 0) -> tuple[str, str]:
    """A train file and a test file that follows it."""
    first = write_report(folder / f"{name}.csv", train, seed=seed)
    second = write_report(folder / f"{name}_test.csv", test, start=train, seed=seed + 1)
    return str(first), str(second)


def small_settings(train: Any, test: Any = (), **sections: dict[str, Any]) -> Settings:
    """Settings for two-column stations with few features."""
    data = {"train": train, "test": test, "columns": COLUMNS, "targets": ("down",), **sections.pop("data", {})}
    features = {"ema_spans": (6,), "rolling_std": (), "profile": False, **sections.pop("features", {})}
    return Settings.model_validate({"data": data, "features": features, **sections})


def raw_frame(values: Any, *, step_s: float = 120.0, start: str = "2018-02-05", columns: Any = COLUMNS) -> RawFrame:
    array = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    time = np.datetime64(start, "ns") + (np.arange(len(array)) * round(step_s * 1e9)).astype("timedelta64[ns]")
    return RawFrame(series="s", time=time, columns=tuple(columns)[: array.shape[1]], values=array)
