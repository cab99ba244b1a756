"""What becomes of work on one series among many: a result, or a reason why there is none that spoils no other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from flts_ray.errors import FltsError, TrainingError

R = TypeVar("R")


class SeriesJob(Protocol):
    """Work on one series: plain data, so that it can travel to another process."""

    @property
    def names(self) -> dict[str, str]:
        """What it is about, such as ``series`` and ``target``: fields of heartbeats and events."""

    @property
    def rows(self) -> int:
        """Rows that it works on: how long it takes, compared with others."""


J = TypeVar("J", bound=SeriesJob)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no result.

    Attributes:
        reason: For a person.
        kind: What it ends in if nothing helps.
        again: Whether it may work the next time.
    """

    reason: str
    kind: type[FltsError] = TrainingError
    again: bool = False


def attempt(work: Callable[[J], R], job: J) -> R | Failure:
    """Do work on one series; whatever it raises is a :class:`Failure`. What our own errors say is final."""
    try:
        return work(job)
    except FltsError as error:
        return Failure(f"{type(error).__name__}: {error}", type(error))
    except Exception as error:  # noqa: BLE001  one series must not end the others; the reason is reported
        return Failure(f"{type(error).__name__}: {error}", again=True)


def may_work(outcome: object) -> bool:
    """Whether it is a failure that trying again may mend."""
    return isinstance(outcome, Failure) and outcome.again


def in_this_process(
    work: Callable[[J], R], jobs: Sequence[J], on_progress: Callable[[int, int], None] = lambda done, failed: None
) -> list[R | Failure]:
    """Do work on every series here, one after the other; what may work the next time is tried twice.

    Args:
        work: A function of one job.
        jobs: One a series, or several.
        on_progress: Told after each how many are done, and how many of these have failed.

    Returns:
        One outcome a job, in order.
    """
    outcomes: list[R | Failure] = []
    failed = 0
    for job in jobs:
        outcome = attempt(work, job)
        if may_work(outcome):
            outcome = attempt(work, job)
        outcomes.append(outcome)
        failed += isinstance(outcome, Failure)
        on_progress(len(outcomes), failed)
    return outcomes
