"""Is a body the right one? Known numbers are compared once; bodies already proven right are known by their bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

Step = tuple[str, float, float, float]
"""Time of a step (ISO 8601), value, lower and upper bound."""
Answer = list[list[Step]]
"""What one request should be answered: the steps of each history's forecast."""
Expected = Mapping[str, Answer]
"""The right answer of each model version; the body says which version made it."""

TOLERANCE = 1e-5
"""Largest difference that counts as equal, relative to the expected value."""
KNOWN_BODIES = 64
"""Distinct bodies remembered for a payload."""


class WrongBodyError(ValueError):
    """A body that is not what was expected."""


def difference(found: Answer, wanted: Answer) -> float:
    """Largest difference of any value or bound, relative to the expected value (for bounds too: they may be zero).

    Raises:
        WrongBodyError: If the histories, steps or times differ, or a number is not finite.
    """
    if [len(steps) for steps in found] != [len(steps) for steps in wanted]:
        raise WrongBodyError(f"{[len(s) for s in found]} steps instead of {[len(s) for s in wanted]}")
    largest = 0.0
    for (time, *numbers), (due, *expected) in zip(chain(*found), chain(*wanted), strict=True):
        if time != due:
            raise WrongBodyError(f"a step at {time} instead of {due}")
        scale = abs(expected[0]) or 1.0
        for number, target in zip(numbers, expected, strict=True):
            if not math.isfinite(number):
                raise WrongBodyError(f"{number} where a number was due")
            largest = max(largest, abs(number - target) / scale)
    return largest


def read_answer(document: Any, *, unwrap: str = "") -> tuple[str, Answer]:
    """Version and steps out of an answer of ``/v1/forecast``, which may be wrapped in a key.

    Raises:
        WrongBodyError: If it is not such an answer.
    """
    try:
        document = document[unwrap] if unwrap else document
        forecasts = [
            [(s["time"], s["value"], s["lower"], s["upper"]) for s in forecast["steps"]]
            for forecast in document["forecasts"]
        ]
        return str(document["model"]["version"]), forecasts
    except (KeyError, TypeError) as error:
        raise WrongBodyError(f"no forecast in the body: {error!r}") from error


class Checker:
    """Judges bodies.

    Args:
        expected: Right answers, a payload each.
        unwrap: Key under which a server puts its answer.
        tolerance: Largest relative difference.
    """

    def __init__(self, expected: Sequence[Expected], *, unwrap: str = "", tolerance: float = TOLERANCE) -> None:
        self._expected, self._unwrap, self._tolerance = expected, unwrap, tolerance
        self._known: list[dict[bytes, str]] = [{} for _ in expected]
        self.largest_difference = 0.0

    def version(self, payload: int, body: bytes) -> str:
        """The model version that made a right body.

        Raises:
            WrongBodyError: If the body is wrong.
        """
        known = self._known[payload]
        version = known.get(body)
        if version is None:
            version = self._judge(self._expected[payload], body)
            if len(known) < KNOWN_BODIES:
                known[body] = version
        return version

    def _judge(self, expected: Expected, body: bytes) -> str:
        try:
            document = json.loads(body)
        except ValueError as error:
            raise WrongBodyError(f"not JSON: {body[:80]!r}") from error
        version, answer = read_answer(document, unwrap=self._unwrap)
        if version not in expected:
            raise WrongBodyError(f"made by version {version}, expected {', '.join(expected)}")
        try:
            gap = difference(answer, expected[version])
        except TypeError as error:
            raise WrongBodyError(f"not a number where one was due: {error}") from error
        if gap > self._tolerance:
            raise WrongBodyError(f"version {version}: off by {gap:.3g} of the value")
        self.largest_difference = max(self.largest_difference, gap)
        return version
