"""Prophet fits as parallel Ray tasks, one chunk of (series, target) pairs a task."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time as clock
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flts_ray.config import ProphetSettings, Settings
from flts_ray.data.frame import SeriesFrame
from flts_ray.data.scaling import ColumnScaler
from flts_ray.errors import ClusterError, FltsError, StalledError, TrainingError
from flts_ray.models.prophet import FitJob, ProphetForecaster, TargetFit, fit_series
from flts_ray.telemetry.heartbeat import Beats
from flts_ray.telemetry.logging import event
from flts_ray.training import stacks
from flts_ray.training.examples import fit_row_count

if TYPE_CHECKING:
    from flts_ray.training.relay import Relay
    from flts_ray.training.watchdog import Watchdog

CHUNK_ROWS = 8_000
"""A task takes short series together until they hold this many rows: its overhead then stays below its work."""

HEARTBEAT_S = 5.0

NODE_LOSSES = 3
"""Times Ray sends a task again whose process or node was lost."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no fit.

    Attributes:
        reason: For a person.
        kind: What it ends in if nothing helps.
        again: Whether it may work the next time.
    """

    reason: str
    kind: type[FltsError] = TrainingError
    again: bool = False


Outcome = TargetFit | Failure
HUNG = Failure("stalled: it made no progress, in a fresh process neither", StalledError, again=True)


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
        kind: What the first of these ends in.
        fit_s: Wall seconds.
    """

    forecaster: ProphetForecaster
    failures: dict[tuple[str, str], str]
    kind: type[FltsError] = TrainingError
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
        outcome = _outcome(job, settings.prophet, settings.windows.horizon, settings.seed)
        if _may_work(outcome):
            outcome = _outcome(job, settings.prophet, settings.windows.horizon, settings.seed)
        outcomes.append(outcome)
        failed += isinstance(outcome, Failure)
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
    relay: Relay | None = None,
    watchdog: Watchdog | None = None,
) -> ProphetFit:
    """Fit every pair as Ray tasks of one CPU each. Ray must be running.

    A fit that raises is tried once more, by itself; a task that hangs is ended by the watchdog and sent once more, to
    a fresh process; one whose node is lost is sent again by Ray. What was fitted stays fitted.

    Args:
        frames: The stations.
        scalers: Per series, one scaler a target.
        settings: The whole configuration.
        step_s: Seconds between rows.
        rows: Train rows to fit on, from the start; without it, all but the validation rows.
        on_progress: Called whenever a task ends and every :data:`HEARTBEAT_S` seconds in between.
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
    # Ray kills its workers, so CmdStan's own clean-up at exit never runs: give it a folder that we remove.
    scratch = Path(tempfile.mkdtemp(prefix="flts-prophet-"))
    env = {"OMP_NUM_THREADS": "1", "STAN_NUM_THREADS": "1", "TMPDIR": str(scratch)}
    task = ray.remote(num_cpus=1, max_retries=NODE_LOSSES, runtime_env={"env_vars": env})(_fit_chunk)
    mailbox = None if relay is None else relay.mailbox

    def send(chunk: _Chunk) -> object:
        part = [jobs[i] for i in chunk.jobs]
        return task.remote(part, settings.prophet, settings.windows.horizon, settings.seed, mailbox, chunk.rank)

    work = _Work(jobs, send, [Failure(f"not fitted within {timeout_s} s")] * len(jobs))
    stall_s = settings.watchdog.stall_timeout_s
    try:
        with ExitStack() as stack:
            if watchdog is not None:
                stack.enter_context(
                    watchdog.watch("prophet", lambda stages: stall_s, ranks=work.running, on_stall=work.give_up)
                )
            while work.unfinished:
                work.send(None if parallel is None else parallel())
                work.collect(HEARTBEAT_S)
                on_progress(ProphetProgress(done=work.done, failed=work.failed, total=len(jobs)))
                if timeout_s is not None and clock.perf_counter() - started > timeout_s:
                    break
    finally:
        work.cancel()
        shutil.rmtree(scratch, ignore_errors=True)
    return _collect(jobs, work.outcomes, scalers, step_s=step_s, started=started)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Jobs of one task; its rank names it in heartbeats."""

    rank: int
    jobs: tuple[int, ...]
    last_try: bool = False


