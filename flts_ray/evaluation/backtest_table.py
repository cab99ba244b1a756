"""The table of a rolling-origin backtest: each model in each window, on each series, and all together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from flts_ray.config import Section, Settings
from flts_ray.config_experiments import BacktestSettings
from flts_ray.data.dataset import Dataset
from flts_ray.data.frame import FloatArray
from flts_ray.evaluation.leaderboard import ALL, NON_FINITE, PERSISTENCE, Role
from flts_ray.evaluation.metrics import composite, skill
from flts_ray.evaluation.rolling_origin import Contender, Plan, backtest_id

POOLED = 0
"""Number of the row that takes all windows together; the windows count from 1."""


@dataclass(frozen=True, slots=True)
class ErrorSums:
    """What is kept of forecast errors: sums, from which the errors of any rows together follow exactly."""

    n: int = 0
    abs_bits: float = 0.0
    square_bits: float = 0.0
    abs_scaled: float = 0.0
    square_scaled: float = 0.0

    @classmethod
    def of(cls, error: FloatArray, valid: npt.NDArray[np.bool_], unit: FloatArray) -> ErrorSums:
        """Sums over the valid points.

        Args:
            error: ``(m, horizon, n_targets)`` observed minus forecast, in bits.
            valid: The same shape.
            unit: ``(n_targets,)`` bits in one scaled unit.
        """
        scaled = (error / unit)[valid]
        bits = error[valid]
        with np.errstate(over="ignore", invalid="ignore"):  # what diverged is told by the table
            return cls(
                n=len(bits),
                abs_bits=float(np.abs(bits).sum()),
                square_bits=float(np.square(bits).sum()),
                abs_scaled=float(np.abs(scaled).sum()),
                square_scaled=float(np.square(scaled).sum()),
            )

    def __add__(self, other: ErrorSums) -> ErrorSums:
        return ErrorSums(
            self.n + other.n,
            self.abs_bits + other.abs_bits,
            self.square_bits + other.square_bits,
            self.abs_scaled + other.abs_scaled,
            self.square_scaled + other.square_scaled,
        )

    @property
    def finite(self) -> bool:
        """Whether every forecast behind the sums was a finite number."""
        return math.isfinite(self.square_bits) and math.isfinite(self.square_scaled)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One model in one window: its errors by station, or the reason why there are none.

    Attributes:
        sums: By station.
        fit_s: Seconds that fitting took; None where the model of an earlier window was used.
        failure: Why there are none at all; empty if there are.
        missing: Why a station has none, by station.
    """

    sums: Mapping[str, ErrorSums]
    fit_s: float | None = None
    failure: str = ""
    missing: Mapping[str, str] = field(default_factory=dict)

    def reasons(self, series: Sequence[str]) -> list[str]:
        """Why it has no errors of some of these stations."""
        return [self.failure] if self.failure else [self.missing[name] for name in series if name in self.missing]


class BacktestRow(Section):
    """Scores of one model in one window (0: all together) on one series (``*``: all), all targets pooled.

    None where undefined; then ``note`` says why. ``fit_s`` stands on the rows of all series.
    """

    window: int
    series: str
    model: str
    role: Role
    n: int
    rmse_bits: float | None = None
    mae_bits: float | None = None
    rmse_scaled: float | None = None
    mae_scaled: float | None = None
    composite: float | None = None
    skill_vs_persistence: float | None = None
    fit_s: float | None = None
    note: str = ""


class BacktestWindow(Section):
    """One window over all stations: rows learnt from, and the times of the first and last scored row."""

    number: int
    learn_rows: int
    scored_from: str
    scored_to: str


class BacktestResult(Section):
    """The whole table.

    Attributes:
        backtest_id: Digest of everything that went into it.
        dataset_id: Whose train rows.
        description: How the scores came about.
        target_unit: Unit of the scores named ``*_bits``.
        windows: In order of time.
        left_out: Series that are too short, with the reason.
        rows: All windows together first, then each; all series first, then each; best model first.
    """

    backtest_id: str
    dataset_id: str
    description: str
    target_unit: str
    windows: tuple[BacktestWindow, ...]
    left_out: dict[str, str]
    rows: tuple[BacktestRow, ...]

    def row(self, model: str, *, window: int = POOLED, series: str = ALL) -> BacktestRow | None:
        """One row, or None."""
        matches = (r for r in self.rows if (r.model, r.window, r.series) == (model, window, series))
        return next(matches, None)

    @property
    def models(self) -> tuple[str, ...]:
        """Every model, the best of all windows together first."""
        return tuple(r.model for r in self.rows if (r.window, r.series) == (POOLED, ALL))

    @property
    def series(self) -> tuple[str, ...]:
        """Every series that took part."""
        return tuple(dict.fromkeys(r.series for r in self.rows if r.series != ALL))

    @property
    def complete(self) -> bool:
        """Whether every model could be fitted in every window."""
        return all(r.n for r in self.rows)


