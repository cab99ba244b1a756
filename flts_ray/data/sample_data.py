"""Made-up reports of several stations, with the shape of real ones: for trying the program out, and for tests."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
from scipy.signal import lfilter

from flts_ray.config import RAW_COLUMNS, StorageSettings
from flts_ray.data.frame import FloatArray, RawFrame
from flts_ray.data.shaping import split_by_time
from flts_ray.data.storage import Store

STEP_S = 120
DAY_ROWS = 86_400 // STEP_S
START = np.datetime64("2024-03-04T00:00:00", "ns")  # a Monday
STATIONS = ("Harbour", "Market", "University")


def write_sample_data(
    folder: str | Path,
    *,
    storage: StorageSettings | None = None,
    stations: Sequence[str] = STATIONS,
    days: float = 14.0,
    seed: int = 42,
    test_fraction: float = 0.2,
) -> list[str]:
    """Write ``train/<station>.csv`` and ``test/<station>.csv`` for every station, each file atomically.

    Args:
        folder: Where to, local or ``s3://``; a folder is made if it is not there, a bucket is not.
        storage: The S3 server, and the patience with it; Amazon's if None.
        stations: Names; a station's data depend on its name and the seed only, not on the others.
        days: Days of reports, every two minutes.
        seed: Seed of everything random.
        test_fraction: Share of rows, the last, that go into the test file.

    Returns:
        Addresses of the files, train before test, station by station.

    Raises:
        StorageError: If they cannot be written there.
        TooFewRowsError: If ``days`` gives too few rows to split.
    """
    store = Store(str(folder), storage or StorageSettings())
    store.prepare()  # some servers make a bucket on the first write, even one whose name is mistyped
    written = []
    for name in stations:
        parts = split_by_time(sample_station(name, days=days, seed=seed), test_fraction)
        for split, part in zip(("train", "test"), parts, strict=True):
            store.write_bytes(f"{split}/{name}.csv", _csv(part))
            written.append(store.uri_of(f"{split}/{name}.csv"))
    return written


def sample_station(name: str, *, days: float = 14.0, seed: int = 42) -> RawFrame:
    """The reports of one made-up station.

    Load is a level that follows the hour and the day of the week, times two autoregressive noises (one that lasts
    for hours, one for minutes), times measurement noise, plus rare downloads of many times the level: bursts that
    fade over several reports, and flashes that are gone with the next. What persistence cannot know, and a model can
    learn, is the way back to the level, and that the coding scheme tells a burst from a flash. All other columns
    follow from the load as they do on a real cell: resource blocks in proportion, users more slowly,
    coding schemes lower under load. A few reports are lost altogether, and a few uplink values.

    Args:
        name: The station; with the seed it decides its size, its rhythm and its noise.
        days: Days of reports.
        seed: Seed.

    Returns:
        The columns of a base-station report, about ``720 * days`` rows two minutes apart, with gaps.
    """
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    rows = max(2, round(days * DAY_ROWS))
    busy = _rhythm(rows, rng)
    slow, quick = _autoregression(rows, 0.995, 0.22, rng), _autoregression(rows, 0.8, 0.18, rng)
    level = rng.uniform(0.7, 1.6) * 1e8 * busy * np.exp(slow + quick)
    bursts = _bursts(rows, rng)
    down = level * (rng.lognormal(0.0, 0.16, rows) + bursts + _flashes(rows, rng))
    up_level = 0.009 * down * np.exp(_autoregression(rows, 0.9, 0.5, rng))
    up = up_level * (1 + 12 * (rng.random(rows) < 0.12) * rng.pareto(2.5, rows))
    down, up = np.minimum(down, 2.4e9), np.minimum(up, 6.5e8)

    heavy = np.clip(bursts / 3, 0, 1)  # a burst is carried with lower coding schemes, as on real cells
    mcs_down = np.clip(15.2 + rng.normal(0, 0.15, rows) - 12 * heavy, 0.8, 16.5)
    mcs_up = np.clip(rng.normal(14.9, 1.6, rows) - 4 * heavy, 0, 31)
    values = {
        "down": np.rint(down / 8) * 8,
        "up": np.rint(up / 8) * 8,
        "rnti_count": np.rint(5500 * busy**0.7 * np.exp(0.5 * slow) * rng.lognormal(0, 0.12, rows)),
        "mcs_down": mcs_down,
        "mcs_down_var": np.clip(87 - 45 * heavy + rng.normal(0, 2.5, rows), 15, 100),
        "mcs_up": mcs_up,
        "mcs_up_var": np.clip(47 * rng.gamma(6, 1 / 6, rows), 0, 240),
        "rb_down": np.clip(1.7e-10 * down * (1 + 0.9 * heavy) * rng.lognormal(0, 0.05, rows), 0, 1),
        "rb_down_var": 4.5e-8 * (1 + 2.2 * heavy) * rng.lognormal(0, 0.05, rows),
        "rb_up": np.clip(6e-10 * up * rng.lognormal(0, 0.1, rows), 0, 1),
        "rb_up_var": 1.1e-8 * rng.gamma(1.8, 1 / 1.8, rows),
    }
    matrix = np.column_stack([values[column] for column in RAW_COLUMNS])
    silent = rng.random(rows) < 0.002  # nothing was sent upwards, so there is no coding scheme to report
    for column in ("mcs_up", "mcs_up_var"):
        matrix[silent, RAW_COLUMNS.index(column)] = np.nan
    kept = _without_outages(rows, rng)
    time = START + np.arange(rows) * np.timedelta64(STEP_S, "s")
    return RawFrame(series=name, time=time[kept], columns=RAW_COLUMNS, values=matrix[kept])


def _rhythm(rows: int, rng: np.random.Generator) -> FloatArray:
    """Level relative to the mean: quiet nights, a midday and an evening peak, weekends of their own."""
    hour = np.arange(rows) * STEP_S / 3600 % 24
    weekend = np.arange(rows) // DAY_ROWS % 7 >= 5
    evening, late = rng.uniform(0.5, 1.1), rng.uniform(19.5, 21.5)

    def peak(center: float, width: float) -> FloatArray:
        distance = np.minimum(np.abs(hour - center), 24 - np.abs(hour - center))
        return np.asarray(np.exp(-0.5 * (distance / width) ** 2))

    day = 0.25 + 0.9 * peak(13.5, 3.2) + evening * peak(late, 2.2)
    free_day = 0.3 + 0.7 * peak(15.0, 4.0) + 0.8 * evening * peak(late + 0.7, 2.6)
    return np.where(weekend, free_day * rng.uniform(0.75, 1.1), day)


def _autoregression(rows: int, memory: float, spread: float, rng: np.random.Generator) -> FloatArray:
    """AR(1) noise of the given standard deviation."""
    shocks = rng.normal(0, spread * np.sqrt(1 - memory**2), rows)
    return np.asarray(lfilter([1.0], [1.0, -memory], shocks), dtype=np.float64)


def _bursts(rows: int, rng: np.random.Generator) -> FloatArray:
    """Rare heavy-tailed downloads, in multiples of the level, that fade over a few reports."""
    shocks = (rng.random(rows) < 0.012) * np.minimum(rng.pareto(1.3, rows), 15.0)
    return np.asarray(lfilter([1.0], [1.0, -0.75], shocks), dtype=np.float64)


def _flashes(rows: int, rng: np.random.Generator) -> FloatArray:
    """Downloads that fit into one report, in multiples of the level."""
    return np.asarray((rng.random(rows) < 0.02) * np.minimum(rng.pareto(1.3, rows), 15.0))


def _without_outages(rows: int, rng: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which rows were reported: about one outage in five days, of one report to an hour."""
    kept = np.ones(rows, dtype=np.bool_)
    for start in np.flatnonzero(rng.random(rows) < 1 / (5 * DAY_ROWS)):
        kept[start : start + rng.integers(1, 31)] = False
    kept[[0, -1]] = True
    return kept


def _csv(frame: RawFrame) -> bytes:
    time = pa.array(frame.time.astype("datetime64[s]"))
    columns = {name: pa.array(frame.values[:, i], from_pandas=True) for i, name in enumerate(frame.columns)}
    sink = pa.BufferOutputStream()
    pcsv.write_csv(
        pa.table({"time": time, **columns}), sink, pcsv.WriteOptions(quoting_style="none", quoting_header="none")
    )
    return bytes(sink.getvalue().to_pybytes())
