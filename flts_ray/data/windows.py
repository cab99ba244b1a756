"""Sliding windows: which rows of a series can be forecast from, and the rows a model then reads.

Windows are formed late, from contiguous rows, as strided views: nothing is copied lookback-fold.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flts_ray.data.frame import Float32Array, IntArray, SeriesFrame


def window_count(rows: int, lookback: int, horizon: int) -> int:
    """Windows in one gap-free stretch: ``max(0, rows - lookback - horizon + 1)``."""
    return max(0, rows - lookback - horizon + 1)


def training_origins(segment: IntArray, lookback: int, horizon: int) -> IntArray:
    """Origins whose whole window, history and horizon, lies in one gap-free stretch.

    Args:
        segment: ``(n,)`` segment numbers, non-decreasing.
        lookback: Rows of history, the origin included.
        horizon: Rows after the origin.

    Returns:
        ``(w,)`` int64, increasing: row numbers of the last row of each history. Exactly
        ``sum(window_count(rows of s, lookback, horizon) for s in segments)`` of them.
    """
    first = np.arange(len(segment) - lookback - horizon + 1, dtype=np.int64)
    if len(first) == 0:
        return np.zeros(0, dtype=np.int64)
    whole = segment[first] == segment[first + lookback + horizon - 1]
    origins: IntArray = first[whole] + lookback - 1
    return origins


def test_origins(frame: SeriesFrame, lookback: int, horizon: int) -> IntArray:
    """Origins from which some test row is forecast, with history that may reach back into the train rows.

    The history must be gap-free; the horizon may run past the end of the data (those steps are not scored).

    Returns:
        ``(m,)`` int64, increasing. Step ``h`` (1-based) of origin ``i`` is row ``i + h``; it counts only where
        that row exists, is a test row and lies in the origin's segment.
    """
    if frame.test_rows == 0:
        return np.zeros(0, dtype=np.int64)
    start = max(lookback - 1, frame.train_rows - horizon)
    origins = np.arange(start, len(frame) - 1, dtype=np.int64)
    first_scored = np.maximum(origins + 1, frame.train_rows)
    gap_free = frame.segment[origins - lookback + 1] == frame.segment[first_scored]
    kept: IntArray = origins[gap_free]
    return kept


def histories(features: Float32Array, origins: IntArray, lookback: int) -> Float32Array:
    """The rows a model reads at each origin, oldest first.

    Args:
        features: ``(n, d)``.
        origins: ``(m,)``, each at least ``lookback - 1``.
        lookback: Rows of history, the origin included.

    Returns:
        ``(m, lookback, d)``; a fresh array, so slice the origins to bound memory.
    """
    view: npt.NDArray[np.float32] = np.lib.stride_tricks.sliding_window_view(features, lookback, axis=0)
    return np.ascontiguousarray(view[origins - lookback + 1].transpose(0, 2, 1))
