"""One metric, as it is declared, and as Ray exports it to Prometheus."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One metric.

    Attributes:
        name: As it is made; Ray exports it as ``ray_<name>``.
        kind: What Prometheus calls it.
        meaning: A sentence.
        tags: Labels, besides those that every figure of its owner has.
        buckets: Upper bounds, for a histogram.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    tags: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def exported(self) -> tuple[str, ...]:
        """Names of its time series in Prometheus."""
        suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
        return tuple(f"ray_{self.name}{suffix}" for suffix in suffixes[self.kind])


STORAGE_BYTES = Figure(
    name="flts_storage_bytes",
    kind="counter",
    tags=("direction", "place"),
    meaning="Bytes of files read and written (direction) on a disk or an S3 server (place), by any process.",
)


def ray_is_up() -> bool:
    """Whether this process belongs to a Ray cluster just now. Imports nothing."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(getattr(ray, "is_initialized", bool)())


def instrument(figure: Figure, **always: str) -> Any:
    """Ray's metric for a figure; Ray must be up for its values to go anywhere.

    Args:
        figure: What to make.
        always: Labels and values that all its series have.
    """
    from ray.util import metrics

    tags = (*figure.tags, *always)
    if figure.kind == "histogram":
        made: Any = metrics.Histogram(figure.name, figure.meaning, list(figure.buckets), tags)
    else:
        kind = metrics.Counter if figure.kind == "counter" else metrics.Gauge
        made = kind(figure.name, figure.meaning, tags)
    return made.set_default_tags(always) if always else made


def count_bytes(direction: Literal["read", "written"], uri: str, amount: int) -> None:
    """Add to the bytes that this process moved; nothing where Ray is not up.

    Args:
        direction: Which way.
        uri: Where the file lies; only the kind of place is told.
        amount: How many.
    """
    if amount > 0 and ray_is_up():
        _storage_bytes().inc(amount, {"direction": direction, "place": "s3" if uri.startswith("s3://") else "disk"})


@cache
def _storage_bytes() -> Any:
    return instrument(STORAGE_BYTES)
