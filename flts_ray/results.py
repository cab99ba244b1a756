"""What a run ends with, and the document that it prints and keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flts_ray.data.claims import Claim
from flts_ray.errors import InfrastructureError, StalledError
from flts_ray.evaluation.leaderboard import Leaderboard
from flts_ray.evaluation.promotion import EXIT_CODES, Verdict

if TYPE_CHECKING:
    from flts_ray.training.stage import Trained

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


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run ends with.

    Attributes:
        command: Which command ran it.
        run_id: Name of the run.
        attempt: How often it was taken up, this time included.
        identifier: What the models forecast.
        claim: The dataset.
        leaderboard: Scores of every model.
        verdict: The decision.
        failure_codes: By candidate without a result, the exit code of the reason.
        report: The HTML report.
        timings: Seconds of each stage.
    """

    command: str = "run"
    run_id: str
    attempt: int
    identifier: str
    claim: Claim
    leaderboard: Leaderboard
    verdict: Verdict
    failure_codes: dict[str, int]
    report: Path
    timings: dict[str, float]

    @property
    def exit_code(self) -> int:
        """The verdict's, unless a candidate is missing because of a stall or of the infrastructure: then theirs."""
        if self.verdict.state != "missing_candidate":
            return self.verdict.exit_code
        return _gravest(self.failure_codes, self.verdict.exit_code)

    def document(self) -> dict[str, Any]:
        """The answer of ``flts run --json``."""
        return {
            "command": self.command,
            "run_id": self.run_id,
            "attempt": self.attempt,
            "identifier": self.identifier,
            "dataset_id": self.claim.dataset_id,
            "config_hash": self.claim.config_hash,
            "champion": self.verdict.champion,
            "verdict": self.verdict.model_dump(mode="json"),
            "exit_code": self.exit_code,
            "report": str(self.report),
            "leaderboard": leaderboard_rows(self.leaderboard),
            "timings_s": self.timings,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a job that only trains ends with.

    Attributes:
        run_id: Name of the run.
        attempt: How often it was taken up, this time included.
        dataset_id: What the candidates were fitted on.
        trained: The candidates, and why others have no fit.
        timings: Seconds of each stage.
    """

    run_id: str
    attempt: int
    dataset_id: str
    trained: Trained
    timings: dict[str, float]

    @property
    def exit_code(self) -> int:
        """0 if every candidate is fitted; else that of a missing candidate, or of the stall or outage behind it."""
        if not self.trained.failures:
            return 0
        return _gravest(self.trained.failure_codes, EXIT_CODES["missing_candidate"])

    def document(self) -> dict[str, Any]:
        """The answer of ``flts train --json``."""
        return {
            "command": "train",
            "run_id": self.run_id,
            "attempt": self.attempt,
            "dataset_id": self.dataset_id,
            "candidates": {
                kind: {
                    "candidate_id": candidate.summary.candidate_id,
                    "reused": candidate.reused,
                    "fit_s": candidate.summary.fit_s,
                    **candidate.summary.facts,
                }
                for kind, candidate in self.trained.fitted.items()
            },
            "failures": self.trained.failures,
            "exit_code": self.exit_code,
            "timings_s": self.timings,
        }


def _gravest(failure_codes: Mapping[str, int], otherwise: int) -> int:
    """The exit code of a stall or an outage among these, if there was one."""
    kinds = [*_family(StalledError), *_family(InfrastructureError)]
    return next((code for code in kinds if code in failure_codes.values()), otherwise)


def leaderboard_rows(board: Leaderboard) -> list[dict[str, Any]]:
    """The rows of a leaderboard with the fields that reports show."""
    return [row.model_dump(mode="json", include=set(REPORT_FIELDS)) for row in board.rows]


def _family(kind: type[StalledError] | type[InfrastructureError]) -> list[int]:
    return [kind.exit_code, *(child.exit_code for child in kind.__subclasses__())]
