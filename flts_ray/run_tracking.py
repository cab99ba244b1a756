"""What a run tells the tracking store of its candidates: how they were fitted, how they scored, their files."""

from __future__ import annotations

from collections.abc import Mapping

from flts_ray.attempt import log_dataset
from flts_ray.data.dataset import Dataset
from flts_ray.evaluation.backtest_table import BacktestResult
from flts_ray.evaluation.backtest_view import backtest_metrics
from flts_ray.evaluation.report_view import forecast_png, loss_png
from flts_ray.evaluation.stage import Evaluated
from flts_ray.tracking.candidate_runs import CandidateRuns
from flts_ray.training.stage import Trained


def log_fits(runs: CandidateRuns, trained: Trained, dataset: Dataset) -> None:
    """Record every candidate's epochs, identity and bundle; end the runs of those that have no fit."""
    for kind, reason in trained.failures.items():
        runs.fail(kind, reason)
    for kind, candidate in trained.fitted.items():
        run = runs[kind]
        runs.log_history(kind, candidate.summary.history)
        run.set_tags({"candidate_id": candidate.summary.candidate_id, "reused": str(candidate.reused).lower()})
        log_dataset(run, dataset.claim)
        run.log_bundle(candidate.folder)
        if candidate.summary.history:
            run.log_bytes("loss_curve.png", loss_png(kind, candidate.summary.history))


def log_scores(
    runs: CandidateRuns, trained: Trained, evaluated: Evaluated, dataset: Dataset, tested: BacktestResult | None
) -> None:
    """Record every candidate's scores on the test rows and in the backtest, and a picture of its forecasts."""
    for kind in trained.fitted:
        row = evaluated.leaderboard.overall(kind)
        if row is not None:
            runs[kind].log_metrics(_numbers(row.model_dump()))
        if tested is not None:
            runs[kind].log_metrics(backtest_metrics(tested, kind))
        if evaluated.entries[kind].backtests:
            runs[kind].log_bytes("forecast.png", forecast_png(evaluated.entries[kind], dataset))


def _numbers(row: Mapping[str, object]) -> dict[str, float]:
    return {f"test_{name}": value for name, value in row.items() if isinstance(value, float)}
