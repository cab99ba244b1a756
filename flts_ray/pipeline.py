"""The whole job: preprocess, train, evaluate, promote, report; each stage timed, each with a durable output."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from flts_ray.candidates import CandidateStore
from flts_ray.champion import identifier_of, promote
from flts_ray.cluster import Cluster, submission_id
from flts_ray.config import Settings, WatchdogSettings
from flts_ray.config_layers import Resolved
from flts_ray.data.claims import Claim, code_version
from flts_ray.data.dataset import Dataset, load_dataset
from flts_ray.data.locks import hold
from flts_ray.data.preprocess import preprocess
from flts_ray.data.storage import Store, open_store
from flts_ray.data.windows import test_origins
from flts_ray.deadlines import deadline
from flts_ray.errors import ConfigError, DataError, FltsError, TooFewRowsError, TrackingError
from flts_ray.evaluation.promotion import Verdict
from flts_ray.evaluation.report import render_report
from flts_ray.evaluation.report_view import forecast_png, loss_png, report_data
from flts_ray.evaluation.stage import Evaluated, evaluate
from flts_ray.redaction import masked
from flts_ray.results import RunResult
from flts_ray.run_record import RECORD_FILE, run_record
from flts_ray.runs import RUN_FILE, RunFolder, open_run
from flts_ray.telemetry.heartbeat import Beat, Pulse
from flts_ray.telemetry.logging import ERROR, event, events_to
from flts_ray.tracking.candidate_runs import CandidateRuns
from flts_ray.tracking.journal import JOURNAL_FILE
from flts_ray.tracking.registry import ModelRegistry
from flts_ray.tracking.run import TrackedRun, Tracker
from flts_ray.training.stage import Trained, train_candidates


@dataclass
class Timings:
    """Seconds of each stage, in order, and its deadline; ``on_stage`` is told when one begins."""

    limits: WatchdogSettings
    on_stage: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside and log it.

        Raises:
            DeadlineError: If it takes longer than ``watchdog.<name>_deadline_s``.
        """
        started = time.perf_counter()
        event("stage_started", stage=name)
        self.on_stage(name)
        limit_s = getattr(self.limits, f"{name}_deadline_s", None)
        try:
            with deadline(name, limit_s) if limit_s is not None else nullcontext():
                yield
        finally:
            self.seconds[name] = round(time.perf_counter() - started, 3)
        event("stage_done", stage=name, seconds=self.seconds[name])


def run_pipeline(resolved: Resolved, *, on_beat: Callable[[Beat], None] = lambda beat: None) -> RunResult:
    """Run every stage. What was done before, by whatever run, is recognised and not done again.

    A run that was cut off or failed is taken up again by the same settings in the same home: it keeps its name, its
    MLflow runs, and everything that it had finished.

    Args:
        resolved: Settings and their origins.
        on_beat: Receives every heartbeat of every fit, from whichever thread it comes, and of candidate ``run`` the
            name of each stage as it begins.

    Raises:
        FltsError: With its own exit code. A run that ends without a champion is no error: see its verdict.
    """
    settings = resolved.settings
    home = Path(settings.run.home).absolute()
    with (
        open_run(home, settings.digest(), submission_id()) as run,
        events_to(run.folder / "events.jsonl"),
        Cluster(settings.run) as cluster,
    ):
        try:
            return _Run(resolved, run, cluster, on_beat).result()
        except FltsError as error:
            event("run_failed", level=ERROR, error=type(error).__name__, exit_code=error.exit_code, reason=str(error))
            if (
                isinstance(error, (ConfigError, DataError))
                and not run.resumed
                and not (run.folder / JOURNAL_FILE).exists()
            ):
                run.discard()  # nothing was begun
            raise


