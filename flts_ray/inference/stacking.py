"""Several histories of one station as one frame: what a model reads of each, one below the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flts_ray.data.frame import IntArray, RawFrame, SeriesFrame, TimeArray
from flts_ray.data.transform import Transform
from flts_ray.inference.times import GRID_TOLERANCE_NS


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The latest rows of several histories.

    Attributes:
        frame: Their rows, all of them test rows; each history has segments of its own.
        starts: ``(q + 1,)`` int64, first row of each history, and the end.
    """

    frame: SeriesFrame
    starts: IntArray


def stack(transform: Transform, series: str, histories: Sequence[RawFrame], rows: Sequence[int]) -> Stack:
    """Compute what a model reads; histories of one length are computed together.

    Args:
        transform: Of the station.
        series: Its name.
        histories: With the transform's columns, in its order.
        rows: Latest rows wanted of each, from 1 to its length.
    """
    starts = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
    total, picked = int(starts[-1]), [transform.columns.index(name) for name in transform.targets]
    frame = SeriesFrame(
        series=series,
        time=np.empty(total, dtype="datetime64[ns]"),
        features=np.empty((total, len(transform.feature_names)), dtype=np.float32),
        targets=np.empty((total, len(picked))),
        observed=np.empty((total, len(picked))),
        segment=np.repeat(starts[:-1], rows),
        train_rows=0,
    )
    for (length, kept), places in _alike(histories, rows).items():
        values, times = (np.stack([getattr(histories[i], part) for i in places]) for part in ("values", "time"))
        place = starts[places][:, None] + np.arange(kept)
        frame.time[place] = times[:, length - kept :]
        frame.observed[place] = values[:, length - kept :, picked]
        regular = _regular(times, transform.step_s)
        if regular.any():
            own = slice(None) if regular.all() else regular  # a mask would copy what may be many rows
            made = transform.latest(values[own], times[own], kept)
            frame.features[place[own]], frame.targets[place[own]] = made
        for j in np.flatnonzero(~regular).tolist():
            whole = transform.apply(histories[places[j]], train_rows=0)
            frame.features[place[j]], frame.targets[place[j]] = whole.features[-kept:], whole.targets[-kept:]
            frame.segment[place[j]] += whole.segment[-kept:] - whole.segment[-kept]
    return Stack(frame=frame, starts=starts)


def _alike(histories: Sequence[RawFrame], rows: Sequence[int]) -> dict[tuple[int, int], list[int]]:
    """Places of the histories of each length of which as many rows are wanted."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, (history, kept) in enumerate(zip(histories, rows, strict=True)):
        groups[len(history), kept].append(i)
    return groups


def _regular(times: TimeArray, step_s: float) -> npt.NDArray[np.bool_]:
    """Which of ``times (q, n)`` have no gap."""
    off = np.abs(np.diff(times, axis=1).astype(np.int64) - round(step_s * 1e9)) > GRID_TOLERANCE_NS
    return np.asarray(~off.any(axis=1))
