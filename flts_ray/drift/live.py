"""What the prediction log holds, as arrays: the rows that were sent, and forecasts next to what came."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flts_ray.config import Settings
from flts_ray.data.frame import FloatArray, RawFrame, TimeArray
from flts_ray.data.parquet import RAW_PREFIX
from flts_ray.data.source import concatenate, read_rows, station_name
from flts_ray.data.storage import Store, expand, read_source
from flts_ray.inference.prediction_rows import read_segments

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """Forecasts of one station, target and step whose outcome is known, in time order, each time once.

    Attributes:
        series: Station.
        target: Column that was forecast.
        step: Step of the horizon, from 1.
        time: ``(n,)`` datetime64[ns] that the forecasts are for.
        forecast: ``(n,)`` in the unit of the reports.
        actual: ``(n,)``.
        inside: ``(n,)``, whether the outcome fell into the interval; False without one.
        level: Nominal coverage of the intervals; NaN if they had several levels, or there were none.
    """

    series: str
    target: str
    step: int
    time: TimeArray
    forecast: FloatArray
    actual: FloatArray
    inside: npt.NDArray[np.bool_]
    level: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """The log of one identifier since some time.

    Attributes:
        rows: Rows read.
        other_versions: Forecasts of models other than the one asked for; they are left out of ``outcomes``.
        inputs: Last rows of the histories that were sent, by station, each time once.
        outcomes: By station, target and step.
    """

    rows: int
    other_versions: int
    inputs: tuple[RawFrame, ...]
    outcomes: tuple[Outcomes, ...]


def read_truth(patterns: Sequence[str], targets: tuple[str, ...], settings: Settings) -> tuple[RawFrame, ...]:
    """What really came, from files like those of training; only time, station and targets are read.

    Raises:
        DataError: Or one of its kinds, if a file is missing or cannot be read.
    """
    if not patterns:
        return ()
    data = settings.data.model_copy(update={"columns": targets, "targets": targets})
    parts: dict[str, list[tuple[str, RawFrame]]] = {}
    for uri in expand(patterns, settings.storage):
        for frame in read_rows(read_source(uri, settings.storage), uri, data, series=station_name(uri)).frames:
            parts.setdefault(frame.series, []).append((PurePosixPath(uri).name, frame))
    return tuple(concatenate(found) for found in parts.values())


def read_live(
    store: Store,
    identifier: str,
    version: str,
    *,
    since: datetime | None,
    truth: Sequence[RawFrame] = (),
    known_as: Callable[[str], str] = str,
) -> Live:
    """Read the log and join forecasts with what came.

    An outcome is what a truth file says, else what a later history reported as its last row.

    Args:
        store: Where the log lies.
        identifier: Whose.
        version: Model version whose forecasts count.
        since: UTC; None: all of the log.
        truth: From :func:`read_truth`.
        known_as: From the name in a request or file to that of the station in the model.

    Raises:
        StorageError: If the store does not answer.
        IntegrityError: If a segment is not what was written.
    """
    import pandas as pd

    tables = [table.to_pandas() for table in read_segments(store, identifier, since=since)]
    tables = [table for table in tables if len(table)]
    if not tables:
        return Live(rows=0, other_versions=0, inputs=(), outcomes=())
    log = pd.concat(tables, ignore_index=True).sort_values("logged_at", kind="stable")
    log["series"] = log["series"].map({name: known_as(name) for name in log["series"].unique()})
    inputs = _inputs(log)
    mine = log[(log["version"] == version) & (log["method"] == "direct")]
    came = _long([*inputs, *(replace(frame, series=known_as(frame.series)) for frame in truth)])
    return Live(
        rows=len(log),
        other_versions=int((log["version"] != version).sum()),
        inputs=inputs,
        outcomes=tuple(_outcomes(mine, came)),
    )


def _inputs(log: pd.DataFrame) -> tuple[RawFrame, ...]:
    """Every station's reported rows; where several requests ended at one time, the newest counts."""
    columns = [name for name in log.columns if name.startswith(RAW_PREFIX)]
    firsts = log[log["step"] == 1].drop_duplicates(["request_id", "series", "origin"])  # the others hold no report
    rows = firsts.drop_duplicates(["series", "origin"], keep="last").sort_values("origin")
    return tuple(
        RawFrame(
            series=str(series),
            time=part["origin"].to_numpy(dtype="datetime64[ns]"),
            columns=tuple(name.removeprefix(RAW_PREFIX) for name in columns),
            values=part[columns].to_numpy(dtype=np.float64),
        )
        for series, part in rows.groupby("series")
    )


def _long(frames: Sequence[RawFrame]) -> pd.DataFrame:
    """One row a station, time and column that has a value; of several the last one counts."""
    import pandas as pd

    parts = [
        pd.DataFrame({"series": frame.series, "target": name, "time": frame.time, "actual": frame.column(name)})
        for frame in frames
        for name in frame.columns
    ]
    return pd.concat(parts).dropna().drop_duplicates(["series", "target", "time"], keep="last")


def _outcomes(log: pd.DataFrame, came: pd.DataFrame) -> Iterator[Outcomes]:
    keys = ["series", "target", "step"]
    forecasts = log.drop_duplicates([*keys, "time"], keep="last")
    known = forecasts.merge(came, on=["series", "target", "time"]).sort_values("time")
    for (series, target, _), part in known.groupby(keys):
        levels = part["level"].unique()
        yield Outcomes(
            series=str(series),
            target=str(target),
            step=int(part["step"].iloc[0]),
            time=part["time"].to_numpy(dtype="datetime64[ns]"),
            forecast=part["value"].to_numpy(dtype=np.float64),
            actual=part["actual"].to_numpy(dtype=np.float64),
            inside=part["actual"].between(part["lower"], part["upper"]).to_numpy(dtype=np.bool_),
            level=float(levels[0]) if len(levels) == 1 else math.nan,
        )
