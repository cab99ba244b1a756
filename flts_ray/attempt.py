"""One attempt at a run: its folder, its Ray, its clock, its heartbeats, and where its documents are kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from flts_ray.build import build_id, code_version
from flts_ray.cluster import Cluster, submission_id
from flts_ray.config import WatchdogSettings, canonical_digest
from flts_ray.config_layers import Resolved
from flts_ray.data.claims import Claim
from flts_ray.data.storage import Store, open_store
from flts_ray.deadlines import deadline
from flts_ray.errors import ConfigError, DataError, FltsError
from flts_ray.runs import RunFolder, open_run
from flts_ray.telemetry import tracing
from flts_ray.telemetry.heartbeat import Beat, Pulse
from flts_ray.telemetry.logging import ERROR, bound, event, events_to
from flts_ray.telemetry.metrics import RunMetrics
from flts_ray.tracking.candidate_runs import CandidateRuns
from flts_ray.tracking.journal import JOURNAL_FILE
from flts_ray.tracking.run import TrackedRun, Tracker

OnBeat = Callable[[Beat], None]


@dataclass
class Timings:
    """Seconds of each stage, in order, and its deadline; ``on_stage`` is told when one begins."""

    limits: WatchdogSettings
    on_stage: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, limit_s: float | None = None) -> Iterator[None]:
        """Time what happens inside and log it.

        Args:
            name: Of the stage.
            limit_s: Seconds it may take; ``watchdog.<name>_deadline_s`` if None.

        Raises:
            DeadlineError: If it takes longer.
        """
        started = time.perf_counter()
        if limit_s is None:
            limit_s = getattr(self.limits, f"{name}_deadline_s", None)
        event("stage_started", stage=name, limit_s=limit_s)
        self.on_stage(name)
        try:
            with tracing.span(name), deadline(name, limit_s) if limit_s is not None else nullcontext():
                yield
        finally:
            self.seconds[name] = round(time.perf_counter() - started, 3)
        event("stage_done", stage=name, seconds=self.seconds[name])


@dataclass(frozen=True, slots=True)
class Tracked:
    """What an attempt records in the tracking store: its own run, and one a candidate."""

    tracker: Tracker
    parent: TrackedRun
    candidates: CandidateRuns


class Attempt:
    """One attempt at a run; made by :func:`attempt`.

    Attributes:
        resolved: Settings and their origins.
        settings: The settings.
        run_id: Name of the run, over all its attempts.
        number: 1, and one more each time the run was taken up again.
        folder: Of its files.
        home: Of everything the program writes.
        store: Where datasets and models lie.
        cluster: Its Ray, started when something needs it.
        metrics: What Prometheus sees of it.
        pulse: Hears every heartbeat.
        timings: Of its stages.
    """

    def __init__(
        self, resolved: Resolved, run: RunFolder, cluster: Cluster, metrics: RunMetrics, on_beat: OnBeat
    ) -> None:
        self.resolved, self.settings = resolved, resolved.settings
        self.run_id, self.folder, self.number = run.run_id, run.folder, run.attempt
        self.home = Path(self.settings.run.home).absolute()
        self.store = open_store(self.settings)
        self.cluster, self.metrics = cluster, metrics
        self.pulse = Pulse([_log_beat, metrics.beat, on_beat])
        self.timings = Timings(
            self.settings.watchdog, lambda name: self.pulse.beat({"candidate": "run", "stage": name})
        )
        self.stage = self.timings.stage
        if run.resumed:
            event("run_resumed", run_id=self.run_id, attempt=self.number)

    def keep(self, name: str, content: bytes) -> None:
        """Write one of the run's documents, and a copy beside the models where those lie elsewhere."""
        Store(str(self.folder)).write_bytes(name, content)
        if self.settings.storage.root:
            self.store.write_bytes(f"runs/{self.run_id}/{name}", content)

    @contextmanager
    def tracked(self, claim: Claim, candidates: tuple[str, ...]) -> Iterator[Tracked]:
        """Record what happens inside as a run of the tracking store, with a child a candidate."""
        event("run_started", run_id=self.run_id, dataset_id=claim.dataset_id, config_hash=claim.config_hash)
        tags = {"dataset_id": claim.dataset_id, "config_hash": claim.config_hash, "code_version": code_version()}
        if build := build_id():
            tags["build_id"] = build
        with (
            Tracker(self.settings.tracking, self.home, self.folder) as tracker,
            tracker.run(self.run_id, tags=tags) as parent,
            CandidateRuns(parent, candidates) as runs,
        ):
            self.pulse.listeners.append(runs.beat)
            self.metrics.follow(lambda: tracker.pending)
            parent.log_params({key: value for key, value, _ in self.resolved.rows()})
            log_dataset(parent, claim)
            yield Tracked(tracker, parent, runs)


@contextmanager
def attempt(resolved: Resolved, command: str, dataset_id: str | None, on_beat: OnBeat) -> Iterator[Attempt]:
    """Begin a run, or take up the one that the same command began here and did not finish.

    Args:
        resolved: Settings and their origins.
        command: What is run; with the settings and the dataset it makes the run recognised.
        dataset_id: The dataset it starts from, if it does not preprocess.
        on_beat: Receives every heartbeat, from whichever thread it comes, and of candidate ``run`` the name of each
            stage as it begins.
    """
    settings = resolved.settings
    digest = settings.digest()
    if command != "run" or dataset_id is not None:
        digest = canonical_digest([digest, command, dataset_id])
    with (
        open_run(Path(settings.run.home).absolute(), digest, submission_id()) as run,
        bound(job=submission_id(), run=run.run_id, attempt=run.attempt, dataset=dataset_id),
        events_to(run.folder / "events.jsonl"),
        tracing.traced(settings.telemetry, f"flts {command}", run_id=run.run_id, attempt=run.attempt),
        Cluster(settings.run) as cluster,
        RunMetrics(run.run_id, settings, attempt=run.attempt, submission=submission_id() or "") as metrics,
    ):
        try:
            yield Attempt(resolved, run, cluster, metrics, on_beat)
        except FltsError as error:
            event("run_failed", level=ERROR, error=type(error).__name__, exit_code=error.exit_code, reason=str(error))
            begun = run.resumed or (run.folder / JOURNAL_FILE).exists()
            if isinstance(error, (ConfigError, DataError)) and not begun:
                run.discard()
            raise


def log_dataset(run: TrackedRun, claim: Claim) -> None:
    """Name the dataset in a tracked run."""
    names = ",".join(record.series for record in claim.series)
    run.log_dataset(name=names[:200], digest=claim.dataset_id, source=f"datasets/{claim.dataset_id}")


def _log_beat(beat: Beat) -> None:
    if beat["candidate"] != "run":  # stages have events of their own
        event("heartbeat", **beat)
