"""Prophet on every series: in this process, or as parallel Ray tasks with the same numbers."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time as clock
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flts_ray.config import ProphetSettings, Settings
from flts_ray.data.frame import SeriesFrame
from flts_ray.data.scaling import ColumnScaler
from flts_ray.errors import FltsError, InfrastructureError, StalledError, TrainingError
from flts_ray.models.prophet import FitJob, ProphetForecaster, TargetFit, fit_series
from flts_ray.training.examples import fit_row_count
from flts_ray.training.outcomes import Failure, in_this_process
from flts_ray.training.series_tasks import as_tasks

if TYPE_CHECKING:
    from flts_ray.training.relay import Relay
    from flts_ray.training.watchdog import Watchdog

PINS = {"OMP_NUM_THREADS": "1", "STAN_NUM_THREADS": "1"}
"""One thread for Stan, which is a process of its own; Ray pins the process that starts it."""

SCRATCH_PREFIX = "flts-prophet-"

FOLDER = "_TMPDIR"
"""What the modules of CmdStanPy call the folder of their files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProphetProgress:
    """How far the fits are: counts of (series, target) pairs."""

    done: int
    failed: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProphetFit:
    """What fitting gave.

    Attributes:
        forecaster: Knows every series of which all targets were fitted.
        failures: The reason for each (series, target) that was not.
        kind: What they end in: StalledError or an InfrastructureError if that is why one of them failed.
        again: Whether fitting again may mend one of them.
        fit_s: Wall seconds.
    """

    forecaster: ProphetForecaster
    failures: dict[tuple[str, str], str]
    kind: type[FltsError] = TrainingError
    again: bool = False
    fit_s: float


OnProgress = Callable[[ProphetProgress], None]


def fit_prophet_local(
    frames: Sequence[SeriesFrame],
    scalers: Mapping[str, Sequence[ColumnScaler]],
    settings: Settings,
    *,
    step_s: float,
    rows: int | None = None,
    on_progress: OnProgress = lambda progress: None,
) -> ProphetFit:
    """Fit every pair in this process. Same arguments, result and errors as :func:`fit_prophet`, same numbers."""
    started = clock.perf_counter()
    jobs = fit_jobs(frames, scalers, settings, rows=rows)
    outcomes = in_this_process(_fit_with(settings), jobs, _counted(on_progress, len(jobs)))
    return _collect(jobs, outcomes, scalers, step_s=step_s, started=started)


def fit_prophet(
    frames: Sequence[SeriesFrame],
    scalers: Mapping[str, Sequence[ColumnScaler]],
    settings: Settings,
    *,
    step_s: float,
    rows: int | None = None,
    on_progress: OnProgress = lambda progress: None,
    parallel: Callable[[], int] | None = None,
    timeout_s: float | None = None,
    relay: Relay | None = None,
    watchdog: Watchdog | None = None,
) -> ProphetFit:
    """Fit every pair as Ray tasks: see :func:`flts_ray.training.series_tasks.as_tasks`. Ray must be running.

    Args:
        frames: The stations.
        scalers: Per series, one scaler a target.
        settings: The whole configuration.
        step_s: Seconds between rows.
        rows: Train rows to fit on, from the start; without it, all but the validation rows.
        on_progress: Told how far it is whenever a task ends, and every few seconds in between.
        parallel: How many tasks may run just now, asked again and again; without it, as many as Ray has CPUs for.
        timeout_s: After so long the rest is cancelled and counts as failed.
        relay: Receives the heartbeats of the tasks.
        watchdog: Ends tasks that hang, by those heartbeats; without it, nobody does.

    Raises:
        TrainingError: If no series could be fitted; StalledError or ClusterError if that was the reason.
    """
    import ray

    started = clock.perf_counter()
    jobs = fit_jobs(frames, scalers, settings, rows=rows)
    node_id = ray.get_runtime_context().get_node_id()
    scratch = tempfile.mkdtemp(prefix=SCRATCH_PREFIX)
    try:
        outcomes = as_tasks(
            _fit_with(settings),
            jobs,
            candidate="prophet",
            around=partial(own_folder, scratch, node_id),
            on_progress=_counted(on_progress, len(jobs)),
            parallel=parallel,
            timeout_s=timeout_s,
            stall_timeout_s=settings.watchdog.stall_timeout_s,
            relay=relay,
            watchdog=watchdog,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)  # what processes that were killed left behind
    return _collect(jobs, outcomes, scalers, step_s=step_s, started=started)


