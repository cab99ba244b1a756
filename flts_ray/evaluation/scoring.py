"""Scores every model on the same rows, per series and pooled.

Pooling (series ``*``, and target ``*`` when there are several) puts all points together: scaled errors so that
every station counts by its rows, not by its size. Headline numbers pool all steps of the horizon; ``by_step`` has each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flts_ray.data.frame import FloatArray, SeriesFrame
from flts_ray.errors import DataError
from flts_ray.evaluation.backtest import Backtest
from flts_ray.evaluation.intervals import Bands, covered, rolling_minimum
from flts_ray.evaluation.leaderboard import (
    ALL,
    NON_FINITE,
    PERSISTENCE,
    RIDGE,
    Leaderboard,
    Protocol,
    Role,
    Row,
    StepScore,
)
from flts_ray.evaluation.metrics import Residuals, diebold_mariano, naive_mae, point_scores, skill


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One model's forecasts, as they enter the leaderboard.

    Attributes:
        model: Its kind; unique on the board.
        role: Baseline or candidate.
        backtests: One a series that the model can forecast; empty if it could not be scored.
        failures: Why there is no backtest, by series. Its pooled rows then have no scores: they would be of other rows
            than those of its peers.
        bands: Intervals of the same forecasts, by series; may be empty.
        fit_s: Seconds that fitting took.
        note: Why there are no backtests, or anything worth saying.
    """

    model: str
    role: Role
    backtests: Mapping[str, Backtest] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    bands: Mapping[str, Bands] = field(default_factory=dict)
    fit_s: float | None = None
    note: str = ""


def build_leaderboard(
    entries: Sequence[Entry],
    frames: Sequence[SeriesFrame],
    units: Mapping[str, Sequence[float]],
    *,
    targets: Sequence[str],
    target_unit: str = "bits",
    coverage: float = 0.9,
) -> Leaderboard:
    """Score every entry on the same rows.

    Args:
        entries: All models; those with backtests have one, at the same origins, or a failure for every frame.
        frames: The stations.
        units: ``Transform.target_range`` by series.
        targets: Names of the targets, in order.
        target_unit: Their unit.
        coverage: Nominal coverage of the bands.

    Raises:
        DataError: If two entries were not scored on the same rows, or none was scored at all.
    """
    scored = [e for e in entries if e.backtests]
    reference = {series: test for e in reversed(scored) for series, test in e.backtests.items()}
    if any(f.series not in reference for f in frames):
        raise DataError("no model could be scored: the test rows are too few for one forecast; provide more test rows")
    for entry in scored:
        _check_same_rows(entry, reference, frames)
    board = _Board({f.series: naive_mae(f) for f in frames}, units, tuple(targets), entries, reference)
    first = reference[frames[0].series]
    every_series = [(f.series,) for f in frames]
    pooled = tuple(f.series for f in frames)
    target_groups = [(k,) for k in range(len(targets))] + ([tuple(range(len(targets)))] if len(targets) > 1 else [])
    rows: list[Row] = []
    for name, group in [(ALL, pooled), *((g[0], g) for g in every_series)]:
        for numbers in reversed(target_groups):
            block = [board.row(e, name, group, numbers) for e in entries]
            rows += sorted(block, key=lambda r: (r.composite is None, r.composite or 0.0, r.model))
    horizon = first.predictions.shape[1]
    protocol = Protocol(
        description=(
            f"Rolling origin: from every row with enough gap-free history, the next {horizon} row(s) are forecast "
            "and compared with the test rows as reported (missing ones left out); all models at the same origins. "
            "One scaled unit is the range of the target on the train rows."
        ),
        horizon=horizon,
        target_unit=target_unit,
        targets=tuple(targets),
        coverage=coverage,
        origins={s: len(b.origins) for s, b in reference.items()},
        scored_from={f.series: _scored_time(f, reference[f.series], last=False) for f in frames},
        scored_to={f.series: _scored_time(f, reference[f.series], last=True) for f in frames},
    )
    return Leaderboard(protocol=protocol, rows=tuple(rows))