@dataclass
class _Work:
    """Tasks that wait, run and are done."""

    jobs: list[FitJob]
    submit: Callable[[_Chunk], object]
    outcomes: list[Outcome]
    done: int = 0
    failed: int = 0
    pending: dict[Any, _Chunk] = field(default_factory=dict)
    waiting: deque[_Chunk] = field(init=False)
    hung: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        parts = chunks([len(job.z) for job in self.jobs])
        self.waiting = deque(_Chunk(rank, tuple(part)) for rank, part in enumerate(parts))
        self._ranks = len(self.waiting)

    @property
    def unfinished(self) -> bool:
        return bool(self.waiting or self.pending)

    def send(self, parallel: int | None) -> None:
        """Send what waits, until so many tasks run."""
        while self.waiting and (parallel is None or len(self.pending) < max(1, parallel)):
            chunk = self.waiting.popleft()
            self.pending[self.submit(chunk)] = chunk

    def collect(self, wait_s: float) -> None:
        """Take what is ready; what failed and may work the next time waits again, each fit by itself."""
        import ray

        ready, _ = ray.wait(list(self.pending), timeout=wait_s)
        for ref in ready:
            chunk = self.pending.pop(ref)
            hung = chunk.rank in self.hung
            outcomes = [HUNG] * len(chunk.jobs) if hung else _result(ref, len(chunk.jobs))
            retry = [i for i, outcome in zip(chunk.jobs, outcomes, strict=True) if _may_work(outcome)]
            if chunk.last_try:
                retry = []
            for i, outcome in zip(chunk.jobs, outcomes, strict=True):
                if i not in retry:
                    self.outcomes[i] = outcome
                    self.done += 1
                    self.failed += isinstance(outcome, Failure)
                elif isinstance(outcome, Failure):
                    job, reason = self.jobs[i], outcome.reason
                    event("prophet_retry", level=logging.WARNING, series=job.series, target=job.target, reason=reason)
            for part in [tuple(retry)] if hung and retry else [(i,) for i in retry]:
                self.waiting.append(_Chunk(self._ranks, part, last_try=True))
                self._ranks += 1

    def running(self) -> list[int]:
        """Ranks of the tasks that Ray has."""
        return [chunk.rank for chunk in list(self.pending.values())]

    def give_up(self, ranks: Sequence[int]) -> None:
        """Cancel tasks that hang. Called by the watchdog, before it ends their processes: Ray must not resend them."""
        import ray

        self.hung.update(ranks)
        for ref, chunk in list(self.pending.items()):
            if chunk.rank in ranks:
                ray.cancel(ref, force=True)

    def cancel(self) -> None:
        """Let nothing run on."""
        import ray

        for ref in self.pending:
            ray.cancel(ref, force=True)


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


def _fit_chunk(
    jobs: Sequence[FitJob], settings: ProphetSettings, horizon: int, seed: int, mailbox: Any, rank: int
) -> list[Outcome]:
    import ray

    stacks.listen()
    # The driver's folder does not exist on other nodes; without it, CmdStan falls back to /tmp.
    Path(os.environ["TMPDIR"]).mkdir(parents=True, exist_ok=True)
    post = (lambda beat: None) if mailbox is None else mailbox.post.remote
    node_id = ray.get_runtime_context().get_node_id()
    beats = Beats(post, candidate="prophet", rank=rank, node_id=node_id)
    outcomes: list[Outcome] = []
    for job in jobs:
        beats("fitting", series=job.series, target=job.target, done=len(outcomes), force=not outcomes)
        outcomes.append(_outcome(job, settings, horizon, seed))
    return outcomes


def _may_work(outcome: Outcome) -> bool:
    return isinstance(outcome, Failure) and outcome.again


def _outcome(job: FitJob, settings: ProphetSettings, horizon: int, seed: int) -> Outcome:
    try:
        return fit_series(job, settings, horizon=horizon, seed=seed)
    except FltsError as error:
        return Failure(f"{type(error).__name__}: {error}")
    except Exception as error:  # noqa: BLE001  one series must not end the job; the reason is reported
        return Failure(f"{type(error).__name__}: {error}", again=True)


def _result(ref: Any, size: int) -> list[Outcome]:
    import ray

    try:
        results: list[Outcome] = ray.get(ref)
    except ray.exceptions.RayError as error:
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        return [Failure(reason, ClusterError, again=True)] * size
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
    kind: type[FltsError] | None = None
    for job, outcome in zip(jobs, outcomes, strict=True):
        if isinstance(outcome, Failure):
            failures[job.series, job.target] = outcome.reason
            kind = kind or outcome.kind
        else:
            fits.setdefault(job.series, []).append(outcome)
    whole = {name: parts for name, parts in fits.items() if all(name != series for series, _ in failures)}
    kind = kind or TrainingError
    if not whole:
        (series, target), reason = next(iter(failures.items()))
        raise kind(
            f"Prophet could be fitted on none of {len(jobs)} (series, target) pairs; the first, "
            f"series '{series}' target '{target}', failed with {reason}"
        )
    forecaster = ProphetForecaster(whole, scalers, step_s=step_s)
    return ProphetFit(forecaster=forecaster, failures=failures, kind=kind, fit_s=clock.perf_counter() - started)
