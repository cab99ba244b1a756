"""Reads reports from CSV and Parquet files, and refuses what breaks the schema contract, in one sentence each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from flts_ray.config import DataSettings
from flts_ray.data.frame import FloatArray, IntArray, RawFrame, TimeArray
from flts_ray.errors import (
    ColumnTypeError,
    DataError,
    EmptyInputError,
    MissingColumnError,
    TimeOrderError,
)
from flts_ray.redaction import redacted

PARQUET_MAGIC = b"PAR1"
_TIME_TYPES = (pa.timestamp("ns"), pa.timestamp("ns", "UTC"))


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRows:
    """What one file holds, by station, and how it was written.

    Attributes:
        frames: One frame a station, in order of first appearance. With ``series_by`` other than ``column`` there
            is exactly one.
        encoding: Text encoding of a CSV file; ``parquet`` for Parquet.
        time_zone: Zone in which the timestamps were given, empty when they had none. Frames are in UTC then.
    """

    frames: tuple[RawFrame, ...]
    encoding: str
    time_zone: str


def station_name(uri: str) -> str:
    """The station a file belongs to: its name without folder, suffix and a trailing ``_train`` or ``_test``."""
    stem = PurePosixPath(uri).stem
    return re.sub(r"[_-](train|test)$", "", stem, flags=re.IGNORECASE) or stem


def read_rows(content: bytes, uri: str, settings: DataSettings, *, series: str = "") -> SourceRows:
    """Parse and check one file.

    Args:
        content: The bytes of the file.
        uri: Where they came from, for messages.
        settings: Which columns to read, and what tells stations apart.
        series: Name of the station, unless a column names it.

    Raises:
        EmptyInputError: If there are no rows.
        MissingColumnError: If a column is absent.
        ColumnTypeError: If a value is not a finite number.
        TimeOrderError: If a timestamp is missing, unreadable, repeated or earlier than the row before it.
        DataError: If the file is not what its name says.
    """
    where = redacted(uri)
    if not content or content.isspace():
        raise EmptyInputError(f"{where} is empty: check how it was written")
    if content[:4] == PARQUET_MAGIC or uri.lower().endswith((".parquet", ".pq")):
        table, encoding = _read_parquet(content, where, settings), "parquet"
    else:
        table, encoding = _read_csv(content, where, settings)
    if table.num_rows == 0:
        raise EmptyInputError(f"{where} has a header but no rows: check how it was written")
    time, zone = _times(table.column(settings.time_column), settings.time_column, where)
    values = np.empty((table.num_rows, len(settings.columns)), order="F")
    for i, name in enumerate(settings.columns):
        values[:, i] = _numbers(table.column(name), name, where)
    if settings.series_by == "column":
        frames = _by_station(table.column(settings.series_column), time, values, where, settings)
    else:
        check_order(time, np.arange(len(time), dtype=np.int64), where)
        frames = (RawFrame(series=series, time=time, columns=settings.columns, values=values),)
    return SourceRows(frames=frames, encoding=encoding, time_zone=zone)


def check_order(time: TimeArray, rows: IntArray, where: str) -> None:
    """Refuse repeated or unsorted timestamps; data are never re-sorted silently.

    Args:
        time: ``(n,)`` datetime64[ns].
        rows: ``(n,)`` where each stands in its file, from 0.
        where: Name of the file, for the message.

    Raises:
        TimeOrderError: Naming the first offending row.
    """
    wrong = np.flatnonzero(np.diff(time) <= np.timedelta64(0))
    if len(wrong) == 0:
        return
    i = int(wrong[0]) + 1
    what = "repeats the time of" if time[i] == time[i - 1] else f"is earlier than {stamp(time[i - 1])} in"
    raise TimeOrderError(
        f"{where}: row {int(rows[i]) + 1} ({stamp(time[i])}) {what} row {int(rows[i - 1]) + 1}: "
        "sort the rows by time and keep one row per time and station"
    )


def concatenate(parts: list[tuple[str, RawFrame]]) -> RawFrame:
    """Join the rows that several files hold of one station, in time order.

    Raises:
        TimeOrderError: If two files overlap in time.
    """
    ordered = sorted(parts, key=lambda part: part[1].time[0])
    for (name, before), (next_name, after) in pairwise(ordered):
        if after.time[0] <= before.time[-1]:
            raise TimeOrderError(
                f"{redacted(next_name)} starts at {stamp(after.time[0])}, before {redacted(name)} ends at "
                f"{stamp(before.time[-1])}: the files of one station must not overlap in time"
            )
    if len(ordered) == 1:
        return ordered[0][1]
    frames = [frame for _, frame in ordered]
    return RawFrame(
        series=frames[0].series,
        time=np.concatenate([frame.time for frame in frames]),
        columns=frames[0].columns,
        values=np.concatenate([frame.values for frame in frames]),
    )


def stamp(time: np.datetime64) -> str:
    """A time for messages and claims, to the second unless it has a fraction."""
    text = str(time.astype("datetime64[ns]")).rstrip("0").rstrip(".")
    return text if "." in text else str(time.astype("datetime64[s]"))


def _needed(settings: DataSettings) -> list[str]:
    by_column = [settings.series_column] if settings.series_by == "column" else []
    return [settings.time_column, *by_column, *settings.columns]


def _check_columns(present: list[str], where: str, settings: DataSettings) -> None:
    for name in _needed(settings):
        if name not in present:
            raise MissingColumnError(
                f"{where} lacks the column '{name}' (it has {', '.join(map(repr, present)) or 'none'}): "
                "add it, or name the columns to read in data.columns, data.time_column and data.series_column"
            )
        if present.count(name) > 1:
            raise DataError(f"{where} has the column '{name}' more than once: keep one of them")


def _read_parquet(content: bytes, where: str, settings: DataSettings) -> pa.Table:
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        _check_columns(file.schema_arrow.names, where, settings)
        return file.read(columns=_needed(settings), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{where} is not a readable Parquet file ({_short(error)}): write it again") from error


def _read_csv(content: bytes, where: str, settings: DataSettings) -> tuple[pa.Table, str]:
    content, encoding = _as_utf8(content)
    try:
        with pcsv.open_csv(pa.BufferReader(content), read_options=pcsv.ReadOptions(use_threads=False)) as reader:
            names = reader.schema.names
        _check_columns(names, where, settings)
        try:
            return _parse_csv(content, settings, pa.float64()), encoding
        except pa.ArrowInvalid as error:
            if "conversion error" not in str(error):
                raise
            return _with_bad_columns_as_text(_parse_csv(content, settings, pa.string()), settings), encoding
    except pa.ArrowException as error:
        if "Empty CSV file" in str(error):
            raise EmptyInputError(f"{where} is empty: check how it was written") from error
        raise DataError(f"{where} is not a readable CSV file ({_short(error)}): mend that row") from error


def _parse_csv(content: bytes, settings: DataSettings, number: pa.DataType) -> pa.Table:
    types = dict.fromkeys(settings.columns, number)
    if settings.series_by == "column":
        types[settings.series_column] = pa.string()
    return pcsv.read_csv(
        pa.BufferReader(content),
        read_options=pcsv.ReadOptions(use_threads=False),
        convert_options=pcsv.ConvertOptions(
            column_types=types, include_columns=_needed(settings), strings_can_be_null=True
        ),
    )


def _with_bad_columns_as_text(table: pa.Table, settings: DataSettings) -> pa.Table:
    """Numbers where a column holds nothing else; :func:`_numbers` then names the bad value of those left as text."""
    for name in settings.columns:
        if _first_failure(trimmed := pc.utf8_trim_whitespace(table.column(name)), pa.float64()) is None:
            table = table.set_column(table.column_names.index(name), name, trimmed.cast(pa.float64()))
    return table


def _as_utf8(content: bytes) -> tuple[bytes, str]:
    if content.isascii():
        return content, "utf-8"
    for encoding in ("utf-8", "cp1252"):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        return (content, encoding) if encoding == "utf-8" else (text.encode(), encoding)
    return content.decode("latin-1").encode(), "latin-1"


def _numbers(column: pa.ChunkedArray, name: str, where: str) -> FloatArray:
    """The values of a column as float64, NaN where there is none."""
    kind = column.type
    if column.null_count == len(column):
        return np.full(len(column), np.nan)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        text = pc.utf8_trim_whitespace(column.cast(pa.string()))
        bad = _first_failure(text, pa.float64())
        _refuse_value(column, _first_valid(column) if bad is None else bad, name, where)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        _refuse_value(column, _first_valid(column), name, where)
    values: FloatArray = column.cast(pa.float64(), safe=False).to_numpy()
    infinite = np.flatnonzero(np.isinf(values))
    if len(infinite):
        _refuse_value(column, int(infinite[0]), name, where)
    return values


def _refuse_value(column: pa.ChunkedArray, row: int, name: str, where: str) -> NoReturn:
    value = column[row].as_py()
    raise ColumnTypeError(
        f"{where}: column '{name}' holds {value!r} in row {row + 1}, which is not a finite number: "
        "correct it, or leave the cell empty if there was no report"
    )


def _times(column: pa.ChunkedArray, name: str, where: str) -> tuple[TimeArray, str]:
    """The timestamps as datetime64[ns], in UTC where a zone was given, and that zone."""
    if column.null_count:
        row = int(np.flatnonzero(~column.is_valid().to_numpy())[0])
        raise TimeOrderError(f"{where}: row {row + 1} has no timestamp in column '{name}': add it or drop the row")
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        column = _times_from_text(column.cast(pa.string()), name, where)
    elif not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        raise TimeOrderError(
            f"{where}: column '{name}' holds {column[0].as_py()!r} in row 1, which is not a timestamp: "
            "write times such as 2018-02-05 23:40:00"
        )
    zone = column.type.tz if pa.types.is_timestamp(column.type) else None
    try:
        exact = column.cast(pa.timestamp("ns", zone))
    except pa.ArrowInvalid as error:
        raise TimeOrderError(f"{where}: column '{name}' has a time out of range ({_short(error)})") from error
    time: TimeArray = exact.cast(pa.int64()).to_numpy().view("datetime64[ns]")
    return time, zone or ""


def _times_from_text(column: pa.ChunkedArray, name: str, where: str) -> pa.ChunkedArray:
    failures = [_first_failure(column, kind) for kind in _TIME_TYPES]
    for kind, failure in zip(_TIME_TYPES, failures, strict=True):
        if failure is None:
            return column.cast(kind)
    row = max(failure for failure in failures if failure is not None)  # of the reading that fits the longer
    raise TimeOrderError(
        f"{where}: column '{name}' holds {column[row].as_py()!r} in row {row + 1}, which cannot be read as a timestamp "
        "like the rows before it: write all times such as 2018-02-05 23:40:00, all with a zone or none"
    )


def _first_valid(column: pa.ChunkedArray) -> int:
    return int(np.flatnonzero(column.is_valid().to_numpy())[0])


def _first_failure(column: pa.ChunkedArray, kind: pa.DataType) -> int | None:
    """The first row that cannot be cast to ``kind``, by bisection; None if all can."""

    def fails(start: int, stop: int) -> bool:
        try:
            column.slice(start, stop - start).cast(kind)
        except pa.ArrowException:
            return True
        return False

    low, high = 0, len(column)
    if not fails(low, high):
        return None
    while high - low > 1:  # the first bad row lies in [low, high)
        middle = (low + high) // 2
        low, high = (low, middle) if fails(low, middle) else (middle, high)
    return low


def _by_station(
    names: pa.ChunkedArray, time: TimeArray, values: FloatArray, where: str, settings: DataSettings
) -> tuple[RawFrame, ...]:
    if names.null_count:
        row = int(np.flatnonzero(~names.is_valid().to_numpy())[0])
        raise DataError(f"{where}: row {row + 1} names no station in column '{settings.series_column}': fill it in")
    encoded = names.cast(pa.string()).combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy()
    frames = []
    for code, station in enumerate(encoded.dictionary.to_pylist()):
        rows = np.flatnonzero(codes == code).astype(np.int64)
        check_order(time[rows], rows, f"{where}, station '{station}'")
        frames.append(
            RawFrame(series=station, time=time[rows], columns=settings.columns, values=np.asfortranarray(values[rows]))
        )
    return tuple(frames)


def _short(error: BaseException) -> str:
    return redacted(" ".join(str(error).split())[:200]).rstrip(".")