def assemble(
    dataset: Dataset,
    settings: Settings,
    plan: Plan,
    models: Sequence[Contender],
    cells: Mapping[tuple[str, int], Cell],
) -> BacktestResult:
    """Make the table.

    Args:
        dataset: What was backtested.
        settings: The whole configuration.
        plan: The windows.
        models: Who took part.
        cells: By name of the model and number of the window.
    """
    numbers = range(1, settings.backtest.windows + 1)
    groups = [(ALL, tuple(plan.cuts)), *((series, (series,)) for series in plan.cuts)]
    rows: list[BacktestRow] = []
    for window, parts in [(POOLED, tuple(numbers)), *((number, (number,)) for number in numbers)]:
        for name, series in groups:
            reference = _row(PERSISTENCE, "baseline", window, name, series, [cells[PERSISTENCE, p] for p in parts])
            block = [
                _row(c.name, c.role, window, name, series, [cells[c.name, p] for p in parts], reference.rmse_scaled)
                for c in models
            ]
            rows += sorted(block, key=lambda row: (row.composite is None, row.composite or 0.0, row.model))
    return BacktestResult(
        backtest_id=backtest_id(dataset.dataset_id, settings, models),
        dataset_id=dataset.dataset_id,
        description=_description(settings.backtest),
        target_unit=dataset.target_unit,
        windows=tuple(_window(dataset, plan, number) for number in numbers),
        left_out=plan.left_out,
        rows=tuple(rows),
    )


def _row(
    model: str,
    role: Role,
    window: int,
    name: str,
    series: Sequence[str],
    cells: Sequence[Cell],
    rmse_reference: float | None = None,
) -> BacktestRow:
    """Scores of one model; where one of the cells failed there are none, since the others are not the same rows."""
    reasons = dict.fromkeys(reason for cell in cells for reason in cell.reasons(series))
    if reasons:
        return BacktestRow(window=window, series=name, model=model, role=role, n=0, note="; ".join(reasons))
    total = sum((cell.sums[s] for cell in cells for s in series), ErrorSums())
    times = [cell.fit_s for cell in cells if cell.fit_s is not None] if name == ALL else []
    note = "" if total.finite else NON_FINITE
    if total.n == 0:
        note = "no row after the cut has enough gap-free history"
    scores: dict[str, float | None] = {}
    if not note:
        rmse, mae = math.sqrt(total.square_scaled / total.n), total.abs_scaled / total.n
        scores = {
            "rmse_bits": math.sqrt(total.square_bits / total.n),
            "mae_bits": total.abs_bits / total.n,
            "rmse_scaled": rmse,
            "mae_scaled": mae,
            "composite": composite(rmse, mae, rmse**2),
            "skill_vs_persistence": skill(rmse, rmse_reference),
        }
    return BacktestRow(
        window=window, series=name, model=model, role=role, n=total.n, note=note, **scores,
        fit_s=round(sum(times), 3) if times else None,
    )  # fmt: skip


def _window(dataset: Dataset, plan: Plan, number: int) -> BacktestWindow:
    own = {series: cuts[number - 1] for series, cuts in plan.cuts.items()}
    times = {raw.series: raw.time for raw in dataset.raws}
    first = min(times[series][cut.first_scored] for series, cut in own.items())
    last = max(times[series][cut.stop - 1] for series, cut in own.items())
    return BacktestWindow(
        number=number,
        learn_rows=sum(cut.learn_stop - cut.start for cut in own.values()),
        scored_from=str(np.datetime_as_string(first, unit="s")),
        scored_to=str(np.datetime_as_string(last, unit="s")),
    )


def _description(settings: BacktestSettings) -> str:
    rows = "all rows before its cut"
    if settings.mode == "sliding":
        rows = (
            f"the last {settings.train_rows:,} rows" if settings.train_rows else "as many rows as in the first window"
        )
    gap = f", {settings.gap_rows:,} rows left out before it," if settings.gap_rows else ""
    fitted = f"Before each, every model is fitted anew on {rows}" if settings.refit else "Fitted once, before the first"
    return (
        f"{settings.windows} window(s) of {settings.test_rows:,} rows at the end of each station's train rows. {fitted}"
        f"{gap} and forecasts the rows after it from the same origins as all others. One scaled unit is the range of "
        "the target on all train rows, as on the leaderboard."
    )
