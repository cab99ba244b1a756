"""The forecasts of one bundle."""

from __future__ import annotations

from collections.abc import Sequence

from flts_ray.errors import FltsError
from flts_ray.inference.queries import Forecast, Query
from flts_ray.models.bundle import Bundle


class Engine:
    """Computes forecasts with a bundle. Thread-safe."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def forecast(self, queries: Sequence[Query]) -> list[Forecast | FltsError]:
        """Answer queries together; each fails alone."""
        raise NotImplementedError
