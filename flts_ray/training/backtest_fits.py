"""One model of a backtest, fitted before a cut and scored after it, in this process.

The fit sees the rows before the cut and nothing else, its transform included; the rows after it are only forecast.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from flts_ray.data.dataset import Dataset
from flts_ray.data.frame import FloatArray, RawFrame, SeriesFrame
from flts_ray.data.transform import Transform
from flts_ray.data.windows import test_origins
from flts_ray.errors import ConfigError
from flts_ray.evaluation.backtest import backtest
from flts_ray.evaluation.backtest_table import Cell, ErrorSums
from flts_ray.evaluation.rolling_origin import Contender, Cut, Plan
from flts_ray.evaluation.stage import yardstick
from flts_ray.models.base import Forecaster
from flts_ray.models.baselines import MovingAverage, Persistence, SeasonalNaive

OnStep = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What every fit of a backtest reads; it travels to other processes once.

    Attributes:
        raws: Train rows as reported, of the stations that take part. No test row is among them.
        cuts: By station, the windows.
        units: By station, ``(n_targets,)`` bits in one scaled unit.
        step_s: Seconds between rows.
        lookback: Gap-free rows before an origin, the most that any model needs: all start from the same origins.
    """

    raws: tuple[RawFrame, ...]
    cuts: Mapping[str, tuple[Cut, ...]]
    units: Mapping[str, FloatArray]
    step_s: float
    lookback: int

    @classmethod
    def of(cls, dataset: Dataset, plan: Plan, models: Sequence[Contender]) -> Rows:
        """The train rows of a dataset, for a plan and the models that take part."""
        pairs = zip(dataset.raws, dataset.frames, strict=True)
        return cls(
            raws=tuple(raw.head(frame.train_rows) for raw, frame in pairs if raw.series in plan.cuts),
            cuts=plan.cuts,
            units={series: np.array(dataset.transforms[series].target_range) for series in plan.cuts},
            step_s=dataset.step_s,
            lookback=max(model.lookback for model in models),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """One unit of work: a model, fitted before the first of these windows, scored in all of them.

    Attributes:
        model: What is fitted.
        windows: Their numbers, from 1, in order of time.
    """

    model: Contender
    windows: tuple[int, ...]


def fits_of(models: Sequence[Contender], windows: int, *, refit: bool) -> tuple[Fit, ...]:
    """The work of a backtest: a fit for each model and window or, without refitting, one for each model."""
    numbers = tuple(range(1, windows + 1))
    parts = [(number,) for number in numbers] if refit else [numbers]
    return tuple(Fit(model=model, windows=part) for model in models for part in parts)


def fit_and_score(fit: Fit, rows: Rows, *, on_step: OnStep = lambda step: None) -> dict[int, Cell]:
    """Fit a model before the first window and score it in each.

    Args:
        fit: What to do.
        rows: With what.
        on_step: Called after every step of a network, and every series of Prophet: the heartbeat.

    Returns:
        By window.

    Raises:
        FltsError: If the model cannot be fitted on these rows.
    """
    first, last = fit.windows[0] - 1, fit.windows[-1] - 1
    settings = yardstick(fit.model.settings) if fit.model.kind == "ridge" else fit.model.settings
    transforms: dict[str, Transform] = {}
    frames: list[SeriesFrame] = []
    for raw in rows.raws:
        start, learn_stop = rows.cuts[raw.series][first].start, rows.cuts[raw.series][first].learn_stop
        seen = _between(raw, start, rows.cuts[raw.series][last].stop)
        transforms[raw.series] = Transform.fit(seen.head(learn_stop - start), settings, rows.step_s)
        frames.append(transforms[raw.series].apply(seen, learn_stop - start))
    started = time.perf_counter()
    forecaster, missing = _fit(fit.model, [frame.train() for frame in frames], transforms, rows.step_s, on_step)
    fit_s = time.perf_counter() - started
    known = [frame for frame in frames if frame.series not in missing]
    cells = {}
    for number in fit.windows:
        sums = {f.series: _score(forecaster, f, rows, rows.cuts[f.series][first].start, number) for f in known}
        cells[number] = Cell(sums=sums, missing=missing, fit_s=fit_s if number == fit.windows[0] else None)
    return cells


def _between(raw: RawFrame, start: int, stop: int) -> RawFrame:
    part = slice(start, stop)
    return RawFrame(series=raw.series, time=raw.time[part], columns=raw.columns, values=raw.values[part])


def _score(forecaster: Forecaster, frame: SeriesFrame, rows: Rows, start: int, number: int) -> ErrorSums:
    """Errors of one station in one window; ``frame`` begins with its row ``start``."""
    cut = rows.cuts[frame.series][number - 1]
    window = replace(frame.head(cut.stop - start), train_rows=cut.first_scored - start)
    origins = test_origins(window, rows.lookback, forecaster.horizon)
    result = backtest(window, forecaster, origins)
    return ErrorSums.of(result.observed - result.predictions, result.valid, rows.units[frame.series])


def _fit(
    model: Contender,
    frames: Sequence[SeriesFrame],
    transforms: Mapping[str, Transform],
    step_s: float,
    on_step: OnStep,
) -> tuple[Forecaster, dict[str, str]]:
    """The model, and why it knows nothing of some station."""
    settings = model.settings
    match model.kind:
        case "persistence":
            return Persistence.fit(settings), {}
        case "moving_average":
            return MovingAverage.fit(settings), {}
        case "seasonal_naive":
            return SeasonalNaive.fit(settings, step_s), {}
        case "ridge":
            from flts_ray.models.ridge import Ridge

            return Ridge.fit(frames, transforms, settings), {}
        case "prophet":
            from flts_ray.training.prophet_tasks import fit_prophet_local

            scalers = {series: transform.target_scalers for series, transform in transforms.items()}
            fit = fit_prophet_local(
                frames, scalers, settings, step_s=step_s, on_progress=lambda progress: on_step(progress.done)
            )
            failures = reversed(fit.failures.items())  # of several targets of a station, the first is told
            return fit.forecaster, {
                series: f"Prophet failed on '{target}' of '{series}': {why}" for (series, target), why in failures
            }
        case "gru" | "lstm":
            from flts_ray.training.fit import fit_recurrent

            with _one_thread():
                return fit_recurrent(model.kind, frames, transforms, settings, on_step=on_step).forecaster, {}
    raise ConfigError(f"there is no way to backtest a model of kind '{model.kind}'")


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for PyTorch: fastest for these sizes, and the sums are added up alike wherever a fit runs."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
