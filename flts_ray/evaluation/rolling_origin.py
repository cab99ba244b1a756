"""Rolling-origin backtest: where the train rows are cut, and which models take part.

Every station is cut by its own rows, as train and test are, so that the scored rows of all windows together are its
last train rows, each scored once. The test rows are not touched: they stay the last judge. What is learnt in a window,
the transform included, is learnt from the rows before its cut; :mod:`flts_ray.training.backtest_fits` does that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from flts_ray.candidates import candidate_id
from flts_ray.config import Settings, canonical_digest
from flts_ray.config_experiments import BacktestSettings
from flts_ray.data.dataset import Dataset
from flts_ray.errors import ConfigError, TooFewRowsError
from flts_ray.evaluation.leaderboard import PERSISTENCE, Role

BACKTEST_FORMAT = 1
"""Changes whenever the same dataset, settings and models would give another table; part of every backtest's id."""

BASELINE_KINDS = (PERSISTENCE, "moving_average", "seasonal_naive", "ridge")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """One window of one station, in row numbers.

    Rows ``[start, learn_stop)`` are learnt from, ``[first_scored, stop)`` scored; those in between are the gap.
    """

    start: int
    learn_stop: int
    first_scored: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The windows of every station that is long enough for them, and why the others are left out."""

    cuts: dict[str, tuple[Cut, ...]]
    left_out: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A model that is fitted anew in every window.

    Attributes:
        name: On the table; unique.
        kind: As in the registry of models.
        role: Candidate or baseline.
        settings: With which it is fitted.
    """

    name: str
    kind: str
    role: Role
    settings: Settings

    @property
    def lookback(self) -> int:
        """Gap-free rows that it will need before an origin."""
        if self.kind in ("gru", "lstm", "ridge"):
            return self.settings.windows.lookback
        return max(1, self.settings.prophet.residual_lags) if self.kind == "prophet" else 1


def contenders(settings: Settings, *, tuned: tuple[str, Settings] | None = None) -> tuple[Contender, ...]:
    """The models of ``backtest.models``; persistence is always among them, as what the others are compared with.

    Args:
        settings: The whole configuration.
        tuned: Kind and settings of the winner of a sweep, which takes part as ``tuned``.

    Raises:
        ConfigError: If a model of ``backtest.models`` is neither a candidate nor a baseline.
    """
    known = [Contender(name=kind, kind=kind, role="candidate", settings=settings) for kind in settings.candidates]
    if tuned is not None:
        known.append(Contender(name="tuned", kind=tuned[0], role="candidate", settings=tuned[1]))
    known += [Contender(name=kind, kind=kind, role="baseline", settings=settings) for kind in BASELINE_KINDS]
    wanted = set(settings.backtest.models) | {PERSISTENCE} if settings.backtest.models else {c.name for c in known}
    unknown = sorted(wanted - {c.name for c in known})
    if unknown:
        raise ConfigError(
            f"backtest.models names '{unknown[0]}', which is no model of this run: choose from "
            f"{', '.join(c.name for c in known)}"
        )
    return tuple(c for c in known if c.name in wanted)


def cuts(train_rows: int, settings: BacktestSettings) -> tuple[Cut, ...]:
    """The windows of one station, in order of time.

    Their scored rows lie one behind the other and end with the last train row.

    Args:
        train_rows: Train rows of the station.
        settings: Windows, gap, mode.

    Returns:
        ``settings.windows`` cuts; the first may have no rows to learn from, see :func:`plan`.
    """
    first = train_rows - settings.windows * settings.test_rows
    width = settings.train_rows or first - settings.gap_rows
    found = []
    for number in range(settings.windows):
        scored = first + number * settings.test_rows
        learn_stop = scored - settings.gap_rows
        start = max(0, learn_stop - width) if settings.mode == "sliding" else 0
        found.append(Cut(start=start, learn_stop=learn_stop, first_scored=scored, stop=scored + settings.test_rows))
    return tuple(found)


def plan(dataset: Dataset, settings: Settings) -> Plan:
    """The windows of all stations; one too short for them is left out. Cheap: to be asked before anything is fitted.

    Raises:
        TooFewRowsError: If every station is too short.
    """
    chosen, windows = settings.backtest, settings.windows
    # So many rows have one training window before the validation tail.
    least = math.ceil((windows.lookback + windows.horizon) / (1 - settings.training.validation_fraction)) + 1
    needed = chosen.windows * chosen.test_rows + chosen.gap_rows + least
    found: dict[str, tuple[Cut, ...]] = {}
    left_out: dict[str, str] = {}
    for frame in dataset.frames:
        if frame.train_rows < needed:
            left_out[frame.series] = (
                f"it has {frame.train_rows} train rows, and {chosen.windows} windows of {chosen.test_rows} rows need "
                f"{needed}: lower backtest.windows or backtest.test_rows"
            )
        else:
            found[frame.series] = cuts(frame.train_rows, chosen)
    if not found:
        series, reason = next(iter(left_out.items()))
        raise TooFewRowsError(f"no series can be backtested; series '{series}': {reason}")
    return Plan(cuts=found, left_out=left_out)


def backtest_id(dataset_id: str, settings: Settings, models: Sequence[Contender]) -> str:
    """``backtest-<12 hex>``: a digest of the dataset, the windows and of every setting that shapes a model."""
    shaping = {
        "format": BACKTEST_FORMAT,
        "dataset_id": dataset_id,
        "backtest": settings.backtest.model_dump(mode="json", exclude={"enabled", "models"}),
        "baselines": settings.baselines.model_dump(mode="json"),
        "windows": settings.windows.model_dump(mode="json"),
        "models": {c.name: [c.kind, candidate_id(c.kind, dataset_id, c.settings)] for c in models},
    }
    return f"backtest-{canonical_digest(shaping)[:12]}"
