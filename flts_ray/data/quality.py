"""The data-quality report: what is missing, repeated, irregular, constant, or no longer as it was in training."""

from __future__ import annotations

import numpy as np

from flts_ray.config import Section
from flts_ray.data.frame import FloatArray, RawFrame, TimeArray
from flts_ray.data.source import stamp

BREAK_FACTOR = 5.0
BREAK_FACTOR_KS = 0.1
BREAK_SHIFT = 1.0
BREAK_SHIFT_KS = 0.25
BREAK_KS = 0.6
BREAK_MIN_SPAN_S = 86_400.0
BREAK_MIN_VALUES = 100
MAX_VALUES = 20_000
"""Medians and distribution distances are taken on at most this many evenly spaced values."""


class SplitQuality(Section):
    """Findings in one split of one series, on the rows kept.

    Attributes:
        rows: Number of rows.
        time_start: First timestamp (UTC or naive, ISO 8601); empty without rows.
        time_end: Last timestamp.
        step_s: Most frequent distance of two rows; None with fewer than two rows.
        gaps: Places where rows are missing.
        longest_gap_s: Longest distance of two neighbouring rows at a gap, 0 without gaps.
        rows_missing: Rows that would fill all gaps.
        duplicates: Repeated timestamps.
        out_of_order: Rows earlier than the one before. Like duplicates 0 in accepted data.
        irregular_fraction: Share of row distances that are not ``step_s``.
        missing_cells: Cells without a value, all columns together.
        missing: The same per column, columns without any left out.
        zeros: Cells that are exactly 0 per column, columns without any left out.
        constant_columns: Columns with one single value.
    """

    rows: int
    time_start: str
    time_end: str
    step_s: float | None
    gaps: int
    longest_gap_s: float
    rows_missing: int
    duplicates: int
    out_of_order: int
    irregular_fraction: float
    missing_cells: int
    missing: dict[str, int]
    zeros: dict[str, int]
    constant_columns: tuple[str, ...]


class RegimeShift(Section):
    """How one column differs between train and test.

    Attributes:
        column: Its name.
        mean_ratio: Test mean over train mean; None for columns with negative values or zero train mean.
        median_shift: Test median minus train median, in train interquartile ranges; None if that range is 0.
        ks: Kolmogorov-Smirnov distance of the two distributions, 0 to 1.
        broken: Whether the column counts as broken, by :func:`regime_shifts`'s rule.
    """

    column: str
    mean_ratio: float | None
    median_shift: float | None
    ks: float
    broken: bool


def most_frequent_step(time: TimeArray) -> float | None:
    """The most frequent distance of two rows in seconds, to the millisecond; the shortest of equals."""
    if len(time) < 2:
        return None
    steps = np.rint(np.diff(time).astype(np.int64) / 1e6).astype(np.int64)
    values, counts = np.unique(steps[steps > 0], return_counts=True)
    return float(values[np.argmax(counts)]) / 1e3 if len(values) else None


def split_quality(frame: RawFrame, step_s: float | None = None) -> SplitQuality:
    """Examine the rows of one split.

    Args:
        frame: The rows as reported.
        step_s: Regular distance of two rows, if it is known from elsewhere; gaps are counted against it.
    """
    own_step = most_frequent_step(frame.time)
    step = step_s or own_step
    steps = np.diff(frame.time).astype(np.int64) / 1e9
    gap = steps > 1.5 * step if step else np.zeros(0, dtype=bool)
    regular = np.abs(steps - step) <= 5e-4 if step else np.ones(0, dtype=bool)
    empty = np.isnan(frame.values).sum(axis=0)
    zero = (frame.values == 0).sum(axis=0)
    return SplitQuality(
        rows=len(frame),
        time_start=stamp(frame.time[0]) if len(frame) else "",
        time_end=stamp(frame.time[-1]) if len(frame) else "",
        step_s=own_step,
        gaps=int(gap.sum()),
        longest_gap_s=float(steps[gap].max()) if gap.any() else 0.0,
        rows_missing=int((np.rint(steps[gap] / step) - 1).sum()) if step and gap.any() else 0,
        duplicates=int((steps == 0).sum()),
        out_of_order=int((steps < 0).sum()),
        irregular_fraction=float(1 - regular.mean()) if len(regular) else 0.0,
        missing_cells=int(empty.sum()),
        missing={name: int(n) for name, n in zip(frame.columns, empty, strict=True) if n},
        zeros={name: int(n) for name, n in zip(frame.columns, zero, strict=True) if n},
        constant_columns=tuple(
            name for name, column in zip(frame.columns, frame.values.T, strict=True) if _is_constant(column)
        ),
    )