def fit_jobs(
    frames: Sequence[SeriesFrame],
    scalers: Mapping[str, Sequence[ColumnScaler]],
    settings: Settings,
    *,
    rows: int | None = None,
) -> list[FitJob]:
    """One job a (series, target), of the first ``rows`` train rows; without it, of all before the validation tail."""
    jobs = []
    for frame in frames:
        fraction, horizon = settings.training.validation_fraction, settings.windows.horizon
        kept = fit_row_count(frame.train_rows, fraction, horizon) if rows is None else rows
        head = frame.train().head(kept)
        for k, (target, scaler) in enumerate(zip(settings.data.targets, scalers[frame.series], strict=True)):
            z = scaler.forward(head.targets[:, k])
            jobs.append(FitJob(series=frame.series, target=target, time=head.time, z=z, segment=head.segment))
    return jobs


@contextmanager
def own_folder(scratch: str, node_id: str) -> Iterator[None]:
    """Let CmdStan keep its files in a folder that is gone afterwards, and use one thread.

    CmdStanPy makes one folder a process and removes it when that ends well; Ray kills its processes. So every task
    lends it a folder of its own, in one that the driver removes whatever happens.

    Args:
        scratch: The driver's folder, to make it in.
        node_id: The driver's node. There, a scratch folder that is gone means that nobody waits for the fits any more;
            on any other it has to be made.

    Raises:
        FileNotFoundError: If nobody waits.
    """
    import ray

    elsewhere = ray.get_runtime_context().get_node_id() != node_id
    if elsewhere:
        Path(scratch).mkdir(parents=True, exist_ok=True)
    folder = tempfile.mkdtemp(dir=scratch)
    try:
        with _set(tempfile, tempdir=folder):  # where CmdStanPy makes its own when it is imported
            import cmdstanpy
        users = [found for name, found in sys.modules.items() if name.split(".")[0] == cmdstanpy.__name__]
        with ExitStack() as stack:
            for module in users:
                if hasattr(module, FOLDER):
                    stack.enter_context(_set(module, **{FOLDER: folder}))
            stack.enter_context(_environment(PINS))
            yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if elsewhere:
            with suppress(OSError):  # another process of this node still has a folder in it
                Path(scratch).rmdir()


@contextmanager
def _set(place: Any, **values: Any) -> Iterator[None]:
    before = {name: getattr(place, name) for name in values}
    try:
        for name, value in values.items():
            setattr(place, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(place, name, value)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _fit_with(settings: Settings) -> Callable[[FitJob], TargetFit]:
    return partial(_fit, settings=settings.prophet, horizon=settings.windows.horizon, seed=settings.seed)


def _fit(job: FitJob, settings: ProphetSettings, horizon: int, seed: int) -> TargetFit:
    return fit_series(job, settings, horizon=horizon, seed=seed)


def _counted(on_progress: OnProgress, total: int) -> Callable[[int, int], None]:
    return lambda done, failed: on_progress(ProphetProgress(done=done, failed=failed, total=total))


def _collect(
    jobs: Sequence[FitJob],
    outcomes: Sequence[TargetFit | Failure],
    scalers: Mapping[str, Sequence[ColumnScaler]],
    *,
    step_s: float,
    started: float,
) -> ProphetFit:
    fits: dict[str, list[TargetFit]] = {}
    failed: dict[tuple[str, str], Failure] = {}
    for job, outcome in zip(jobs, outcomes, strict=True):
        if isinstance(outcome, Failure):
            failed[job.series, job.target] = outcome
        else:
            fits.setdefault(job.series, []).append(outcome)
    broken = {series for series, _ in failed}
    whole = {name: parts for name, parts in fits.items() if name not in broken}
    kinds = (
        failure.kind for failure in failed.values() if issubclass(failure.kind, StalledError | InfrastructureError)
    )
    kind = next(kinds, TrainingError)
    if not whole:
        (series, target), failure = next(iter(failed.items()))
        raise kind(
            f"Prophet could be fitted on none of {len(jobs)} (series, target) pairs; the first, "
            f"series '{series}' target '{target}', failed with {failure.reason}"
        )
    return ProphetFit(
        forecaster=ProphetForecaster(whole, scalers, step_s=step_s),
        failures={pair: failure.reason for pair, failure in failed.items()},
        kind=kind,
        again=any(failure.again for failure in failed.values()),
        fit_s=clock.perf_counter() - started,
    )
