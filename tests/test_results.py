"""The exit code of a run tells why there is no result: no winner, a stall, or what it stands on."""

from __future__ import annotations

from pathlib import Path

import pytest

from flts_ray.errors import StalledError, StorageError, TrainingError
from flts_ray.evaluation.leaderboard import Leaderboard
from flts_ray.evaluation.promotion import EXIT_CODES, State, Verdict
from flts_ray.results import RunResult
from tests.stages import make_bench

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("state", "codes", "expected"),
    [
        ("promoted", {}, 0),
        ("no_winner", {}, 30),
        ("missing_candidate", {"gru": TrainingError.exit_code}, 32),
        ("missing_candidate", {"gru": StorageError.exit_code, "lstm": TrainingError.exit_code}, 51),
        ("missing_candidate", {"gru": StorageError.exit_code, "prophet": StalledError.exit_code}, 60),
    ],
)
def test_a_missing_candidate_ends_with_the_code_of_its_reason(
    tmp_path: Path, state: State, codes: dict[str, int], expected: int
) -> None:
    result = RunResult(
        run_id="r",
        attempt=1,
        identifier="alpha",
        claim=make_bench(tmp_path).dataset.claim,
        leaderboard=Leaderboard.model_construct(rows=()),
        verdict=Verdict(state=state, exit_code=EXIT_CODES[state]),
        failure_codes=codes,
        report=tmp_path / "report.html",
        timings={},
    )
    assert result.exit_code == result.document()["exit_code"] == expected