def regime_shifts(train: RawFrame, test: RawFrame) -> tuple[RegimeShift, ...]:
    """Compare every column's distribution in test with that in train.

    A column is broken if any of these holds, where ks is the Kolmogorov-Smirnov distance:

    * its mean changed by a factor of 5 or more, either way, and ks >= 0.1 (an uplink that all but stops; the
      second condition keeps a few bursts, which can move a heavy-tailed mean alone, from counting);
    * its median moved by a train interquartile range or more, and ks >= 0.25 (a level shift);
    * ks >= 0.6 (hardly any overlap).

    On the Barcelona stations, unbroken columns show ks up to 0.18 and factors up to 1.7. Both splits must span a
    day and have 100 values, or the time of day alone could look like a break: otherwise nothing is reported.
    """
    if min(_span_s(train.time), _span_s(test.time)) < BREAK_MIN_SPAN_S:
        return ()
    shifts = []
    for name, before, after in zip(train.columns, train.values.T, test.values.T, strict=True):
        old, new = before[~np.isnan(before)], after[~np.isnan(after)]
        if min(len(old), len(new)) >= BREAK_MIN_VALUES:
            shifts.append(_shift(name, old, new))
    return tuple(shifts)


def _shift(name: str, old: FloatArray, new: FloatArray) -> RegimeShift:
    old_mean, new_mean = float(old.mean()), float(new.mean())
    positive = old.min() >= 0 and new.min() >= 0 and old_mean > 0
    ratio = new_mean / old_mean if positive else None
    old, new = np.sort(_thinned(old)), np.sort(_thinned(new))
    low, middle, high = (float(q) for q in np.quantile(old, (0.25, 0.5, 0.75)))
    shift = (float(np.median(new)) - middle) / (high - low) if high > low else None
    ks = _ks_distance(old, new)
    factor = np.inf if ratio == 0 else max(ratio, 1 / ratio) if ratio is not None else 1.0
    broken = (
        (factor >= BREAK_FACTOR and ks >= BREAK_FACTOR_KS)
        or (shift is not None and abs(shift) >= BREAK_SHIFT and ks >= BREAK_SHIFT_KS)
        or ks >= BREAK_KS
    )
    return RegimeShift(column=name, mean_ratio=ratio, median_shift=shift, ks=ks, broken=bool(broken))


def _ks_distance(old: FloatArray, new: FloatArray) -> float:
    """Largest difference of the two empirical distribution functions; both sorted."""
    points = np.concatenate([old, new])
    below_old = np.searchsorted(old, points, side="right") / len(old)
    below_new = np.searchsorted(new, points, side="right") / len(new)
    return float(np.abs(below_old - below_new).max())


def _thinned(values: FloatArray) -> FloatArray:
    return values[:: -(-len(values) // MAX_VALUES)]


def _span_s(time: TimeArray) -> float:
    return float((time[-1] - time[0]).astype(np.int64) / 1e9) if len(time) else 0.0


def _is_constant(column: FloatArray) -> bool:
    if len(column) == 0 or np.isnan(column).all():
        return False
    return bool(np.nanmin(column) == np.nanmax(column))
