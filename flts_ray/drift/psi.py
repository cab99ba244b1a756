"""The population stability index of a live column against training, and how much of it is usual.

With the shares ``p`` of training rows and ``q`` of live rows in each bin, ``PSI = sum((q - p) ln(q / p))``: the
Jeffreys divergence of the two histograms (Kullback & Leibler 1951; as an index with the thresholds 0.1 and 0.25:
Siddiqi, *Credit Risk Scorecards*, 2006). Two things are done to it here:

- Half a row is added to every bin of both sides (Krichevsky & Trofimov 1981), so that an empty bin is finite evidence.
- Training rows are weighted so that they come from the same parts of the day as the live ones: a few hours of night
  differ from whole days of training without anything having drifted.

For independent rows without drift the index is about ``(bins - 1) (1/n + 1/m)`` (Yurdakul 2018). Load is far from
independent: what a stretch of training as long as the live one shows against the rest of training is the yardstick,
see :meth:`flts_ray.drift.snapshot.ColumnSnapshot.limit`.
"""

from __future__ import annotations

import numpy as np

from flts_ray.data.frame import FloatArray, IntArray, TimeArray

BINS = 10
DAY_PARTS = 8
SMOOTHING = 0.5
ATOM = 1e-9
"""Half width of the bin around a value that many rows share, relative to its size where that is above 1."""

_DAY_S = 86_400


def day_part(time: TimeArray) -> IntArray:
    """Which part of its day each row lies in: ``(n,)`` int64 from 0 to ``DAY_PARTS - 1``."""
    return time.astype("datetime64[s]").astype(np.int64) % _DAY_S * DAY_PARTS // _DAY_S


def edges_of(values: FloatArray) -> FloatArray:
    """Bounds between bins that hold a tenth of the rows each; a value that takes more has a bin of its own.

    So a constant column has three bins: below its value, at it and above it.

    Args:
        values: ``(n,)``; NaN is left out.

    Returns:
        Strictly increasing, ``(k,)``; empty without values.
    """
    known = np.sort(values[~np.isnan(values)])
    if len(known) == 0:
        return np.zeros(0)
    cuts, times = np.unique(np.quantile(known, np.arange(1, BINS) / BINS, method="lower"), return_counts=True)
    width = ATOM * np.maximum(1.0, np.abs(cuts))
    atom = (times > 1) | (cuts == known[0]) | (cuts == known[-1])
    return np.unique(np.concatenate([cuts[~atom], (cuts - width)[atom], (cuts + width)[atom]]))


def histogram(values: FloatArray, part: IntArray, edges: FloatArray) -> IntArray:
    """Rows by part of the day and bin.

    Args:
        values: ``(n,)``, NaN where nothing was reported.
        part: ``(n,)`` from :func:`day_part`.
        edges: From :func:`edges_of`.

    Returns:
        ``(DAY_PARTS, len(edges) + 2)`` counts; the last bin is that of missing values.
    """
    bins = len(edges) + 2
    number = np.where(np.isnan(values), bins - 1, np.searchsorted(edges, values, side="right"))
    return np.bincount(part * bins + number, minlength=DAY_PARTS * bins).reshape(DAY_PARTS, bins).astype(np.int64)


def psi(expected: FloatArray | IntArray, actual: FloatArray | IntArray) -> float:
    """Population stability index of two histograms over the same bins; 0 when their shares are equal, else positive.

    Args:
        expected: ``(bins,)`` rows, not all zero.
        actual: ``(bins,)`` rows.
    """
    p, q = ((counts + SMOOTHING) / (counts.sum() + SMOOTHING * len(counts)) for counts in (expected, actual))
    return float(((q - p) * np.log(q / p)).sum())


def matched(reference: IntArray, live: IntArray) -> FloatArray:
    """Reference rows as they would be, had they come from the same parts of the day as the live ones: ``(bins,)``.

    Args:
        reference: ``(DAY_PARTS, bins)`` rows from :func:`histogram`. For parts of the day that it never saw, all of it
            stands in.
        live: As ``reference``, at least one row.
    """
    rows = reference.sum(axis=1, keepdims=True)
    shares = np.where(rows > 0, reference / np.maximum(rows, 1), reference.sum(axis=0) / max(1, int(rows.sum())))
    weights = live.sum(axis=1) / live.sum()
    return np.asarray(weights @ shares * rows.sum())


def matched_psi(reference: IntArray, live: IntArray) -> float:
    """The index of live rows against reference rows of the same parts of the day; see :func:`matched`."""
    return psi(matched(reference, live), live.sum(axis=0))
