"""Preprocessing 5 million rows in 10 files on Ray Data against one pandas process that does the same."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import pandas_peer
from benchmarks.harness import Pairs, Row, alternate, seconds
from benchmarks.memory import PeakMemory
from benchmarks.sources import Source
from flts_ray.cluster import Cluster
from flts_ray.config import RAW_COLUMNS, Settings
from flts_ray.data.claims import DATASETS, Claim
from flts_ray.data.parquet import RAW_PREFIX
from flts_ray.data.preprocess import preprocess
from flts_ray.data.storage import Store

WORKER_MEMORY_BAR_MB = 1000.0
LIKE_FOR_LIKE: dict[str, Any] = {
    "cleaning__clip": "iqr",
    "features__calendar": "cyclic",
    "features__ema_spans": (),
    "features__rolling_std": (),
    "features__profile": False,
    "scaling__scaler": "standard",
}
"""Fill with the train mean, clip to the train's interquartile fences, standardise, sine and cosine of the calendar."""


def generate(folder: Path, files: int, rows: int, *, seed: int = 0) -> tuple[str, ...]:
    """Write Parquet files of random reports, one a station, on a two-minute grid, one cell in a thousand missing."""
    folder.mkdir(parents=True, exist_ok=True)
    start = np.datetime64("2018-02-05T00:00:00", "ns")
    time = start + np.arange(rows) * np.timedelta64(120, "s")
    paths = []
    for number in range(files):
        rng = np.random.default_rng([seed, number])
        columns: dict[str, Any] = {"time": pa.array(time)}
        for name in RAW_COLUMNS:
            values = rng.gamma(2.0, 5e7 if name in ("down", "up") else 3.0, rows)
            values[rng.random(rows) < 1e-3] = np.nan
            columns[name] = pa.array(values, from_pandas=True)
        path = folder / f"station{number:02d}.parquet"
        pq.write_table(pa.table(columns), path, compression="zstd", use_dictionary=False)
        paths.append(str(path))
    return tuple(paths)


def ours(settings: Settings, home: Path) -> Claim:
    """The program's preprocessing into a fresh store; Ray must run."""
    return preprocess(settings, Store(str(home)), code_version="benchmark").claim


def peer(paths: Sequence[str], settings: Settings, folder: Path, encoding: Mapping[str, Any]) -> None:
    """One pandas process, file by file."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        pandas_peer.shape(Path(path), folder, settings, encoding)


def check_equal(claim: Claim, home: Path, folder: Path) -> None:
    """Compare every stored value of the first and the last station.

    Raises:
        AssertionError: If a row, a column or a value differs.
    """
    for record in (claim.series[0], claim.series[-1]):
        for split, part in (("train", record.train), ("test", record.test)):
            mine = pq.read_table(home / DATASETS / claim.dataset_id / part.path)
            theirs = pq.read_table(folder / f"{record.series}_{split}.parquet")
            assert mine.column_names == theirs.column_names, (mine.column_names, theirs.column_names)
            assert mine.num_rows == theirs.num_rows
            assert mine.column("time").to_pylist()[::10_000] == theirs.column("time").to_pylist()[::10_000]
            for name in mine.column_names[1:]:
                a, b = mine.column(name).to_numpy(), theirs.column(name).to_numpy()
                if name.startswith(RAW_PREFIX):
                    np.testing.assert_array_equal(a, b, err_msg=name)
                else:
                    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=name)


def run(*, quick: bool) -> list[Row]:
    """Like for like against pandas, then the default recipe's features for the record."""
    files, rows, rounds = (4, 20_000, 1) if quick else (10, 500_000, 3)
    with tempfile.TemporaryDirectory(prefix="flts-bench-") as text:
        scratch = Path(text)
        source = Source("generated", generate(scratch / "source", files, rows), ())
        with Cluster(source.settings().run) as cluster:
            cluster.ensure()
            _warm_up(scratch)
            found = _like_for_like(source, scratch, files * rows, rounds)
            return [*found, _default(source, scratch, files * rows)]


def _warm_up(scratch: Path) -> None:
    """Let Ray start its workers and import what they need, on a few rows: "Ray up" means this."""
    small = Source("warm-up", generate(scratch / "small", 4, 2_000), ())
    ours(small.settings(**LIKE_FOR_LIKE), scratch / "small-home")


def _like_for_like(source: Source, scratch: Path, rows: int, rounds: int) -> list[Row]:
    settings = source.settings(**LIKE_FOR_LIKE)
    home, folder = scratch / "home", scratch / "pandas"
    claims = []

    def measure_ours() -> float:
        shutil.rmtree(home, ignore_errors=True)
        return seconds(lambda: claims.append(ours(settings, home)))

    def measure_peer() -> float:
        shutil.rmtree(folder, ignore_errors=True)
        return seconds(lambda: peer(source.train, settings, folder, {}))

    with PeakMemory() as memory:  # looking costs time: this run is not one of the rounds
        measure_ours()
    pairs = alternate(measure_ours, measure_peer, rounds)
    tuned = [_timed_tuned(source, settings, folder) for _ in range(rounds)]
    check_equal(claims[-1], home, folder)
    case = f"{rows:,} rows x {len(RAW_COLUMNS)} columns in {len(source.train)} files, like for like"
    same: dict[str, Any] = {"higher_is_better": False, "benchmark": "preprocess", "unit": "s"}
    return [
        pairs.row(case=case, bar=2.0, **same),
        Pairs(pairs.ours, tuple(tuned)).row(case="the same, pandas told to encode Parquet as we do", **same),
        Row(
            benchmark="preprocess",
            case="the same: peak memory of a worker",
            ours=memory.worker_mb,
            unit="MB",
            score=memory.worker_mb,
            sense="<",
            bar=WORKER_MEMORY_BAR_MB,
            detail={"all_workers_mb": memory.total_mb},
        ),
    ]


def _timed_tuned(source: Source, settings: Settings, folder: Path) -> float:
    shutil.rmtree(folder, ignore_errors=True)
    return seconds(lambda: peer(source.train, settings, folder, pandas_peer.OUR_ENCODING))


def _default(source: Source, scratch: Path, rows: int) -> Row:
    settings, home = source.settings(), scratch / "default"
    took = seconds(lambda: ours(settings, home))
    return Row(
        benchmark="preprocess",
        case="the same rows, features of the default recipe (score: rows/s)",
        ours=took,
        unit="s",
        score=rows / took,
        detail={"rows_per_s": rows / took},
    )
