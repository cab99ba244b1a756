"""The evaluation stage: saved candidates and baselines, scored on the same held-out rows."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from flts_ray.candidates import FittedCandidate
from flts_ray.config import FeatureSettings, ScalingSettings, Settings
from flts_ray.data.dataset import Dataset
from flts_ray.data.frame import IntArray, SeriesFrame
from flts_ray.data.transform import Transform
from flts_ray.data.windows import training_origins
from flts_ray.errors import DataError, FltsError
from flts_ray.evaluation.backtest import Backtest, backtest, calibration_origins, common_origins, unscorable
from flts_ray.evaluation.intervals import Bands, SeriesStates, bands, calibrate, unpack
from flts_ray.evaluation.leaderboard import Leaderboard, Role
from flts_ray.evaluation.promotion import CandidateCheck
from flts_ray.evaluation.scoring import Entry, build_leaderboard
from flts_ray.models.base import Forecaster
from flts_ray.models.baselines import MovingAverage, Persistence, SeasonalNaive
from flts_ray.models.bundle import Bundle, smoke_test
from flts_ray.models.ridge import Line, Ridge, fit_line, line_jobs
from flts_ray.recipes import RECIPES
from flts_ray.telemetry.logging import event
from flts_ray.training.outcomes import Failure, J, R, in_this_process


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """What the stage ends with.

    Attributes:
        leaderboard: Scores of every model.
        entries: Forecasts and intervals behind them, by model.
        checks: By candidate, whether its saved bundle loads and works.
        origins: By station, the rows that every model forecast from.
    """

    leaderboard: Leaderboard
    entries: dict[str, Entry]
    checks: dict[str, CandidateCheck]
    origins: dict[str, IntArray]

    def of_series(self, series: str) -> Evaluated:
        """What was found of one station alone."""
        entries = {
            model: replace(
                entry,
                backtests={name: test for name, test in entry.backtests.items() if name == series},
                bands={name: band for name, band in entry.bands.items() if name == series},
                failures={name: reason for name, reason in entry.failures.items() if name == series},
            )
            for model, entry in self.entries.items()
        }
        return replace(
            self,
            leaderboard=self.leaderboard.of_series(series),
            entries=entries,
            origins={name: rows for name, rows in self.origins.items() if name == series},
        )


class Each(Protocol):
    """Does work on every series, somewhere, one outcome a job in order: see :mod:`flts_ray.training.outcomes`."""

    def __call__(self, work: Callable[[J], R], jobs: Sequence[J], /) -> list[R | Failure]:
        """Do it."""


def evaluate(
    dataset: Dataset,
    fitted: Mapping[str, FittedCandidate],
    failures: Mapping[str, str],
    settings: Settings,
    *,
    each: Each = in_this_process,
) -> Evaluated:
    """Score every candidate, as it was saved, and every baseline.

    Args:
        dataset: Its test rows are forecast.
        fitted: Candidates by kind.
        failures: Why a candidate has no fit, by kind.
        settings: The whole configuration.
        each: Where what is fitted a series at a time is fitted.

    Raises:
        DataError: If no test row can be forecast.
        TrainingError: If a baseline can be fitted on no station.
    """
    bundles, checks = _loaded(dataset, fitted)
    baselines = fit_baselines(dataset, settings, each=each)
    needed = max((bundle.forecaster.lookback for bundle in bundles.values()), default=0)
    notes = {  # a baseline that reads no more than the candidates takes rows from nobody
        name: unscorable(baseline.frames, baseline.model) if baseline.model.lookback > needed else ""
        for name, baseline in baselines.items()
    }
    able = [b.forecaster for b in bundles.values()] + [b.model for n, b in baselines.items() if not notes[n]]
    origins = {frame.series: common_origins(frame, able) for frame in dataset.frames}
    if not any(len(rows) for rows in origins.values()):
        raise DataError(
            f"no test row can be forecast: dataset {dataset.dataset_id} has no gap-free history of "
            f"{max(model.lookback for model in able)} rows before one; give more rows"
        )
    entries: list[Entry] = []
    for name, baseline in baselines.items():
        if notes[name]:
            entries.append(Entry(model=name, role="baseline", note=notes[name]))
            continue
        states = interval_states(baseline.model, baseline.frames, settings)
        scored = entry(name, "baseline", baseline.model, baseline.frames, origins, states, fit_s=baseline.fit_s)
        entries.append(replace(scored, failures=baseline.failures))
    for kind in dict.fromkeys((*settings.candidates, *fitted)):
        if kind in bundles:
            bundle = bundles[kind]
            states = unpack(bundle.manifest.intervals, bundle.interval_arrays)
            fit_s = fitted[kind].summary.fit_s
            lost = fitted[kind].summary.failures
            frames = [frame for frame in dataset.frames if frame.series not in lost]
            scored = entry(kind, "candidate", bundle.forecaster, frames, origins, states, fit_s=fit_s)
            entries.append(replace(scored, failures=lost))
        else:
            note = checks[kind].reason if kind in checks else failures.get(kind, "it was not fitted")
            entries.append(Entry(model=kind, role="candidate", note=note))
    board = leaderboard(entries, dataset, settings)
    return Evaluated(leaderboard=board, entries={e.model: e for e in entries}, checks=checks, origins=origins)


def leaderboard(entries: Sequence[Entry], dataset: Dataset, settings: Settings) -> Leaderboard:
    """The leaderboard of some forecasts of this dataset."""
    return build_leaderboard(
        entries,
        dataset.frames,
        {series: transform.target_range for series, transform in dataset.transforms.items()},
        targets=dataset.target_names,
        target_unit=dataset.target_unit,
        coverage=settings.evaluation.coverage,
    )


def entry(
    name: str,
    role: Role,
    model: Forecaster,
    frames: Sequence[SeriesFrame],
    origins: Mapping[str, IntArray],
    states: Mapping[str, SeriesStates],
    *,
    fit_s: float | None,
) -> Entry:
    """Forecast every station that the model knows from the given origins, with intervals."""
    known = [frame for frame in frames if model.knows(frame.series)]
    backtests = {frame.series: backtest(frame, model, origins[frame.series]) for frame in known}
    lines: dict[str, Bands] = {
        series: bands(test.predictions, test.observed, test.origins, states[series])
        for series, test in backtests.items()
        if series in states and test.finite
    }
    return Entry(model=name, role=role, backtests=backtests, bands=lines, fit_s=fit_s)


def validate(model: Forecaster, frames: Sequence[SeriesFrame], settings: Settings) -> dict[str, Backtest]:
    """A model's forecasts of the validation tail of the train rows of every station that it knows and that has one."""
    found = {}
    for frame in frames:
        if not model.knows(frame.series):
            continue
        train = frame.train()
        origins = calibration_origins(train, model.lookback, model.horizon, settings.training.validation_fraction)
        if len(origins):
            found[frame.series] = backtest(train, model, origins, part="train")
    return found


