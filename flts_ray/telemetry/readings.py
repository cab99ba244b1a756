"""The present values of many figures, kept apart from Ray: setting one costs a microsecond and cannot fail."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

from flts_ray.telemetry.figures import Figure, instrument

Labels = frozenset[tuple[str, str]]


class Readings:
    """Values of figures by their labels. Thread-safe.

    Args:
        make: Makes what receives the values of a figure: Ray's metric, unless a test looks instead.
        always: Labels that all series have.
    """

    def __init__(self, make: Callable[..., Any] = instrument, **always: str) -> None:
        self._make, self._always = make, always
        self._values: dict[tuple[Figure, Labels], float] = {}
        self._pushed: dict[tuple[Figure, Labels], float] = {}
        self._made: dict[Figure, Any] = {}
        self._lock = threading.Lock()

    def set(self, figure: Figure, value: float, **labels: str) -> None:
        """Give a gauge a value; NaN ends the series."""
        with self._lock:
            self._values[figure, frozenset(labels.items())] = float(value)

    def add(self, figure: Figure, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        key = figure, frozenset(labels.items())
        with self._lock:
            self._values[key] = self._values.get(key, 0.0) + amount

    def end(self, *figures: Figure, **labels: str) -> None:
        """End all series of these gauges that have these labels."""
        with self._lock:
            for figure, having in self._values:
                if figure in figures and having >= labels.items():
                    self._values[figure, having] = math.nan

    def get(self, figure: Figure, **labels: str) -> float | None:
        """The present value; None if there is none."""
        with self._lock:
            value = self._values.get((figure, frozenset(labels.items())), math.nan)
        return None if math.isnan(value) else value

    def push(self) -> None:
        """Hand everything to what receives it; one caller at a time.

        Gauges are handed over again even if unchanged: Ray drops one that has not been set for two of its reports, and
        a Ray that came up later has not heard them.
        """
        with self._lock:
            values = dict(self._values)
            ended = [key for key, value in values.items() if math.isnan(value)]
            for key in ended:
                del self._values[key]
        for (figure, labels), value in values.items():
            if figure not in self._made:
                self._made[figure] = self._make(figure, **self._always)
            if figure.kind == "gauge":
                self._made[figure].set(value, dict(labels))  # of NaN, Prometheus is told that the series ended
            elif (news := value - self._pushed.get((figure, labels), 0.0)) > 0:
                self._made[figure].inc(news, dict(labels))
                self._pushed[figure, labels] = value
