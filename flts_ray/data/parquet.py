"""How a series is laid down in Parquet, and read back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flts_ray.data.frame import Float32Array, FloatArray, SeriesFrame, TimeArray
from flts_ray.errors import IntegrityError

METADATA_PREFIX = "flts."
_FAILURES = (pa.ArrowException, OSError, KeyError)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRows:
    """The columns of one stored file; see :class:`flts_ray.data.frame.SeriesFrame` for their meaning."""

    time: TimeArray
    features: Float32Array
    targets: FloatArray
    observed: FloatArray

    def __len__(self) -> int:
        return len(self.time)


def encode(
    frame: SeriesFrame, rows: slice, features: tuple[str, ...], targets: tuple[str, ...], lineage: dict[str, str]
) -> bytes:
    """Some rows of a series as a Parquet file.

    Columns: ``time`` (timestamp[ns]); ``observed.<target>`` (float64, null where nothing was reported) and
    ``target.<target>`` (float64, cleaned) in physical units; the features (float32, scaled) under their names.

    Args:
        frame: The series.
        rows: Which rows.
        features: Names of the frame's features.
        targets: Names of its targets.
        lineage: Written into the schema's metadata, each key with the prefix ``flts.``.
    """
    arrays: dict[str, pa.Array] = {"time": pa.array(frame.time[rows])}
    for i, name in enumerate(targets):
        arrays[f"observed.{name}"] = pa.array(np.ascontiguousarray(frame.observed[rows, i]), from_pandas=True)
    for i, name in enumerate(targets):
        arrays[f"target.{name}"] = pa.array(np.ascontiguousarray(frame.targets[rows, i]))
    for i, name in enumerate(features):
        arrays[name] = pa.array(np.ascontiguousarray(frame.features[rows, i]))
    metadata = {f"{METADATA_PREFIX}{key}": value for key, value in lineage.items()}
    return write_table(pa.table(arrays).replace_schema_metadata(metadata))


def write_table(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file, complete in memory before anyone stores them."""
    sink = pa.BufferOutputStream()
    # Measurements hardly repeat: dictionaries cost twice the time, byte-stream split saves a seventh of the size.
    pq.write_table(table, sink, compression="zstd", use_dictionary=False, use_byte_stream_split=True)
    return bytes(sink.getvalue().to_pybytes())


def decode(content: bytes, rows: int, features: tuple[str, ...], targets: tuple[str, ...], name: str) -> StoredRows:
    """Read what :func:`encode` wrote.

    Args:
        content: Bytes of the file.
        rows: Rows its claim records.
        features: Feature columns to read, in order.
        targets: Target columns.
        name: The file, for messages.

    Raises:
        IntegrityError: If it is unreadable, lacks a column, or has another number of rows.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        found = file.metadata.num_rows
        table = file.read(use_threads=False)
        missing = [column for column in ("time", *features) if column not in table.column_names]
        if missing:
            raise IntegrityError(f"{name} lacks the column '{missing[0]}' its claim records: preprocess again")
        time = table.column("time").cast(pa.int64()).to_numpy().view("datetime64[ns]")
        matrix = np.empty((found, len(features)), dtype=np.float32)
        for i, column in enumerate(features):
            matrix[:, i] = table.column(column).to_numpy()
        cleaned, observed = (
            np.column_stack([table.column(f"{kind}.{target}").to_numpy() for target in targets])
            for kind in ("target", "observed")
        )
    except _FAILURES as error:
        raise IntegrityError(f"{name} is not readable Parquet ({error}): preprocess again") from error
    if found != rows:
        raise IntegrityError(f"{name} holds {found} rows where its claim records {rows}: preprocess again")
    return StoredRows(time=time, features=matrix, targets=cleaned, observed=observed)
