"""The whole job: preprocess, train, evaluate, promote, report; each stage timed, each with a durable output."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flts_ray.candidates import CandidateStore
from flts_ray.champion import identifier_of, promote
from flts_ray.cluster import Cluster, submission_id
from flts_ray.config import Settings
from flts_ray.config_layers import Resolved
from flts_ray.data.claims import Claim, code_version
from flts_ray.data.dataset import Dataset, load_dataset
from flts_ray.data.preprocess import preprocess
from flts_ray.data.storage import Store
from flts_ray.data.windows import test_origins
from flts_ray.errors import TooFewRowsError
from flts_ray.evaluation.leaderboard import Leaderboard
from flts_ray.evaluation.promotion import Verdict
from flts_ray.evaluation.report import render_report
from flts_ray.evaluation.report_view import forecast_png, loss_png, report_data
from flts_ray.evaluation.stage import Evaluated, evaluate
from flts_ray.telemetry.heartbeat import Beat, Pulse
from flts_ray.telemetry.logging import add_file, event
from flts_ray.tracking.candidate_runs import CandidateRuns
from flts_ray.tracking.registry import ModelRegistry
from flts_ray.tracking.run import TrackedRun, Tracker
from flts_ray.training.stage import Trained, train_candidates

REPORT_FIELDS = (
    "series",
    "target",
    "model",
    "role",
    "n",
    "rmse_bits",
    "mae_bits",
    "rmse_scaled",
    "mae_scaled",
    "r2",
    "mase",
    "composite",
    "skill_vs_persistence",
    "dm_p_vs_persistence",
    "dm_p_vs_ridge",
    "coverage_90",
    "coverage_min_250",
    "fit_s",
    "predict_s",
    "note",
)


@dataclass
class Timings:
    """Seconds of each stage, in order; ``on_stage`` is told when one begins."""

    on_stage: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside and log it."""
        started = time.perf_counter()
        event("stage_started", stage=name)
        self.on_stage(name)
        try:
            yield
        finally:
            self.seconds[name] = round(time.perf_counter() - started, 3)
        event("stage_done", stage=name, seconds=self.seconds[name])


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run ends with."""

    run_id: str
    identifier: str
    claim: Claim
    leaderboard: Leaderboard
    verdict: Verdict
    report: Path
    timings: dict[str, float]

    def document(self) -> dict[str, Any]:
        """The answer of ``flts run --json``."""
        return {
            "run_id": self.run_id,
            "identifier": self.identifier,
            "dataset_id": self.claim.dataset_id,
            "config_hash": self.claim.config_hash,
            "champion": self.verdict.champion,
            "verdict": self.verdict.model_dump(mode="json"),
            "report": str(self.report),
            "leaderboard": leaderboard_rows(self.leaderboard),
            "timings_s": self.timings,
        }


def leaderboard_rows(board: Leaderboard) -> list[dict[str, Any]]:
    """The rows of a leaderboard with the fields that reports show."""
    return [row.model_dump(mode="json", include=set(REPORT_FIELDS)) for row in board.rows]


def open_store(settings: Settings) -> Store:
    """Where datasets, models and checkpoints of these settings lie."""
    return Store(settings.storage.root or settings.run.home, settings.storage)


def run_pipeline(resolved: Resolved, *, on_beat: Callable[[Beat], None] = lambda beat: None) -> RunResult:
    """Run every stage. What was done before, by whatever run, is recognised and not done again.

    Args:
        resolved: Settings and their origins.
        on_beat: Receives every heartbeat of every fit, from whichever thread it comes, and of candidate ``run`` the
            name of each stage as it begins.

    Raises:
        FltsError: With its own exit code. A run that ends without a champion is no error: see its verdict.
    """
    settings = resolved.settings
    home = Path(settings.run.home).absolute()
    store = open_store(settings)
    candidates = CandidateStore(home, store)
    run_id = submission_id() or f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
    timings = Timings(lambda name: on_beat({"candidate": "run", "stage": name}))
    pulse = Pulse([_log_beat, on_beat])
    with Cluster(settings.run) as cluster:
        with timings.stage("preprocess"):
            claim = preprocess(settings, store, ensure_ray=cluster.ensure, code_version=code_version()).claim
            dataset = load_dataset(store, claim.dataset_id)
            _check_test_rows(dataset, settings)
        identifier = identifier_of(dataset, settings)
        folder = home / "runs" / run_id
        add_file(folder / "events.jsonl")
        event("run_started", run_id=run_id, dataset_id=claim.dataset_id, config_hash=claim.config_hash)
        with timings.stage("tracking"):
            tracker = Tracker(settings.tracking, home)
        tags = {"dataset_id": claim.dataset_id, "config_hash": claim.config_hash}
        with tracker.run(run_id, tags=tags) as parent, CandidateRuns(parent, settings.candidates) as runs:
            pulse.listeners.append(runs.beat)
            parent.log_params({key: value for key, value, _ in resolved.rows()})
            _log_dataset(parent, claim)
            with timings.stage("train"):
                trained = train_candidates(
                    dataset, settings, cluster=cluster, store=store, candidates=candidates, pulse=pulse
                )
            if cluster.start_s:
                timings.seconds["ray_start"] = round(cluster.start_s, 3)
            with timings.stage("evaluate"):
                evaluated = evaluate(dataset, trained.fitted, trained.failures, settings)
            with timings.stage("track"):
                runs.check()
                _log_candidates(runs, trained, evaluated, dataset)
            with timings.stage("promote"):
                registry = ModelRegistry(tracker.gateway, identifier)
                verdict = promote(
                    dataset,
                    evaluated,
                    trained.fitted,
                    trained.failures,
                    settings,
                    registry=registry,
                    run_ids={kind: runs[kind].run_id for kind in trained.fitted},
                )
            with timings.stage("report"):
                files = Store(str(folder))
                files.write_bytes("leaderboard.json", evaluated.leaderboard.to_json().encode())
                files.write_bytes("verdict.json", verdict.model_dump_json(indent=2).encode())
                data = report_data(
                    run_id=run_id,
                    identifier=identifier,
                    resolved=resolved,
                    dataset=dataset,
                    fitted=trained.fitted,
                    evaluated=evaluated,
                    verdict=verdict,
                    timings=timings.seconds,
                )
                html = render_report(data)
                files.write_bytes("report.html", html.encode())
                parent.log_text("report.html", html)
                parent.log_json("leaderboard.json", json.loads(evaluated.leaderboard.to_json()))
                parent.log_json("verdict.json", verdict.model_dump(mode="json"))
                parent.set_tags({"verdict": verdict.state, "champion": verdict.champion or ""})
    result = RunResult(
        run_id=run_id,
        identifier=identifier,
        claim=claim,
        leaderboard=evaluated.leaderboard,
        verdict=verdict,
        report=folder / "report.html",
        timings=timings.seconds,
    )
    files.write_bytes("run.json", json.dumps(result.document(), indent=2).encode())  # last: it marks a finished run
    event("run_done", run_id=run_id, state=verdict.state, champion=verdict.champion, report=str(result.report))
    return result


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
