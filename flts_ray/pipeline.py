"""The whole job, stage by stage: preprocess, train, sweep, evaluate, promote, report; each with a durable output."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass

from flts_ray import experiments
from flts_ray.attempt import Attempt, OnBeat, Tracked, attempt
from flts_ray.build import code_version
from flts_ray.candidates import TUNED, CandidateStore
from flts_ray.champion import identifier_of, identifiers_of, promote, promote_each
from flts_ray.config import Settings
from flts_ray.config_layers import Resolved
from flts_ray.data.dataset import Dataset, dataset_ids, load_dataset
from flts_ray.data.locks import Held, hold
from flts_ray.data.preprocess import preprocess
from flts_ray.data.windows import test_origins
from flts_ray.errors import ConfigError, TooFewRowsError, TrackingError
from flts_ray.evaluation.backtest_table import BacktestResult
from flts_ray.evaluation.promotion import Verdict
from flts_ray.evaluation.report import render_report
from flts_ray.evaluation.report_sections import ReportSection
from flts_ray.evaluation.report_view import report_data
from flts_ray.evaluation.stage import Evaluated, evaluate
from flts_ray.redaction import masked
from flts_ray.results import RunResult, TrainResult
from flts_ray.run_record import RECORD_FILE, run_record
from flts_ray.run_tracking import log_fits, log_scores
from flts_ray.runs import RUN_FILE
from flts_ray.telemetry import trails
from flts_ray.telemetry.heartbeat import Beat
from flts_ray.telemetry.logging import event
from flts_ray.tracking.registry import ModelRegistry
from flts_ray.training.series_tasks import where_it_pays
from flts_ray.training.stage import Trained, find_candidates, train_candidates


def _nobody(beat: Beat) -> None:
    """Let nobody hear the heartbeats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which stages a run has.

    Attributes:
        command: Its name, for whoever looks at the run.
        dataset_id: The dataset to start from; None: preprocess the sources.
        fit: Fit the candidates that are not fitted yet; if not, they must be.
        sweep: Search settings first, and let the winner compete as ``tuned``.
    """

    command: str = "run"
    dataset_id: str | None = None
    fit: bool = True
    sweep: bool = False


def run_pipeline(resolved: Resolved, plan: Plan | None = None, *, on_beat: OnBeat = _nobody) -> RunResult:
    """Run every stage of the plan. What was done before, by whatever run, is recognised and not done again.

    A run that was cut off or failed is taken up again by the same settings in the same home: it keeps its name, its
    MLflow runs, and everything that it had finished.

    Args:
        resolved: Settings and their origins.
        plan: Which stages; by default all that the settings ask for, from the sources.
        on_beat: As in :func:`~flts_ray.attempt.attempt`.

    Raises:
        FltsError: With its own exit code. A run that ends without a champion is no error: see its verdict.
    """
    plan = plan or Plan()
    with attempt(resolved, plan.command, plan.dataset_id, on_beat) as trying:
        return _Run(trying, plan).result()


def run_training(resolved: Resolved, dataset_id: str | None = None, *, on_beat: OnBeat = _nobody) -> TrainResult:
    """Only fit the candidates of a dataset, so that ``evaluate`` finds them.

    Args:
        resolved: Settings and their origins.
        dataset_id: The dataset; None: preprocess the sources.
        on_beat: As in :func:`~flts_ray.attempt.attempt`.

    Raises:
        FltsError: With its own exit code. A candidate that cannot be fitted is no error: see the result.
    """
    plan = Plan(command="train", dataset_id=dataset_id)
    with attempt(resolved, plan.command, plan.dataset_id, on_beat) as trying:
        return _Run(trying, plan).training()


def run_backtest(resolved: Resolved, dataset_id: str | None = None, *, on_beat: OnBeat = _nobody) -> BacktestResult:
    """Only backtest the models on cuts of the train rows; nothing is promoted.

    Args:
        resolved: Settings and their origins.
        dataset_id: The dataset; None: preprocess the sources.
        on_beat: As in :func:`~flts_ray.attempt.attempt`.

    Raises:
        FltsError: With its own exit code.
    """
    with attempt(resolved, "backtest", dataset_id, on_beat) as trying:
        with trying.stage("load" if dataset_id else "preprocess"):
            dataset = _Run(trying, Plan(command="backtest", dataset_id=dataset_id)).dataset()
        found = experiments.backtest(trying, dataset)
        document = {"command": "backtest", "run_id": trying.run_id, **found.model_dump(mode="json")}
        trying.keep(RUN_FILE, json.dumps(document, indent=1).encode())
        return found


class _Run:
    """The stages of one attempt."""

    def __init__(self, trying: Attempt, plan: Plan) -> None:
        self.trying, self.plan = trying, plan
        self.settings, self.store = trying.settings, trying.store
        self.models = CandidateStore(trying.home, trying.store)

    def training(self) -> TrainResult:
        with self.trying.stage("load" if self.plan.dataset_id else "preprocess"):
            dataset = self.dataset()
        with self.trying.tracked(dataset.claim, self.settings.candidates) as tracked:
            trained = self.train(dataset)
            tracked.candidates.check()
            log_fits(tracked.candidates, trained, dataset)
            result = TrainResult(
                run_id=self.trying.run_id,
                attempt=self.trying.number,
                dataset_id=dataset.dataset_id,
                trained=trained,
                timings=self.trying.timings.seconds,
            )
        self.trying.keep(RUN_FILE, json.dumps(result.document(), indent=2).encode())
        event("run_done", run_id=self.trying.run_id, state="trained", candidates=sorted(trained.fitted))
        return result

    def result(self) -> RunResult:
        trying = self.trying
        with trying.stage("load" if self.plan.dataset_id else "preprocess"):
            dataset = self.dataset()
        identifier = identifier_of(dataset, self.settings)
        if self.settings.promotion.scope == "series":
            identifiers_of(dataset, self.settings)  # refuses, before anything is fitted, what cannot name a model
        names = (*self.settings.candidates, *((TUNED,) if self.plan.sweep else ()))
        with trying.tracked(dataset.claim, names) as tracked:
            trained = self.train(dataset)
            swept = experiments.sweep(trying, tracked, dataset, self.models) if self.plan.sweep else None
            if swept is not None:
                trained = swept.joined(trained)
            if trying.cluster.start_s:
                trying.timings.seconds["ray_start"] = round(trying.cluster.start_s, 3)
            asked = self.settings.backtest.enabled or self.settings.promotion.require_backtest
            tested = experiments.backtest(trying, dataset, swept) if asked else None
            with trying.stage("evaluate"):
                evaluated = evaluate(dataset, trained.fitted, trained.failures, self.settings, each=where_it_pays)
                board = evaluated.leaderboard.to_json()
                trying.keep("leaderboard.json", board.encode())
            with trying.stage("track"):
                tracked.candidates.check()
                log_fits(tracked.candidates, trained, dataset)
                log_scores(tracked.candidates, trained, evaluated, dataset, tested)
            with trying.stage("promote"):
                verdict = self.promote(identifier, tracked, dataset, evaluated, trained, tested)
                trying.keep("verdict.json", verdict.model_dump_json(indent=2).encode())
            explained = None
            if self.settings.explain.enabled:
                explained = experiments.explanations(trying, tracked, dataset, trained.fitted, evaluated)
            with trying.stage("report"):
                more = experiments.sections(evaluated.leaderboard, verdict, swept, tested, explained)
                html = self.report(identifier, dataset, trained, evaluated, verdict, more)
                trying.keep("report.html", html.encode())
                tracked.parent.log_text("report.html", html)
                tracked.parent.log_json("leaderboard.json", json.loads(board))
                tracked.parent.log_json("verdict.json", verdict.model_dump(mode="json"))
                tracked.parent.set_tags({"verdict": verdict.state, "champion": verdict.champion or ""})
            result = RunResult(
                command=self.plan.command,
                run_id=trying.run_id,
                attempt=trying.number,
                identifier=identifier,
                claim=dataset.claim,
                leaderboard=evaluated.leaderboard,
                verdict=verdict,
                failure_codes=trained.failure_codes,
                report=trying.folder / "report.html",
                timings=trying.timings.seconds,
            )
            record = run_record(trying.resolved, claim=dataset.claim, result=result, trained=trained)
            trying.keep(RECORD_FILE, json.dumps(record, indent=1).encode())
        # Last: it marks a finished run.
        trying.keep(RUN_FILE, json.dumps(result.document(), indent=2).encode())
        state, champion = verdict.state, verdict.champion
        event("run_done", run_id=trying.run_id, state=state, champion=champion, report=str(result.report))
        return result

    def dataset(self) -> Dataset:
        """The dataset that the plan names, or that the sources give."""
        self.store.prepare()
        dataset_id = self.plan.dataset_id
        if dataset_id is None:
            dataset_id = preprocess(
                self.settings,
                self.store,
                ensure_ray=self.trying.cluster.ensure,
                code_version=code_version(),
                owner=self.trying.run_id,
            ).claim.dataset_id
        elif dataset_id not in (known := dataset_ids(self.store)):
            raise ConfigError(
                f"there is no dataset {dataset_id} in {masked(self.store.uri)}: "
                + (f"known are {', '.join(known[-5:])}" if known else "make one with `flts preprocess`")
            )
        else:
            trails.follow(self.store, dataset_id)
        dataset = load_dataset(self.store, dataset_id)
        _check_test_rows(dataset, self.settings)
        return dataset

    def train(self, dataset: Dataset) -> Trained:
        """The candidates, fitted here or before."""
        with self.trying.stage("train"):
            if not self.plan.fit:
                return find_candidates(dataset, self.settings, self.models)
            return train_candidates(
                dataset,
                self.settings,
                cluster=self.trying.cluster,
                store=self.store,
                candidates=self.models,
                pulse=self.trying.pulse,
                owner=self.trying.run_id,
            )

    def promote(
        self,
        identifier: str,
        tracked: Tracked,
        dataset: Dataset,
        evaluated: Evaluated,
        trained: Trained,
        tested: BacktestResult | None,
    ) -> Verdict:
        """Decide, and move the alias; one run at a time."""
        tracker, settings = tracked.tracker, self.settings
        if not tracker.flush(settings.tracking.flush_timeout_s):
            raise TrackingError(
                f"The tracking store {masked(tracker.uri)} does not take this run's records, so no champion can be "
                f"named. The candidates are fitted and scored ({self.trying.folder / 'leaderboard.json'}) and every "
                "record is kept: bring the store back and run the same command, which goes on from here."
            )
        run_ids = {kind: tracker.resolve(tracked.candidates[kind].run_key) for kind in trained.fitted}
        results = dataset, evaluated, trained.fitted, trained.failures, settings
        if settings.promotion.scope == "series":
            return promote_each(
                *results,
                registry=lambda name: ModelRegistry(tracker.gateway, name),
                run_ids=run_ids,
                guard=self.guard,
                backtest=tested,
            )
        with self.guard(identifier) as held:
            registry = ModelRegistry(tracker.gateway, identifier)
            return promote(*results, registry=registry, run_ids=run_ids, before_move=held.check, backtest=tested)

    def guard(self, identifier: str) -> AbstractContextManager[Held]:
        """Let nobody else promote under this name meanwhile."""
        return hold(
            self.store,
            f"promote-{identifier}",
            owner=self.trying.run_id,
            wait_s=self.settings.watchdog.promote_deadline_s,
            on_wait=lambda holder: event("promotion_waiting", holder=holder),
        )

    def report(
        self,
        identifier: str,
        dataset: Dataset,
        trained: Trained,
        evaluated: Evaluated,
        verdict: Verdict,
        sections: tuple[ReportSection, ...],
    ) -> str:
        """The report, as HTML."""
        data = report_data(
            run_id=self.trying.run_id,
            identifier=identifier,
            resolved=self.trying.resolved,
            dataset=dataset,
            fitted=trained.fitted,
            evaluated=evaluated,
            verdict=verdict,
            timings=self.trying.timings.seconds,
            sections=sections,
        )
        return render_report(data)


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
