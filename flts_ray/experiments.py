"""What a run may do beyond fitting its candidates: a sweep, a backtest, explanations. Each adds to the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flts_ray.attempt import Attempt, Tracked
from flts_ray.candidates import TUNED, CandidateStore, FittedCandidate
from flts_ray.config import Settings
from flts_ray.data.dataset import Dataset
from flts_ray.evaluation.leaderboard import Leaderboard
from flts_ray.evaluation.promotion import Verdict
from flts_ray.evaluation.stage import Evaluated
from flts_ray.tracking.trial_runs import TrialRuns
from flts_ray.training.stage import Trained

if TYPE_CHECKING:
    from flts_ray.evaluation.backtest_table import BacktestResult
    from flts_ray.evaluation.report_sections import ReportSection
    from flts_ray.explain.document import Explanations
    from flts_ray.training.sweep_ledger import SweepResult


@dataclass(frozen=True, slots=True)
class Swept:
    """A sweep and its winner, refitted on all train rows."""

    sweep: SweepResult
    candidate: FittedCandidate

    @property
    def contender(self) -> tuple[str, Settings]:
        """Cell and settings of the winner, for the backtest."""
        return self.sweep.best.cell, self.sweep.best_settings

    def joined(self, trained: Trained) -> Trained:
        """The candidates of the run, the winner among them."""
        return Trained(
            fitted={**trained.fitted, TUNED: self.candidate},
            failures=trained.failures,
            failure_codes=trained.failure_codes,
        )


def sweep(trying: Attempt, tracked: Tracked, dataset: Dataset, models: CandidateStore) -> Swept:
    """Search settings on the validation rows and refit the best; a child run a trial. The test rows are not read."""
    from flts_ray.training.refit import refit_best
    from flts_ray.training.sweep import run_sweep

    with trying.stage("tune"), TrialRuns(tracked.parent) as trials:
        found = run_sweep(
            dataset.dataset_id,
            trying.settings,
            store=trying.store,
            cluster=trying.cluster,
            pulse=trying.pulse,
            on_trial=trials.take,
            owner=trying.run_id,
        )
        trying.keep("sweep.json", json.dumps(found.document(), indent=1).encode())
        tracked.parent.log_json("sweep.json", found.document())
    with trying.stage("refit"):
        winner = refit_best(
            found,
            store=trying.store,
            cluster=trying.cluster,
            candidates=models,
            pulse=trying.pulse,
            owner=trying.run_id,
        )
    return Swept(found, winner)


def backtest(trying: Attempt, dataset: Dataset, swept: Swept | None = None) -> BacktestResult:
    """Backtest the models on cuts of the train rows."""
    from flts_ray.training.backtest_tasks import run_backtest

    with trying.stage("backtest"):
        found = run_backtest(
            dataset,
            trying.settings,
            store=trying.store,
            ensure=trying.cluster.ensure,
            pulse=trying.pulse,
            tuned=swept.contender if swept else None,
        )
        trying.keep("backtest.json", found.model_dump_json(indent=1).encode())
    return found


def explanations(
    trying: Attempt, tracked: Tracked, dataset: Dataset, fitted: Mapping[str, FittedCandidate], evaluated: Evaluated
) -> Explanations:
    """Say what the candidates look at."""
    from flts_ray.explain.stage import explain

    with trying.stage("explain"):
        found = explain(dataset, fitted, evaluated, trying.settings)
        trying.keep("explanations.json", found.model_dump_json(indent=1).encode())
        tracked.parent.log_json("explanations.json", found.model_dump(mode="json"))
    return found


def sections(
    board: Leaderboard,
    verdict: Verdict,
    swept: Swept | None,
    tested: BacktestResult | None,
    explained: Explanations | None,
) -> tuple[ReportSection, ...]:
    """What the report shows of these, and of single stations where there are several."""
    from flts_ray.evaluation.backtest_view import backtest_section
    from flts_ray.evaluation.stations_view import stations_section
    from flts_ray.evaluation.sweep_plots import sweep_section
    from flts_ray.explain.section import explain_sections

    return (
        *((stations_section(board, verdict),) if len(board.protocol.origins) > 1 else ()),
        *((sweep_section(swept.sweep.document()),) if swept else ()),
        *((backtest_section(tested),) if tested else ()),
        *(explain_sections(explained) if explained else ()),
    )
