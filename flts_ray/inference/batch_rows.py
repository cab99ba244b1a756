"""How forecasts are laid down in Parquet: one row an origin, step, target and level."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from flts_ray.data.frame import FloatArray, TimeArray
from flts_ray.inference.batch_plan import ModelRecord

STRINGS = ("series", "target", "method", "unit", "model", "version", "run_id")
METHODS = ("direct", "recursive")


def schema(zone: str = "") -> pa.Schema:
    """Columns of an output file.

    Args:
        zone: Time zone of origins and times, such as ``UTC``; empty where the input had none.
    """
    text, when = pa.dictionary(pa.int32(), pa.string()), pa.timestamp("ns", zone or None)
    kinds = {
        "series": text,
        "origin": when,
        "step": pa.int32(),
        "time": when,
        "target": text,
        "value": pa.float64(),
        "lower": pa.float64(),
        "upper": pa.float64(),
        "level": pa.float64(),
        "method": text,
        "unit": text,
        "model": text,
        "version": text,
        "run_id": text,
    }
    return pa.schema([pa.field(name, kind) for name, kind in kinds.items()])


class ForecastFile:
    """One output file in the making: complete in memory, compressed, before anyone stores it.

    Attributes:
        rows: Rows written so far.
    """

    def __init__(
        self,
        series: str,
        model: ModelRecord,
        *,
        targets: tuple[str, ...],
        unit: str,
        step_s: float,
        direct_steps: int,
        levels: tuple[float, ...],
        zone: str,
    ) -> None:
        """Begin a file.

        Args:
            series: Station.
            model: What forecasts.
            targets: Columns forecast.
            unit: Their unit.
            step_s: Seconds between steps.
            direct_steps: Steps that the model was trained for; later ones are recursive.
            levels: Nominal coverage of each interval.
            zone: Time zone of the times; empty for none.
        """
        self.rows = 0
        self._schema = schema(zone).with_metadata({"flts.series": series, "flts.model_digest": model.digest})
        self._constants = {
            "series": series,
            "unit": unit,
            "model": model.name,
            "version": model.version,
            "run_id": model.run_id,
        }
        self._targets, self._levels, self._direct_steps = targets, levels, direct_steps
        self._step = np.timedelta64(round(step_s * 1e9), "ns")
        self._sink = pa.BufferOutputStream()
        self._writer = pq.ParquetWriter(
            self._sink,
            self._schema,
            compression="zstd",
            use_dictionary=[*STRINGS, "level", "step"],
            use_byte_stream_split=["value", "lower", "upper"],
        )

    def write(self, origins: TimeArray, values: FloatArray, lower: FloatArray, upper: FloatArray) -> None:
        """Add the forecasts of some origins.

        Args:
            origins: ``(m,)`` datetime64[ns].
            values: ``(m, horizon, n_targets)``.
            lower: ``(n_levels, m, horizon, n_targets)``; NaN becomes null.
            upper: As ``lower``.
        """
        shape = (*values.shape, len(self._levels))  # origin, step, target, level
        origin, step, target, level = (index.ravel() for index in np.indices(shape, dtype=np.int32))
        known = origins[origin]
        columns: dict[str, Any] = {
            "origin": known,
            "step": step + 1,
            "time": known + (step + 1) * self._step,
            "target": _named(target, self._targets),
            "value": np.repeat(values.ravel(), shape[-1]),
            "lower": np.moveaxis(lower, 0, -1).ravel(),
            "upper": np.moveaxis(upper, 0, -1).ravel(),
            "level": np.array(self._levels)[level],
            "method": _named((step >= self._direct_steps).astype(np.int32), METHODS),
            **{name: _named(np.zeros_like(step), (text,)) for name, text in self._constants.items()},
        }
        arrays = [pa.array(columns[field.name], field.type, from_pandas=True) for field in self._schema]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        self.rows += len(step)

    def close(self) -> bytes:
        """End the file: its bytes."""
        self._writer.close()
        return bytes(self._sink.getvalue().to_pybytes())


def _named(index: npt.NDArray[np.int32], names: tuple[str, ...]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(index), pa.array(names, pa.string()))
