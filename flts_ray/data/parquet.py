"""How a series is laid down in Parquet, and read back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flts_ray.data.frame import Float32Array, FloatArray, RawFrame, TimeArray
from flts_ray.errors import IntegrityError

METADATA_PREFIX = "flts."
RAW_PREFIX = "raw."
_FAILURES = (pa.ArrowException, OSError, KeyError)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRows:
    """The columns of one stored file.

    Attributes:
        time: ``(n,)`` datetime64[ns].
        values: ``(n, columns)`` float64 as reported, in physical units, NaN where nothing was.
        features: ``(n, features)`` float32, what models read.
    """

    time: TimeArray
    values: FloatArray
    features: Float32Array

    def __len__(self) -> int:
        return len(self.time)


def encode(raw: RawFrame, features: Float32Array, names: tuple[str, ...], lineage: dict[str, str]) -> bytes:
    """Some rows of a series as a Parquet file.

    Columns: ``time`` (timestamp[ns]); ``raw.<column>`` (float64 in physical units, null where nothing was
    reported); the features (float32, scaled) under their names.

    Args:
        raw: The rows as reported.
        features: ``(n, len(names))``, the same rows as models read them.
        names: Names of the features.
        lineage: Written into the schema's metadata, each key with the prefix ``flts.``.
    """
    arrays: dict[str, pa.Array] = {"time": pa.array(raw.time)}
    for i, name in enumerate(raw.columns):
        arrays[RAW_PREFIX + name] = pa.array(np.ascontiguousarray(raw.values[:, i]), from_pandas=True)
    for i, name in enumerate(names):
        arrays[name] = pa.array(np.ascontiguousarray(features[:, i]))
    metadata = {f"{METADATA_PREFIX}{key}": value for key, value in lineage.items()}
    return write_table(pa.table(arrays).replace_schema_metadata(metadata))


def write_table(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file, complete in memory before anyone stores them."""
    sink = pa.BufferOutputStream()
    # Measurements hardly repeat: dictionaries cost twice the time, byte-stream split saves a seventh of the size.
    pq.write_table(table, sink, compression="zstd", use_dictionary=False, use_byte_stream_split=True)
    return bytes(sink.getvalue().to_pybytes())


def decode(content: bytes, rows: int, columns: tuple[str, ...], features: tuple[str, ...], name: str) -> StoredRows:
    """Read what :func:`encode` wrote.

    Args:
        content: Bytes of the file.
        rows: Rows its claim records.
        columns: Raw columns to read, in order.
        features: Feature columns to read, in order.
        name: The file, for messages.

    Raises:
        IntegrityError: If it is unreadable, lacks a column, or has another number of rows.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        found = file.metadata.num_rows
        table = file.read(use_threads=False)
        stored = ("time", *(RAW_PREFIX + column for column in columns), *features)
        missing = [column for column in stored if column not in table.column_names]
        if missing:
            raise IntegrityError(f"{name} lacks the column '{missing[0]}' its claim records: preprocess again")
        time = table.column("time").cast(pa.int64()).to_numpy().view("datetime64[ns]")
        values = np.empty((found, len(columns)))
        for i, column in enumerate(columns):
            values[:, i] = table.column(RAW_PREFIX + column).to_numpy()
        matrix = np.empty((found, len(features)), dtype=np.float32)
        for i, column in enumerate(features):
            matrix[:, i] = table.column(column).to_numpy()
    except _FAILURES as error:
        raise IntegrityError(f"{name} is not readable Parquet ({error}): preprocess again") from error
    if found != rows:
        raise IntegrityError(f"{name} holds {found} rows where its claim records {rows}: preprocess again")
    return StoredRows(time=time, values=values, features=matrix)
