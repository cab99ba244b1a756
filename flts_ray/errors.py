"""Every error the program raises on purpose, in one tree, each with its own exit code.

    FltsError                         1
    ├── ConfigError                   2   a setting is unknown, mistyped or contradictory
    │   └── UnknownRecipeError       17
    ├── DataError                     3   the input data cannot be used
    │   ├── EmptyInputError          10
    │   ├── MissingColumnError       11
    │   ├── ColumnTypeError          12
    │   ├── AllMissingError          13
    │   ├── TimeOrderError           14
    │   ├── TooFewRowsError          15
    │   ├── NegativeValueError       16
    │   ├── SourceNotFoundError      18
    │   ├── SplitOrderError          19
    │   └── HistoryError             22   a history sent for a forecast is not what the model can read
    ├── IntegrityError               20   a stored claim, Parquet file or bundle is not what was written
    │   └── BundleError              21
    ├── TrainingError                40   a candidate could not be fitted
    │   └── ResourceError            41   the request cannot fit on the cluster
    ├── InfrastructureError          53   something the program stands on gave way
    │   ├── TrackingError            50   the MLflow store refused or did not answer
    │   ├── StorageError             51   the object store or disk refused or did not answer
    │   ├── ClusterError             52   Ray lost nodes or processes more often than allowed
    │   └── BusyError                54   another run holds what this one needs
    └── StalledError                 60   something that should make progress made none
        └── DeadlineError            61   a stage took longer than its deadline

The verdict of a run that ends without a new champion has exit codes of its own (30 to 34): see
``flts_ray.evaluation.promotion``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


class FltsError(Exception):
    """Base of every deliberate error: its text says what was wrong, where, and what to do."""

    exit_code: ClassVar[int] = 1

    @property
    def name(self) -> str:
        """Name of the nearest class in this module, for another process to raise it by: see :func:`error_named`."""
        names = (kind.__name__ for kind in type(self).__mro__ if globals().get(kind.__name__) is kind)
        return next(names, FltsError.__name__)


def error_named(name: str) -> type[FltsError]:
    """The class of this module with that name; the base of all if there is none."""
    found = globals().get(name)
    return found if isinstance(found, type) and issubclass(found, FltsError) else FltsError


class ConfigError(FltsError):
    """A setting is unknown, has the wrong type, or contradicts another."""

    exit_code = 2


class UnknownRecipeError(ConfigError):
    """The named recipe does not exist."""

    exit_code = 17


class DataError(FltsError):
    """The input data cannot be used as it is."""

    exit_code = 3


class EmptyInputError(DataError):
    """A source file holds no rows."""

    exit_code = 10


class MissingColumnError(DataError):
    """A required column is absent."""

    exit_code = 11


class ColumnTypeError(DataError):
    """A column holds values of the wrong type."""

    exit_code = 12


class AllMissingError(DataError):
    """A column holds no value at all."""

    exit_code = 13


class TimeOrderError(DataError):
    """Timestamps are duplicated, unsorted, missing or unreadable."""

    exit_code = 14


class TooFewRowsError(DataError):
    """A series has fewer rows than one window needs."""

    exit_code = 15


class NegativeValueError(DataError):
    """A log scale was asked for a column with negative values."""

    exit_code = 16


class SourceNotFoundError(DataError):
    """A source path does not exist or cannot be reached."""

    exit_code = 18


class SplitOrderError(DataError):
    """The test rows do not come after the train rows."""

    exit_code = 19


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with what was sent.

    Attributes:
        field: Where, as a path such as ``history.columns.down[3]``.
        reason: What is wrong.
        fix: What to do about it.
    """

    field: str
    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}: {self.fix}"


class HistoryError(DataError):
    """A history sent for a forecast cannot be used; ``problems`` says field by field why."""

    exit_code = 22

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


class IntegrityError(FltsError):
    """Something stored differs from what its claim says was written."""

    exit_code = 20


class BundleError(IntegrityError):
    """A model bundle is incomplete, altered or of an unknown format."""

    exit_code = 21


class TrainingError(FltsError):
    """A candidate could not be fitted."""

    exit_code = 40


class ResourceError(TrainingError):
    """A request can never fit on the cluster at hand."""

    exit_code = 41


class InfrastructureError(FltsError):
    """Something that the program stands on gave way: the same command may succeed later."""

    exit_code = 53


class TrackingError(InfrastructureError):
    """The tracking store refused a call or did not answer in time."""

    exit_code = 50


class StorageError(InfrastructureError):
    """The object store or the disk refused a call or did not answer in time."""

    exit_code = 51


class ClusterError(InfrastructureError):
    """Ray lost nodes or processes more often than allowed, or could not start them."""

    exit_code = 52


class BusyError(InfrastructureError):
    """Another run holds what this one needs, and has not let go in time."""

    exit_code = 54


class StalledError(FltsError):
    """Something that should make progress made none, and restarting it did not help."""

    exit_code = 60


class DeadlineError(StalledError):
    """A stage took longer than its deadline."""

    exit_code = 61