@dataclass(frozen=True, slots=True)
class _Board:
    naive: Mapping[str, FloatArray]
    units: Mapping[str, Sequence[float]]
    targets: tuple[str, ...]
    entries: Sequence[Entry]
    reference: Mapping[str, Backtest]

    def row(self, entry: Entry, name: str, group: Sequence[str], numbers: Sequence[int]) -> Row:
        """Scores of one entry over a group of series and targets."""
        target = self.targets[numbers[0]] if len(numbers) == 1 else ALL
        head: dict[str, Any] = {
            "series": name,
            "target": target,
            "model": entry.model,
            "role": entry.role,
            "fit_s": entry.fit_s,
        }
        if not entry.backtests:
            return Row(**head, n=0, note=entry.note or "not scored")
        lacking = [s for s in group if s not in entry.backtests]
        if lacking:
            return Row(**head, n=0, note=self.lack(entry, group, lacking))
        tests = [entry.backtests[s] for s in group]
        head |= {"predict_s": sum(t.predict_s for t in tests)}
        steps = range(tests[0].predictions.shape[1])
        if not all(t.finite for t in tests):
            n = sum(int(t.valid[:, :, numbers].sum()) for t in tests)
            return Row(**head, n=n, note="; ".join(note for note in (NON_FINITE, entry.note) if note))
        cells = [self.residuals(entry, s, k, h) for s in group for k in numbers for h in steps]
        scores = point_scores(Residuals.pool(cells))
        baseline = self.finite_entry(PERSISTENCE, group)
        base_rmse = self.rmse(baseline, group, numbers, steps)
        by_step = tuple(self.step(entry, baseline, group, numbers, h) for h in steps)
        lows = [s.coverage_min_250 for s in by_step if s.coverage_min_250 is not None]
        hit, width = self.interval(entry, group, numbers, steps)
        return Row(
            **head,
            **dataclasses.asdict(scores),
            skill_vs_persistence=skill(scores.rmse_scaled, base_rmse),
            dm_p_vs_persistence=self.dm(entry, PERSISTENCE, group, numbers, power=2),
            dm_p_vs_ridge=self.dm(entry, RIDGE, group, numbers, power=2),
            dm_p_abs_vs_persistence=self.dm(entry, PERSISTENCE, group, numbers, power=1),
            dm_p_abs_vs_ridge=self.dm(entry, RIDGE, group, numbers, power=1),
            coverage_90=hit,
            interval_width_bits=width,
            coverage_min_250=min(lows, default=None),
            note=entry.note,
            by_step=by_step,
        )

    def lack(self, entry: Entry, group: Sequence[str], lacking: Sequence[str]) -> str:
        reason = entry.failures.get(lacking[0], "not scored")
        if len(group) == 1:
            return reason
        return (
            f"not pooled: it has no result for {len(lacking)} of {len(group)} series, so its score would not be of the "
            f"same rows as the others'; the first, {lacking[0]}: {reason}"
        )

    def finite_entry(self, model: str, group: Sequence[str]) -> Entry | None:
        match = next((e for e in self.entries if e.model == model and e.backtests), None)
        whole = match and all(s in match.backtests and match.backtests[s].finite for s in group)
        return match if whole else None

    def residuals(self, entry: Entry, series: str, target: int, step: int) -> Residuals:
        test = entry.backtests[series]
        valid = test.valid[:, step, target]
        return Residuals.of(
            test.predictions[valid, step, target],
            test.observed[valid, step, target],
            unit=self.units[series][target],
            naive=float(self.naive[series][target]),
        )

    def rmse(
        self, entry: Entry | None, group: Sequence[str], numbers: Sequence[int], steps: Sequence[int]
    ) -> float | None:
        if entry is None:
            return None
        cells = [self.residuals(entry, s, k, h) for s in group for k in numbers for h in steps]
        return point_scores(Residuals.pool(cells)).rmse_scaled

    def step(
        self, entry: Entry, baseline: Entry | None, group: Sequence[str], numbers: Sequence[int], h: int
    ) -> StepScore:
        scores = point_scores(Residuals.pool([self.residuals(entry, s, k, h) for s in group for k in numbers]))
        hit, width = self.interval(entry, group, numbers, [h])
        lows = [low for s in group for k in numbers if (low := self.lowest(entry, s, k, h)) is not None]
        return StepScore(
            step=h + 1,
            n=scores.n,
            rmse_bits=scores.rmse_bits,
            mae_bits=scores.mae_bits,
            rmse_scaled=scores.rmse_scaled,
            mae_scaled=scores.mae_scaled,
            skill=skill(scores.rmse_scaled, self.rmse(baseline, group, numbers, [h])),
            coverage_90=hit,
            interval_width_bits=width,
            coverage_min_250=min(lows, default=None),
        )

    def interval(
        self, entry: Entry, group: Sequence[str], numbers: Sequence[int], steps: Sequence[int]
    ) -> tuple[float | None, float | None]:
        """Coverage and mean width over the scored points that have an interval."""
        hits: list[FloatArray] = []
        widths: list[FloatArray] = []
        for s in group:
            if s not in entry.bands:
                return None, None
            band, test = entry.bands[s], entry.backtests[s]
            block = np.ix_(range(len(test.origins)), list(steps), list(numbers))
            lower, upper, observed = band.lower[block], band.upper[block], test.observed[block]
            known = test.valid[block] & np.isfinite(lower) & np.isfinite(upper)
            hits.append(covered(observed, lower, upper)[known].astype(np.float64))
            widths.append((upper - lower)[known])
        hit, width = np.concatenate(hits), np.concatenate(widths)
        return (float(hit.mean()), float(width.mean())) if len(hit) else (None, None)

    def lowest(self, entry: Entry, series: str, target: int, step: int) -> float | None:
        if series not in entry.bands:
            return None
        band, test, cell = entry.bands[series], entry.backtests[series], np.s_[:, step, target]
        known = test.valid[cell] & np.isfinite(band.lower[cell])
        return rolling_minimum(covered(test.observed[cell], band.lower[cell], band.upper[cell])[known])

    def dm(self, entry: Entry, other: str, group: Sequence[str], numbers: Sequence[int], *, power: int) -> float | None:
        """Diebold-Mariano on the mean scaled loss of each origin, series after series."""
        rival = self.finite_entry(other, group)
        if rival is None or entry.model == other:
            return None
        mine = np.concatenate([self.losses(entry, s, numbers, power) for s in group])
        theirs = np.concatenate([self.losses(rival, s, numbers, power) for s in group])
        return diebold_mariano(mine, theirs, horizon=self.reference[group[0]].predictions.shape[1])

    def losses(self, entry: Entry, series: str, numbers: Sequence[int], power: int) -> FloatArray:
        test = entry.backtests[series]
        unit = np.asarray(self.units[series], dtype=np.float64)
        loss = (np.abs(test.observed - test.predictions) / unit)[:, :, list(numbers)] ** power
        count = test.valid[:, :, list(numbers)].sum(axis=(1, 2))
        total = np.where(test.valid[:, :, list(numbers)], loss, 0.0).sum(axis=(1, 2))
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _check_same_rows(entry: Entry, reference: Mapping[str, Backtest], frames: Sequence[SeriesFrame]) -> None:
    for frame in frames:
        if frame.series in entry.failures:
            continue
        mine, first = entry.backtests.get(frame.series), reference.get(frame.series)
        same = (
            mine is not None
            and first is not None
            and np.array_equal(mine.origins, first.origins)
            and np.array_equal(mine.valid, first.valid)
        )
        if not same:
            raise DataError(
                f"{entry.model} was not scored on the same rows of series {frame.series!r} as the others; "
                "run every backtest at common_origins"
            )


def _scored_time(frame: SeriesFrame, test: Backtest, *, last: bool) -> str:
    """First or last row that was scored, ISO 8601; empty when none was."""
    origin, step = np.nonzero(test.valid.any(axis=2))
    if len(origin) == 0:
        return ""
    rows = test.origins[origin] + step + 1
    return str(np.datetime_as_string(frame.time[rows.max() if last else rows.min()], unit="s"))
