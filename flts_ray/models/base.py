"""The one interface of every forecaster, from persistence to LSTM."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from flts_ray.data.frame import FloatArray, IntArray, SeriesFrame

Arrays = dict[str, npt.NDArray[Any]]


class Forecaster(ABC):
    """Forecasts ``horizon`` rows of every target from the rows up to an origin.

    Each subclass also has a ``fit`` classmethod of its own signature, since what fitting needs differs.
    A forecaster's state is JSON plus named arrays: nothing is pickled.

    Attributes:
        kind: Name on the leaderboard and in the bundle.
        lookback: Rows of history, the origin included, that must be gap-free for a forecast.
        horizon: Rows forecast from one origin.
    """

    kind: ClassVar[str]
    lookback: int
    horizon: int

    def knows(self, series: str) -> bool:
        """Whether it can forecast this station; one that is fitted a station at a time may lack some."""
        return True

    @abstractmethod
    def predict(self, frame: SeriesFrame, origins: IntArray) -> FloatArray:
        """Forecast from each origin, reading only rows up to it.

        Args:
            frame: The station's rows; anything after an origin must not influence its forecast.
            origins: ``(m,)`` row numbers of the last known row.

        Returns:
            ``(m, horizon, n_targets)`` float64 in the targets' physical unit.
        """

    @abstractmethod
    def state(self) -> tuple[dict[str, Any], Arrays]:
        """What :meth:`from_state` needs: a JSON-able mapping and named arrays."""

    @classmethod
    @abstractmethod
    def from_state(cls, meta: dict[str, Any], arrays: Arrays) -> Self:
        """Rebuild a forecaster from :meth:`state`.

        Raises:
            BundleError: If a part is missing or has the wrong shape.
        """

    def forecast(self, frame: SeriesFrame) -> FloatArray:
        """Forecast from the last row of ``frame``: ``(horizon, n_targets)`` in physical units."""
        result: FloatArray = self.predict(frame, np.array([len(frame) - 1], dtype=np.int64))[0]
        return result