class _Run:
    """One attempt at a run."""

    def __init__(
        self, resolved: Resolved, folder: RunFolder, cluster: Cluster, on_beat: Callable[[Beat], None]
    ) -> None:
        self.resolved, self.settings = resolved, resolved.settings
        self.run_id, self.folder, self.attempt = folder.run_id, folder.folder, folder.attempt
        self.home = Path(self.settings.run.home).absolute()
        self.store = open_store(self.settings)
        self.cluster = cluster
        self.pulse = Pulse([_log_beat, on_beat])
        self.timings = Timings(self.settings.watchdog, lambda name: on_beat({"candidate": "run", "stage": name}))
        if folder.resumed:
            event("run_resumed", run_id=self.run_id, attempt=self.attempt)

    def result(self) -> RunResult:
        with self.timings.stage("preprocess"):
            dataset = self.dataset()
        claim = dataset.claim
        identifier = identifier_of(dataset, self.settings)
        event("run_started", run_id=self.run_id, dataset_id=claim.dataset_id, config_hash=claim.config_hash)
        tags = {"dataset_id": claim.dataset_id, "config_hash": claim.config_hash, "code_version": code_version()}
        with (
            Tracker(self.settings.tracking, self.home, self.folder) as tracker,
            tracker.run(self.run_id, tags=tags) as parent,
            CandidateRuns(parent, self.settings.candidates) as runs,
        ):
            self.pulse.listeners.append(runs.beat)
            parent.log_params({key: value for key, value, _ in self.resolved.rows()})
            _log_dataset(parent, claim)
            with self.timings.stage("train"):
                trained = train_candidates(
                    dataset,
                    self.settings,
                    cluster=self.cluster,
                    store=self.store,
                    candidates=CandidateStore(self.home, self.store),
                    pulse=self.pulse,
                    owner=self.run_id,
                )
            if self.cluster.start_s:
                self.timings.seconds["ray_start"] = round(self.cluster.start_s, 3)
            with self.timings.stage("evaluate"):
                evaluated = evaluate(dataset, trained.fitted, trained.failures, self.settings)
                board = evaluated.leaderboard.to_json()
                self.keep("leaderboard.json", board.encode())
            with self.timings.stage("track"):
                runs.check()
                _log_candidates(runs, trained, evaluated, dataset)
            with self.timings.stage("promote"):
                verdict = self.promote(identifier, tracker, runs, dataset, evaluated, trained)
                self.keep("verdict.json", verdict.model_dump_json(indent=2).encode())
            with self.timings.stage("report"):
                data = report_data(
                    run_id=self.run_id,
                    identifier=identifier,
                    resolved=self.resolved,
                    dataset=dataset,
                    fitted=trained.fitted,
                    evaluated=evaluated,
                    verdict=verdict,
                    timings=self.timings.seconds,
                )
                html = render_report(data)
                self.keep("report.html", html.encode())
                parent.log_text("report.html", html)
                parent.log_json("leaderboard.json", json.loads(board))
                parent.log_json("verdict.json", verdict.model_dump(mode="json"))
                parent.set_tags({"verdict": verdict.state, "champion": verdict.champion or ""})
            result = RunResult(
                run_id=self.run_id,
                attempt=self.attempt,
                identifier=identifier,
                claim=claim,
                leaderboard=evaluated.leaderboard,
                verdict=verdict,
                failure_codes=trained.failure_codes,
                report=self.folder / "report.html",
                timings=self.timings.seconds,
            )
            record = run_record(self.resolved, claim=claim, result=result, trained=trained)
            self.keep(RECORD_FILE, json.dumps(record, indent=1).encode())
        # Last: it marks a finished run.
        self.keep(RUN_FILE, json.dumps(result.document(), indent=2).encode())
        event("run_done", run_id=self.run_id, state=verdict.state, champion=verdict.champion, report=str(result.report))
        return result

    def keep(self, name: str, content: bytes) -> None:
        """Write one of the run's documents, and a copy beside the models where those lie elsewhere."""
        Store(str(self.folder)).write_bytes(name, content)
        if self.settings.storage.root:
            self.store.write_bytes(f"runs/{self.run_id}/{name}", content)

    def dataset(self) -> Dataset:
        self.store.prepare()
        claim = preprocess(
            self.settings,
            self.store,
            ensure_ray=self.cluster.ensure,
            code_version=code_version(),
            owner=self.run_id,
        ).claim
        dataset = load_dataset(self.store, claim.dataset_id)
        _check_test_rows(dataset, self.settings)
        return dataset

    def promote(
        self,
        identifier: str,
        tracker: Tracker,
        runs: CandidateRuns,
        dataset: Dataset,
        evaluated: Evaluated,
        trained: Trained,
    ) -> Verdict:
        if not tracker.flush(self.settings.tracking.flush_timeout_s):
            raise TrackingError(
                f"The tracking store {masked(tracker.uri)} does not take this run's records, so no champion can be "
                f"named. The candidates are fitted and scored ({self.folder / 'leaderboard.json'}) and every record is "
                "kept: bring the store back and run the same command, which goes on from here."
            )
        with hold(
            self.store,
            f"promote-{identifier}",
            owner=self.run_id,
            wait_s=self.settings.watchdog.promote_deadline_s,
            on_wait=lambda holder: event("promotion_waiting", holder=holder),
        ) as held:
            return promote(
                dataset,
                evaluated,
                trained.fitted,
                trained.failures,
                self.settings,
                registry=ModelRegistry(tracker.gateway, identifier),
                run_ids={kind: tracker.resolve(runs[kind].run_key) for kind in trained.fitted},
                before_move=held.check,
            )


def _check_test_rows(dataset: Dataset, settings: Settings) -> None:
    """Refuse before training what evaluation could not score.

    Raises:
        TooFewRowsError: If no test row of any station has the history that a network reads.
    """
    lookback, horizon = settings.windows.lookback, settings.windows.horizon
    if not any(len(test_origins(frame, lookback, horizon)) for frame in dataset.frames):
        raise TooFewRowsError(
            f"no test row of {', '.join(frame.series for frame in dataset.frames)[:100]} has {lookback} gap-free rows "
            "before it: give more test rows or lower windows.lookback"
        )


def _log_beat(beat: Beat) -> None:
    event("heartbeat", **beat)


def _log_dataset(run: TrackedRun, claim: Claim) -> None:
    names = ",".join(record.series for record in claim.series)
    run.log_dataset(name=names[:200], digest=claim.dataset_id, source=f"datasets/{claim.dataset_id}")


def _log_candidates(runs: CandidateRuns, trained: Trained, evaluated: Evaluated, dataset: Dataset) -> None:
    for kind, reason in trained.failures.items():
        runs.fail(kind, reason)
    for kind, candidate in trained.fitted.items():
        run = runs[kind]
        runs.log_history(kind, candidate.summary.history)
        row = evaluated.leaderboard.overall(kind)
        if row is not None:
            numbers = {f"test_{name}": value for name, value in row.model_dump().items() if isinstance(value, float)}
            run.log_metrics(numbers)
        run.set_tags({"candidate_id": candidate.summary.candidate_id, "reused": str(candidate.reused).lower()})
        _log_dataset(run, dataset.claim)
        run.log_bundle(candidate.folder)
        if candidate.summary.history:
            run.log_bytes("loss_curve.png", loss_png(kind, candidate.summary.history))
        if evaluated.entries[kind].backtests:
            run.log_bytes("forecast.png", forecast_png(evaluated.entries[kind], dataset))
