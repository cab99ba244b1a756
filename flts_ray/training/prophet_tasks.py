"""Prophet fits as parallel Ray tasks, one chunk of (series, target) pairs a task."""

from __future__ import annotations

import os
import shutil
import tempfile
import time as clock
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flts_ray.config import ProphetSettings, Settings
from flts_ray.data.frame import SeriesFrame
from flts_ray.data.scaling import ColumnScaler
from flts_ray.errors import TrainingError
from flts_ray.models.prophet import FitJob, ProphetForecaster, TargetFit, fit_series
from flts_ray.training.examples import fit_row_count

CHUNK_ROWS = 8_000
"""A task takes short series together until they hold this many rows: its overhead then stays below its work."""

HEARTBEAT_S = 5.0

Outcome = TargetFit | str
"""A fit, or the reason why there is none."""


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
        fit_s: Wall seconds.
    """

    forecaster: ProphetForecaster
    failures: dict[tuple[str, str], str]
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
    outcomes: list[Outcome] = []
    failed = 0
    for job in jobs:
        outcomes.append(_outcome(job, settings.prophet, settings.windows.horizon, settings.seed))
        failed += isinstance(outcomes[-1], str)
        on_progress(ProphetProgress(done=len(outcomes), failed=failed, total=len(jobs)))
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
) -> ProphetFit:
    """Fit every pair as Ray tasks of one CPU each. Ray must be running.

    Args:
        frames: The stations.
        scalers: Per series, one scaler a target.
        settings: The whole configuration.
        step_s: Seconds between rows.
        rows: Train rows to fit on, from the start; without it, all but the validation rows.
        on_progress: Called whenever a task ends and every :data:`HEARTBEAT_S` seconds in between.
        parallel: How many tasks may run just now, asked again and again; without it, as many as Ray has CPUs for.
        timeout_s: After so long the rest is cancelled and counts as failed.

    Raises:
        TrainingError: If no series could be fitted.
    """
    import ray

    started = clock.perf_counter()
    jobs = fit_jobs(frames, scalers, settings, rows=rows)
    outcomes: list[Outcome] = [f"not fitted within {timeout_s} s"] * len(jobs)
    # Ray kills its workers, so CmdStan's own clean-up at exit never runs: give it a folder that we remove.
    scratch = Path(tempfile.mkdtemp(prefix="flts-prophet-"))
    env = {"OMP_NUM_THREADS": "1", "STAN_NUM_THREADS": "1", "TMPDIR": str(scratch)}
    task = ray.remote(num_cpus=1, runtime_env={"env_vars": env})(_fit_chunk)
    pending: dict[object, range] = {}
    done = failed = 0
    try:
        waiting = list(chunks([len(job.z) for job in jobs]))
        while waiting or pending:
            room = len(waiting) if parallel is None else max(0, parallel() - len(pending))
            for chunk in waiting[:room]:
                part = [jobs[i] for i in chunk]
                ref = task.remote(part, settings.prophet, settings.windows.horizon, settings.seed)
                pending[ref] = chunk
            del waiting[:room]
            ready, _ = ray.wait(list(pending), timeout=HEARTBEAT_S)
            for ref in ready:
                chunk = pending.pop(ref)
                results = _result(ref, len(chunk))
                outcomes[chunk.start : chunk.stop] = results
                done += len(chunk)
                failed += sum(isinstance(result, str) for result in results)
            on_progress(ProphetProgress(done=done, failed=failed, total=len(jobs)))
            if timeout_s is not None and clock.perf_counter() - started > timeout_s:
                break
    finally:
        for ref in pending:
            ray.cancel(ref, force=True)
        shutil.rmtree(scratch, ignore_errors=True)
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


def chunks(sizes: Sequence[int], limit: int = CHUNK_ROWS) -> Iterator[range]:
    """Cut ``range(len(sizes))`` into runs that hold at most ``limit`` rows, or one job."""
    start = held = 0
    for i, size in enumerate(sizes):
        if i > start and held + size > limit:
            yield range(start, i)
            start, held = i, 0
        held += size
    if start < len(sizes):
        yield range(start, len(sizes))


def _fit_chunk(jobs: Sequence[FitJob], settings: ProphetSettings, horizon: int, seed: int) -> list[Outcome]:
    # The driver's folder does not exist on other nodes; without it, CmdStan falls back to /tmp.
    Path(os.environ["TMPDIR"]).mkdir(parents=True, exist_ok=True)
    return [_outcome(job, settings, horizon, seed) for job in jobs]


def _outcome(job: FitJob, settings: ProphetSettings, horizon: int, seed: int) -> Outcome:
    try:
        return fit_series(job, settings, horizon=horizon, seed=seed)
    except Exception as error:  # noqa: BLE001  one series must not end the job; the reason is reported
        return f"{type(error).__name__}: {error}"


def _result(ref: object, size: int) -> list[Outcome]:
    import ray

    try:
        results: list[Outcome] = ray.get(ref)
    except ray.exceptions.RayError as error:
        return [f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"] * size
    return results


def _collect(
    jobs: Sequence[FitJob],
    outcomes: Sequence[Outcome],
    scalers: Mapping[str, Sequence[ColumnScaler]],
    *,
    step_s: float,
    started: float,
) -> ProphetFit:
    fits: dict[str, list[TargetFit]] = {}
    failures: dict[tuple[str, str], str] = {}
    for job, outcome in zip(jobs, outcomes, strict=True):
        if isinstance(outcome, str):
            failures[job.series, job.target] = outcome
        else:
            fits.setdefault(job.series, []).append(outcome)
    whole = {name: parts for name, parts in fits.items() if all(name != series for series, _ in failures)}
    if not whole:
        (series, target), reason = next(iter(failures.items()))
        raise TrainingError(
            f"Prophet could be fitted on none of {len(jobs)} (series, target) pairs; the first, "
            f"series '{series}' target '{target}', failed with {reason}"
        )
    forecaster = ProphetForecaster(whole, scalers, step_s=step_s)
    return ProphetFit(forecaster=forecaster, failures=failures, fit_s=clock.perf_counter() - started)
