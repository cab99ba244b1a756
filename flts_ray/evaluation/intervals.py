"""Forecast intervals of whole backtests: calibrated, applied, measured, and packed for the model bundle.

The algorithm, and what it was measured against, is in :mod:`flts_ray.evaluation.conformal`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from flts_ray.config import EvaluationSettings
from flts_ray.data.frame import FloatArray, IntArray, SeriesFrame
from flts_ray.errors import BundleError
from flts_ray.evaluation.backtest import Backtest
from flts_ray.evaluation.conformal import IntervalState, adaptive_intervals, initial_state
from flts_ray.models.base import Arrays

__all__ = [
    "Bands",
    "IntervalState",
    "SeriesStates",
    "adaptive_intervals",
    "bands",
    "calibrate",
    "covered",
    "pack",
    "rolling_minimum",
    "unpack",
]

ROLLING_ROWS = 250

SeriesStates = tuple[tuple[IntervalState, ...], ...]
"""States of one series: ``states[target][step - 1]``."""


def calibrate(validation: Backtest, frame: SeriesFrame, settings: EvaluationSettings) -> SeriesStates:
    """States of every target and step from forecasts of held-out train rows.

    Args:
        validation: Backtest at :func:`~flts_ray.evaluation.backtest.calibration_origins`, with ``part="train"``, of a
            model that was not fitted on these rows.
        frame: The same station's rows.
        settings: Coverage, rate and number of scores.
    """
    train = frame.observed[: frame.train_rows]

    def one(target: int, step: int) -> IntervalState:
        forecast = validation.predictions[:, step - 1, target]
        actual = validation.observed[:, step - 1, target]
        state = initial_state(forecast, actual, train[:, target], settings, step=step)
        return adaptive_intervals(forecast, actual, state, origins=validation.origins)[2]

    _, horizon, targets = validation.predictions.shape
    return tuple(tuple(one(target, step) for step in range(1, horizon + 1)) for target in range(targets))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bands:
    """Intervals of a backtest: ``lower`` and ``upper`` are ``(m, horizon, n_targets)`` in bits."""

    lower: FloatArray
    upper: FloatArray
    states: SeriesStates


def bands(predictions: FloatArray, observed: FloatArray, origins: IntArray, states: SeriesStates) -> Bands:
    """Intervals of every target and step, for evaluation and serving alike.

    Serving forecasts from the last origins of the history sent, passes what is already known as ``observed`` and
    NaN for the rest, and answers with the bands of the last origin.

    Args:
        predictions: ``(m, horizon, n_targets)`` in bits.
        observed: Same shape, NaN where not known.
        origins: ``(m,)`` increasing row numbers.
        states: From :func:`calibrate` or :func:`unpack`.
    """
    lower, upper = np.full_like(predictions, math.nan), np.full_like(predictions, math.nan)
    after: list[tuple[IntervalState, ...]] = []
    for k, steps in enumerate(states):
        new: list[IntervalState] = []
        for h, state in enumerate(steps):
            cell = np.s_[:, h, k]
            lower[cell], upper[cell], state_after = adaptive_intervals(
                predictions[cell], observed[cell], state, origins=origins
            )
            new.append(state_after)
        after.append(tuple(new))
    return Bands(lower=lower, upper=upper, states=tuple(after))


def covered(observed: FloatArray, lower: FloatArray, upper: FloatArray) -> npt.NDArray[np.bool_]:
    """Where the outcome fell inside its interval; elementwise, False where anything is NaN."""
    return (observed >= lower) & (observed <= upper)


def rolling_minimum(hits: npt.NDArray[np.bool_], window: int = ROLLING_ROWS) -> float | None:
    """Lowest share of hits in any ``window`` consecutive rows of ``hits (n,)``; None when there are fewer."""
    if len(hits) < window:
        return None
    total = np.concatenate([[0], np.cumsum(hits)])
    return float((total[window:] - total[:-window]).min() / window)


def pack(states: Mapping[str, SeriesStates]) -> tuple[dict[str, Any], Arrays]:
    """States of all series as JSON and arrays for the model bundle; pending outcomes are taken in first."""
    meta: dict[str, Any] = {}
    arrays: Arrays = {}
    for number, (series, targets) in enumerate(states.items()):
        cells = [state.settled() for steps in targets for state in steps]
        scores = np.full((len(cells), max((len(c.scores) for c in cells), default=0)), math.nan)
        for row, cell in zip(scores, cells, strict=True):
            row[: len(cell.scores)] = cell.scores
        name = f"interval_scores.{number}"
        arrays[name] = scores
        meta[series] = {
            "scores": name,
            "horizon": len(targets[0]) if targets else 0,
            "cells": [cell.model_dump(mode="json", exclude={"scores", "pending"}) for cell in cells],
        }
    return meta, arrays


def unpack(meta: Mapping[str, Any], arrays: Arrays) -> dict[str, SeriesStates]:
    """Rebuild what :func:`pack` wrote.

    Raises:
        BundleError: If a part is missing or malformed.
    """
    states: dict[str, SeriesStates] = {}
    for series, entry in meta.items():
        try:
            horizon, scores = int(entry["horizon"]), arrays[entry["scores"]]
            cells = tuple(
                IntervalState.model_validate_json(
                    json.dumps({**cell, "scores": row[np.isfinite(row)].tolist()}, allow_nan=False)
                )
                for cell, row in zip(entry["cells"], scores, strict=True)
            )
        except (KeyError, TypeError, ValueError, ValidationError) as error:
            raise BundleError(
                f"the interval calibration of series {series!r} in the bundle cannot be read ({error}); "
                "train and save the model again"
            ) from error
        states[series] = tuple(cells[i : i + horizon] for i in range(0, len(cells), horizon)) if horizon else ()
    return states
