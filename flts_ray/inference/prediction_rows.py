"""How answers are laid down in the prediction log, and read back.

A segment has one row a forecast, step and target:

    ==============  ==========================================================================================
    ``request_id``  of the request
    ``logged_at``   when it was answered, UTC
    ``model``       registered model
    ``version``     its version
    ``series``      station
    ``origin``      time of the last row of the history
    ``step``        from 1
    ``time``        what the forecast is for
    ``target``      column that is forecast
    ``value``       the forecast, in the unit of the reports
    ``lower``       ends of its interval; null without one
    ``upper``
    ``level``       nominal coverage of the interval
    ``method``      ``direct``, or ``recursive`` beyond the steps that the model was trained for
    ``raw.<name>``  what was reported at ``origin``, one column a raw column: in the first row of each forecast only,
                    null elsewhere and where nothing was reported
    ==============  ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flts_ray.data.frame import FloatArray, IntArray
from flts_ray.data.parquet import RAW_PREFIX
from flts_ray.data.storage import Store
from flts_ray.errors import IntegrityError
from flts_ray.inference.queries import Forecast

FOLDER = "predictions"
KEYS = ("request_id", "logged_at", "model", "version", "series", "origin", "step", "time", "target")
FIGURES = ("value", "lower", "upper", "level", "method")
COMPRESSION = "zstd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A forecast that was given, without the history that it was made from.

    Attributes:
        logged_ns: When, in nanoseconds since 1970.
        request_id: Of the request.
        model: Registered model.
        version: Its version.
        columns: Raw columns.
        reported: ``(1, len(columns))``, the last row of the history; ``(0, …)`` if there was none.
        forecast: What was answered.
    """

    logged_ns: int
    request_id: str
    model: str
    version: str
    columns: tuple[str, ...]
    reported: FloatArray
    forecast: Forecast

    @property
    def rows(self) -> int:
        """Rows that it takes in the log."""
        return int(self.forecast.values.size)


def folder_of(identifier: str) -> str:
    """Where the segments of one identifier lie, in folders ``date=YYYY-MM-DD``."""
    return f"{FOLDER}/{identifier}"


def encode(answers: Sequence[Answer]) -> bytes:
    """Answers as the bytes of one segment.

    Raises:
        ValueError: If something in them cannot be written, such as a name that is no Unicode.
    """
    forecasts = [answer.forecast for answer in answers]
    rows = np.array([answer.rows for answer in answers])
    starts = np.cumsum(rows) - rows
    width = np.array([len(f.targets) for f in forecasts])
    owner = np.repeat(np.arange(len(answers)), rows)
    step, target = np.divmod(np.arange(len(owner)) - starts[owner], width[owner])
    horizon = rows // width

    def each(values: Sequence[object], kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind).take(pa.array(owner))

    def every(parts: Sequence[FloatArray]) -> pa.Array:
        return pa.array(np.concatenate([part.ravel() for part in parts]), pa.float64(), from_pandas=True)

    nothing = {size: np.full(size, np.nan) for size in set(rows.tolist())}
    times = np.concatenate([f.time for f in forecasts])
    names = pa.array([name for f in forecasts for name in f.targets], pa.string())
    direct = step < np.array([f.direct_steps for f in forecasts])[owner]
    table = {
        "request_id": each([answer.request_id for answer in answers], pa.string()),
        "logged_at": each([answer.logged_ns for answer in answers], pa.timestamp("ns", "UTC")),
        "model": each([answer.model for answer in answers], pa.string()),
        "version": each([answer.version for answer in answers], pa.string()),
        "series": each([f.series for f in forecasts], pa.string()),
        "origin": pa.array(np.array([f.origin for f in forecasts], dtype="datetime64[ns]")[owner]),
        "step": pa.array((step + 1).astype(np.int32)),
        "time": pa.array(times[(np.cumsum(horizon) - horizon)[owner] + step].astype("datetime64[ns]")),
        "target": names.take(pa.array((np.cumsum(width) - width)[owner] + target)),
        "value": every([f.values for f in forecasts]),
        "lower": every([f.lower[0] if f.levels else nothing[f.values.size] for f in forecasts]),
        "upper": every([f.upper[0] if f.levels else nothing[f.values.size] for f in forecasts]),
        "level": each([f.levels[0] if f.levels else None for f in forecasts], pa.float64()),
        "method": pa.array(np.where(direct, "direct", "recursive")),
        **_reported(answers, starts, len(owner)),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(table), sink, compression=COMPRESSION)
    return bytes(sink.getvalue().to_pybytes())


def read_segments(store: Store, identifier: str, *, since: datetime | None = None) -> Iterator[pa.Table]:
    """The segments of one identifier, newest first, each as a table of the module's columns.

    Args:
        store: Where the log lies.
        identifier: Whose.
        since: UTC; only rows logged since then. Folders of earlier days are not opened.

    Raises:
        StorageError: If the store does not answer.
        IntegrityError: If a segment is not what was written.
    """
    first = f"date={since:%Y-%m-%d}" if since else ""
    folder = folder_of(identifier)
    names = [name for name in store.list(folder) if name.removeprefix(f"{folder}/") >= first]
    for name in sorted(names, key=lambda name: (name.split("/")[-2], name.rsplit("-", 2)[-2:]), reverse=True):
        try:
            table = pq.read_table(pa.BufferReader(store.read_bytes(name)), use_threads=False)
            missing = [column for column in (*KEYS, *FIGURES) if column not in table.column_names]
        except (pa.ArrowException, OSError) as error:
            raise IntegrityError(f"{store.uri_of(name)} is not a readable segment ({error}): remove it") from error
        if missing:
            raise IntegrityError(f"{store.uri_of(name)} lacks the column '{missing[0]}' of the log: remove it")
        if since is not None:
            start = pa.scalar(np.datetime64(since.replace(tzinfo=None), "ns").astype(np.int64), pa.int64())
            table = table.filter(pc.greater_equal(table["logged_at"].cast(pa.int64()), start))
        yield table


def _reported(answers: Sequence[Answer], starts: IntArray, rows: int) -> dict[str, pa.Array]:
    """What was reported, in the first row of each answer; columns in the order in which they first appear."""
    columns = {name: np.full(rows, np.nan) for names in dict.fromkeys(a.columns for a in answers) for name in names}
    for names in dict.fromkeys(answer.columns for answer in answers):
        alike = [i for i, a in enumerate(answers) if a.columns == names and len(a.reported) and a.rows]
        values = np.concatenate([np.zeros((0, len(names))), *(answers[i].reported for i in alike)])
        for name, column in zip(names, values.T, strict=True):
            columns[name][starts[alike]] = column
    return {RAW_PREFIX + name: pa.array(values, from_pandas=True) for name, values in columns.items()}