def calibrated(
    validation: Mapping[str, Backtest], frames: Sequence[SeriesFrame], settings: Settings
) -> dict[str, SeriesStates]:
    """Interval states of every station of which :func:`validate` found forecasts."""
    return {
        frame.series: calibrate(validation[frame.series], frame.train(), settings.evaluation)
        for frame in frames
        if frame.series in validation
    }


def interval_states(model: Forecaster, frames: Sequence[SeriesFrame], settings: Settings) -> dict[str, SeriesStates]:
    """Interval states of every station, from a model's forecasts of the validation tail of its train rows."""
    return calibrated(validate(model, frames, settings), frames, settings)


@dataclass(frozen=True, slots=True)
class Baseline:
    """A fitted baseline.

    Attributes:
        model: The forecaster.
        frames: The rows as it reads them.
        fit_s: Seconds that fitting took.
        failures: Why it knows nothing of a series.
    """

    model: Forecaster
    frames: Sequence[SeriesFrame]
    fit_s: float
    failures: Mapping[str, str] = field(default_factory=dict)


def fit_baselines(dataset: Dataset, settings: Settings, *, each: Each = in_this_process) -> dict[str, Baseline]:
    """The forecasts that every candidate must beat, by kind.

    Ridge reads the same whatever the recipe: raw columns and cyclic calendar, min-max scaled, the inputs of the
    pipeline that this one replaces. A yardstick that moved with the recipe would measure nothing.
    """
    plain = yardstick(settings)
    rows = list(zip(dataset.raws, dataset.frames, strict=True))
    transforms = {raw.series: Transform.fit(raw.head(frame.train_rows), plain, dataset.step_s) for raw, frame in rows}
    inputs = [transforms[raw.series].apply(raw, frame.train_rows) for raw, frame in rows]

    def timed(fit: Callable[[], Forecaster], frames: Sequence[SeriesFrame]) -> Baseline:
        started = time.perf_counter()
        return Baseline(fit(), frames, time.perf_counter() - started)

    return {
        "persistence": timed(lambda: Persistence.fit(settings), dataset.frames),
        "moving_average": timed(lambda: MovingAverage.fit(settings), dataset.frames),
        "seasonal_naive": timed(lambda: SeasonalNaive.fit(settings, dataset.step_s), dataset.frames),
        "ridge": _ridge(inputs, transforms, settings, each),
    }


