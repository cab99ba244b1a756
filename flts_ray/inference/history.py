"""Checks a history that was sent for a forecast, and says everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from flts_ray.config_serving import ServeSettings
from flts_ray.data.frame import FloatArray, IntArray, RawFrame, TimeArray
from flts_ray.data.source import stamp
from flts_ray.data.transform import Transform
from flts_ray.errors import HistoryError, Problem
from flts_ray.inference.queries import Notice
from flts_ray.inference.times import Times, grid_steps, read_times
from flts_ray.models.manifest import BundleManifest

UNIT_FACTOR = 100.0
"""A target whose typical value is off the training level by more than this is in another unit. The medians of any ten
consecutive rows of both published stations lie between 0.031 and 7.1 times the train mean; kbit for bit is 1000."""

NAMED_TIMES = 5
"""Times that a notice lists before it says how many more there are."""

Values = Sequence[float | None] | FloatArray
Form = Literal["columns", "rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedHistory:
    """A history that the model can read.

    Attributes:
        frame: Its rows, in UTC where the times had a zone; short gaps in what the model reads are filled.
        notices: What the reader of the forecast should know.
        offset_s: Seconds east of UTC of the last time sent; None if the times had no zone.
    """

    frame: RawFrame
    notices: tuple[Notice, ...]
    offset_s: int | None


def read_history(
    manifest: BundleManifest,
    *,
    series: str | None,
    time: Times,
    columns: Mapping[str, Values],
    settings: ServeSettings,
    field: str = "history",
    unknown: Literal["refuse", "ignore"] = "refuse",
    form: Form = "columns",
) -> CheckedHistory:
    """Check a history against what the model reads.

    Args:
        manifest: Of the bundle that will forecast.
        series: Station; with one station in the bundle any name or none will do.
        time: One a row.
        columns: By name, in any order, in the unit of training. None is a missing value; in an array, NaN is.
        settings: Limits.
        field: Path of the history in what was sent, for the problems.
        unknown: What to do with columns that the model does not know.
        form: How it was sent: decides how a value's path is written.

    Raises:
        HistoryError: With every problem found.
    """
    found = _Findings(field, form)
    transform = _station(manifest, series, found)
    _check_names(columns, transform, unknown, found)
    rows = _check_lengths(time, columns, manifest.lookback, settings, found)
    values = _values(columns, transform, rows, found)
    try:
        times, offset_s = read_times(time, lambda row: found.path("time", row))
        steps = grid_steps(times, manifest.step_s, lambda row: found.path("time", row))
    except HistoryError as error:
        raise HistoryError(*found.problems, *error.problems) from None
    found.stop_if_wrong()
    times, values = _without_short_gaps(times, values, steps, manifest.lookback, settings, found)
    read = values[-manifest.lookback :]
    _check_targets(read, transform, manifest.target_unit, found)
    found.stop_if_wrong()
    _note_missing(read, transform, found)
    _note_extrapolation(read, transform, found)
    context = transform.context_rows + manifest.lookback
    if rows < context:
        found.note("short_history", f"{rows} rows were sent; with {context} the forecast would be sharper")
    if offset_s:
        found.note("time_zone", "times were converted to UTC, as in training")
    known = series if series in manifest.transforms else next(iter(manifest.transforms))
    if series is not None and series != known:
        found.note("series", f"the model knows one station, '{known}': '{series}' was forecast as if it were that one")
    frame = RawFrame(series=series or known, time=times, columns=transform.columns, values=values)
    return CheckedHistory(frame=frame, notices=tuple(found.notices), offset_s=offset_s)


class _Findings:
    """Problems and notices of one history."""

    def __init__(self, field: str, form: Form) -> None:
        self.field, self.form = field, form
        self.problems: list[Problem] = []
        self.notices: list[Notice] = []

    def path(self, name: str, row: int | None = None) -> str:
        if self.form == "rows":
            return f"{self.field}.rows.{name}" if row is None else f"{self.field}.rows[{row}].{name}"
        return f"{self.field}.columns.{name}" + ("" if row is None else f"[{row}]")

    def refuse(self, field: str, reason: str, fix: str) -> None:
        self.problems.append(Problem(field, reason, fix))

    def note(self, code: str, message: str) -> None:
        self.notices.append(Notice(code, message))

    def stop_if_wrong(self) -> None:
        if self.problems:
            raise HistoryError(*self.problems)


def _station(manifest: BundleManifest, series: str | None, found: _Findings) -> Transform:
    transforms = manifest.transforms
    if series not in transforms and len(transforms) > 1:
        reason = "no station is named" if series is None else f"the model does not know the station '{series}'"
        found.refuse(f"{found.field}.series", reason, f"choose one of {', '.join(transforms)}")
    return transforms[series] if series in transforms else next(iter(transforms.values()))


def _check_names(
    columns: Mapping[str, Values], transform: Transform, unknown: Literal["refuse", "ignore"], found: _Findings
) -> None:
    needed = transform.columns
    if columns.keys() == set(needed):
        return
    for name in needed:
        if name not in columns:
            found.refuse(found.path(name), "the column is missing", f"send all of {', '.join(needed)}")
    extra = [name for name in columns if name not in needed]
    if extra and unknown == "ignore":
        found.note("ignored_columns", f"the model does not read {', '.join(extra)}")
    elif extra:
        for name in extra:
            found.refuse(found.path(name), "the model does not know the column", f"send only {', '.join(needed)}")


def _check_lengths(
    time: Times, columns: Mapping[str, Values], lookback: int, settings: ServeSettings, found: _Findings
) -> int:
    rows = len(time)
    for name, column in columns.items():
        if len(column) != rows:
            found.refuse(
                found.path(name), f"it has {len(column)} values for {rows} times", "send one value, or null, per time"
            )
    if rows > settings.max_rows:
        found.refuse(found.path("time"), f"{rows} rows were sent", f"send the latest {settings.max_rows} at most")
    elif rows < lookback:
        found.refuse(
            found.path("time"), f"{rows} rows were sent, the model reads {lookback}", f"send at least {lookback} rows"
        )
    if not 0 < rows <= settings.max_rows:
        found.stop_if_wrong()  # nothing more to say of no rows, and no work to spend on too many
    return rows


def _values(columns: Mapping[str, Values], transform: Transform, rows: int, found: _Findings) -> FloatArray:
    """``(rows, n_columns)`` in the model's order, NaN where nothing was sent; zeros where the values are refused."""
    given = [columns[name] if len(columns.get(name, ())) == rows else None for name in transform.columns]
    values = np.zeros((len(given), rows))
    for i, (name, column) in enumerate(zip(transform.columns, given, strict=True)):
        if column is None:
            continue
        as_array = isinstance(column, np.ndarray) and column.dtype.kind in "fiu"
        if not as_array and not set(map(type, column)) <= {float, int, type(None)}:
            row = next(r for r, value in enumerate(column) if type(value) not in (float, int, type(None)))
            found.refuse(found.path(name, row), f"{str(column[row])[:40]!r} is not a number", "send a number or null")
            continue
        try:
            values[i] = column
        except OverflowError:  # an integer beyond float64
            row = next(r for r, value in enumerate(column) if value is not None and abs(value) > 1e300)
            found.refuse(found.path(name, row), "the number is too large", "send a finite number or null")
    finite = np.isfinite(values)
    if not finite.all():
        for i, (name, column) in enumerate(zip(transform.columns, given, strict=True)):
            if column is not None and not finite[i].all():
                _check_finite(name, column, values[i], found)
    below = (values < 0) & finite
    for i in np.flatnonzero(below.any(axis=1)).tolist():
        if transform.scalers[i].kind == "log":
            row = int(np.argmax(below[i]))
            found.refuse(
                found.path(transform.columns[i], row),
                f"{values[i, row]:g} is negative, which no value of this column was in training",
                "send the value as it was measured, or null",
            )
    return values.T


