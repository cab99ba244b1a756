"""A check any forecaster's tests can use: what comes after an origin must not change its forecast."""

from __future__ import annotations

import dataclasses

import numpy as np

from flts_ray.data.frame import IntArray, SeriesFrame
from flts_ray.models.base import Forecaster


def altered_after(frame: SeriesFrame, origin: int, *, seed: int = 0) -> SeriesFrame:
    """The same frame with every value after ``origin`` replaced by large noise."""
    random = np.random.default_rng(seed)

    def noisy(values: np.ndarray) -> np.ndarray:
        copy = values.copy()
        tail = copy[origin + 1 :]
        tail[...] = random.normal(scale=10.0 * (1.0 + np.nanmax(np.abs(values))), size=tail.shape)
        return copy

    return dataclasses.replace(
        frame, features=noisy(frame.features), targets=noisy(frame.targets), observed=noisy(frame.observed)
    )


def assert_causal(forecaster: Forecaster, frame: SeriesFrame, origins: IntArray) -> None:
    """Fail if a forecast changes when the rows after its origin are altered or cut off.

    Args:
        forecaster: The model, fitted.
        frame: Rows of a station.
        origins: A few origins with enough history; each one is checked on its own.
    """
    together = forecaster.predict(frame, origins)
    for number, origin in enumerate(origins.tolist()):
        alone = np.array([origin], dtype=np.int64)
        for variant in (altered_after(frame, origin), frame.head(origin + 1)):
            np.testing.assert_allclose(
                forecaster.predict(variant, alone)[0],
                together[number],
                rtol=1e-5,
                err_msg=f"{forecaster.kind} read rows after its origin {origin}",
            )