def _ridge(
    frames: Sequence[SeriesFrame], transforms: Mapping[str, Transform], settings: Settings, each: Each
) -> Baseline:
    started = time.perf_counter()
    outcomes = each(fit_line, line_jobs(frames, transforms, settings))
    lines: dict[str, Line] = {}
    failures: dict[str, Failure] = {}
    for frame, outcome in zip(frames, outcomes, strict=True):
        if isinstance(outcome, Failure):
            failures[frame.series] = outcome
            event("ridge_failed", level=logging.WARNING, series=frame.series, reason=outcome.reason)
        else:
            lines[frame.series] = outcome
    if not lines:
        first = failures[frames[0].series]
        raise first.kind(f"ridge could be fitted on none of {len(frames)} series; the first: {first.reason}")
    model = Ridge(lines, settings.windows.lookback, settings.windows.horizon)
    reasons = {series: failure.reason for series, failure in failures.items()}
    return Baseline(model, frames, time.perf_counter() - started, reasons)


def yardstick(settings: Settings) -> Settings:
    """The settings with which the ridge baseline reads its rows."""
    classic = {key: value for key, value in RECIPES["classic"].items() if key.startswith(("features.", "scaling."))}
    features = {key.removeprefix("features."): value for key, value in classic.items() if key.startswith("features.")}
    return settings.model_copy(
        update={
            "features": FeatureSettings.model_validate(features),
            "scaling": ScalingSettings(scaler=classic["scaling.scaler"]),
        }
    )


def _loaded(
    dataset: Dataset, fitted: Mapping[str, FittedCandidate]
) -> tuple[dict[str, Bundle], dict[str, CandidateCheck]]:
    bundles: dict[str, Bundle] = {}
    checks: dict[str, CandidateCheck] = {}
    for kind, candidate in fitted.items():
        name = candidate.summary.candidate_id
        try:
            bundle = Bundle.load(candidate.folder)
            for frame in dataset.frames:
                forecastable = len(training_origins(frame.segment, bundle.manifest.lookback, 0))
                if frame.series in candidate.summary.failures or not forecastable:
                    continue  # none of its rows is scored
                smoke_test(bundle, frame, candidate.bundle.forecaster)
        except FltsError as error:
            checks[kind] = CandidateCheck(candidate_id=name, loadable=False, reason=str(error))
            event("candidate_unloadable", candidate=kind, candidate_id=name, reason=str(error))
            continue
        bundles[kind] = bundle
        checks[kind] = CandidateCheck(candidate_id=name)
    return bundles, checks
