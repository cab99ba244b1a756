"""Timestamps as they are sent: read, brought to UTC, and placed on the model's grid."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from flts_ray.data.frame import IntArray, TimeArray
from flts_ray.data.source import stamp
from flts_ray.errors import HistoryError, Problem

GRID_TOLERANCE_NS = 500_000
"""As in :func:`flts_ray.data.frame.segment_ids`."""

WRITE_TIMES = "write all times like 2018-02-05T23:40:00, all with a zone (Z or +01:00) or all without"

_ISO_8601 = re.compile(r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?)(Z|z|[+-]\d\d:?\d\d)?", re.ASCII)
_MAX_SECONDS = 1e11  # beyond all years below, and its microseconds fit into 64 bits
_FIRST, _LAST = np.datetime64("1678-01-01", "us"), np.datetime64("2262-01-01", "us")  # what nanoseconds can hold

Times = Sequence[str | int | float] | TimeArray
"""ISO 8601, all with a zone or all without; or seconds since 1970 in UTC; or datetime64."""

FieldOf = Callable[[int], str]
"""The path of a row's time, for a problem."""


def read_times(given: Times, field_of: FieldOf) -> tuple[TimeArray, int | None]:
    """Read timestamps.

    Args:
        given: At least one time.
        field_of: Names a row.

    Returns:
        ``(n,)`` datetime64[ns], in UTC where a zone was given, and the last time's offset from UTC in seconds: None
        without a zone.

    Raises:
        HistoryError: With the first time that cannot be read.
    """
    if isinstance(given, np.ndarray) and given.dtype.kind == "M":
        return _in_range(given.astype("datetime64[us]"), given, field_of), None
    kinds = set(map(type, given))
    if kinds <= {str}:
        return _from_text(given, field_of)  # type: ignore[arg-type]
    if kinds <= {int, float}:
        bad = next((row for row, value in enumerate(given) if not abs(value) < _MAX_SECONDS), None)
        if bad is not None:
            raise _unreadable(given, bad, field_of)
        seconds = np.array(given, dtype=np.float64)
        micros = np.round(seconds * 1e6).astype(np.int64).astype("datetime64[us]")
        return _in_range(micros, given, field_of), 0
    raise _unreadable(given, next(row for row, value in enumerate(given) if not _like(value, given[0])), field_of)


def _like(value: object, first: object) -> bool:
    numbers = (int, float)
    return type(value) is str is type(first) or (type(value) in numbers and type(first) in numbers)


def _from_text(given: Sequence[str], field_of: FieldOf) -> tuple[TimeArray, int | None]:
    if _plain(given):
        try:
            return _in_range(np.array(given, dtype="datetime64[us]"), given, field_of), None
        except ValueError:
            pass  # the slow path says which one
    matches = [_ISO_8601.fullmatch(text) for text in given]
    if None in matches:
        raise _unreadable(given, matches.index(None), field_of)
    bodies, zones = zip(*(match.groups() for match in matches if match is not None), strict=True)
    try:
        time = np.array(bodies, dtype="datetime64[us]")
    except ValueError:
        raise _unreadable(given, next(i for i, body in enumerate(bodies) if not _readable(body)), field_of) from None
    offsets = {zone: _offset_s(zone) for zone in set(zones)}
    for zone, offset in offsets.items():
        if (offset is None) != (offsets[zones[0]] is None) or (offset is not None and abs(offset) >= 86_400):
            raise _unreadable(given, zones.index(zone), field_of)
    if None in zones:
        return _in_range(time, given, field_of), None
    shift = np.array([offsets[zone] for zone in zones], dtype="timedelta64[s]")
    return _in_range(time - shift, given, field_of), offsets[zones[-1]]


def _plain(given: Sequence[str]) -> bool:
    """Whether all have the usual length and no zone: NumPy alone would take ``now`` and ``2018``, and warn of zones."""
    strange = "".join(given).encode().translate(None, b"0123456789-:T ")
    return not strange and set(map(len, given)) <= {len("2018-02-05T23:40"), len("2018-02-05T23:40:00")}


def _readable(body: str) -> bool:
    try:
        np.datetime64(body, "us")
    except ValueError:
        return False
    return True


def _offset_s(zone: str | None) -> int | None:
    if zone is None or zone in "Zz":
        return None if zone is None else 0
    seconds = int(zone[1:3]) * 3600 + int(zone[-2:]) * 60
    return -seconds if zone[0] == "-" else seconds


def _in_range(micros: TimeArray, given: Times, field_of: FieldOf) -> TimeArray:
    bad = np.flatnonzero(~((micros >= _FIRST) & (micros < _LAST)))  # NaT is in no range
    if len(bad):
        raise _unreadable(given, int(bad[0]), field_of)
    return micros.astype("datetime64[ns]")


def _unreadable(given: Times, row: int, field_of: FieldOf) -> HistoryError:
    what = f"{str(given[row])[:40]!r} cannot be read as a time like those of the other rows"
    return HistoryError(Problem(field_of(row), what, WRITE_TIMES))


def grid_steps(time: TimeArray, step_s: float, field_of: FieldOf) -> IntArray:
    """Steps from each row to the next: ``(n - 1,)`` int64, 1 where nothing is missing.

    Raises:
        HistoryError: If a time repeats, is earlier than the one before it, or lies off the grid; the first of each.
    """
    step_ns = round(step_s * 1e9)
    distance = np.diff(time).astype(np.int64)
    steps = (distance + step_ns // 2) // step_ns
    on_grid = np.abs(distance - steps * step_ns) <= GRID_TOLERANCE_NS
    if on_grid.all() and (steps >= 1).all():
        return np.asarray(steps)
    problems = []
    sort = "sort the rows by time and send one row per time"
    for wrong, what, fix in (
        (distance == 0, "repeats the time of the row before it", sort),
        (distance < 0, "is earlier than the row before it", sort),
        (
            (distance > 0) & ~(on_grid & (steps >= 1)),
            "is not a whole number of steps after the row before it",
            f"the model's rows are {step_s:g} s apart: send them on that grid, and leave out what was not measured",
        ),
    ):
        rows = np.flatnonzero(wrong)
        if len(rows):
            more = f" ({len(rows)} rows do)" if len(rows) > 1 else ""
            problems.append(Problem(field_of(int(rows[0]) + 1), f"{stamp(time[rows[0] + 1])} {what}{more}", fix))
    raise HistoryError(*problems)