def _check_finite(name: str, column: Values, values: FloatArray, found: _Findings) -> None:
    """A number must be finite; None, and NaN in an array, which cannot hold None, are missing values."""
    if isinstance(column, np.ndarray):
        rows = np.flatnonzero(np.isinf(values)).tolist()
    else:
        rows = [row for row in np.flatnonzero(~np.isfinite(values)).tolist() if column[row] is not None]
    if rows:
        more = f" (so are {len(rows) - 1} more of this column)" if len(rows) > 1 else ""
        found.refuse(
            found.path(name, rows[0]),
            f"{values[rows[0]]} is not a finite number{more}",
            "send null for a missing value",
        )


def _without_short_gaps(
    time: TimeArray, values: FloatArray, steps: IntArray, lookback: int, settings: ServeSettings, found: _Findings
) -> tuple[TimeArray, FloatArray]:
    """Repeat the row before a gap in the latest ``lookback`` steps, if the gap is short; refuse it if it is long."""
    if lookback == 1 or steps[1 - lookback :].max() == 1:
        return time, values
    back = steps.sum() - np.cumsum(steps)  # steps from the row after each distance to the last row
    gaps = np.flatnonzero((steps > 1) & (back < lookback - 1))
    for i in gaps[steps[gaps] - 1 > settings.max_filled_rows].tolist():
        found.refuse(
            found.path("time", i + 1),
            f"{steps[i] - 1} rows are missing before {stamp(time[i + 1])}, within the {lookback} rows that the model "
            f"reads",
            f"send them: up to {settings.max_filled_rows} missing rows in a row are filled",
        )
    found.stop_if_wrong()
    times = np.ones(len(time), dtype=np.int64)
    times[gaps] = steps[gaps]
    rows = np.repeat(np.arange(len(time)), times)
    within = np.arange(len(rows)) - (np.cumsum(times) - times)[rows]  # 0 for a row that was sent
    step = (time[gaps[0] + 1] - time[gaps[0]]) // steps[gaps[0]]
    filled = time[rows] + within * step
    found.note("gaps_filled", f"{_listed(filled[within > 0])} were missing: filled with the row before")
    return filled, values[rows]


def _check_targets(read: FloatArray, transform: Transform, unit: str, found: _Findings) -> None:
    """Refuse targets without any value in the rows that the model reads, or in another unit."""
    for name in transform.targets:
        i = transform.columns.index(name)
        known = read[:, i][np.isfinite(read[:, i])]
        if len(known) == 0:
            found.refuse(
                found.path(name),
                f"none of the latest {len(read)} rows, which the model reads, has a value",
                "send what was measured: a target cannot be forecast without any recent value",
            )
            continue
        level, positive = _training_level(transform, i), known[known > 0]
        if level <= 0 or len(positive) == 0:
            continue
        factor = float(np.median(positive)) / level
        if not 1 / UNIT_FACTOR <= factor <= UNIT_FACTOR:
            found.refuse(
                found.path(name),
                f"its latest values are {factor:.3g} times what they were in training, where {level:.3g} {unit} was "
                "typical",
                f"send it in {unit}",
            )


def _training_level(transform: Transform, column: int) -> float:
    """A typical value of a column in training."""
    if transform.cleaner.method != "zero":
        return transform.cleaner.fill[column]
    scaler = transform.scalers[column]
    middle = 0.5 if scaler.kind == "minmax" else 0.0
    return float(scaler.inverse(np.array([middle]))[0])


def _note_missing(read: FloatArray, transform: Transform, found: _Findings) -> None:
    missing = np.isnan(read)
    if missing.any():
        counts = missing.sum(axis=0).tolist()
        named = ", ".join(f"{name} {count}" for name, count in zip(transform.columns, counts, strict=True) if count)
        how = (
            "the value before" if transform.cleaner.method == "ffill" else f"the training's {transform.cleaner.method}"
        )
        found.note("missing_values", f"missing in the latest {len(read)} rows: {named}; {how} stands in")


def _note_extrapolation(read: FloatArray, transform: Transform, found: _Findings) -> None:
    low, high = transform.far
    far = np.flatnonzero(((read < low) | (read > high)).any(axis=0))
    if len(far):
        named = ", ".join(transform.columns[i] for i in far.tolist())
        found.note("extrapolation", f"the latest values of {named} are far from all that training saw")


def _listed(times: TimeArray) -> str:
    more = f" and {len(times) - NAMED_TIMES} more" if len(times) > NAMED_TIMES else ""
    return ", ".join(stamp(time) for time in times[:NAMED_TIMES]) + more
