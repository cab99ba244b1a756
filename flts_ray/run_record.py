"""The record of a run: what went into it and what came out, so that two runs can be held against each other."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Mapping
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from pydantic import Field, ValidationError

from flts_ray.build import build_id, code_version
from flts_ray.config import Section
from flts_ray.config_layers import Resolved, without_passwords
from flts_ray.data.claims import Claim, now_utc
from flts_ray.env_names import LEGACY_NAMES, PREFIX, SWITCHES
from flts_ray.errors import IntegrityError
from flts_ray.evaluation.leaderboard import ALL, Leaderboard
from flts_ray.redaction import MASK, SECRET_NAMES, masked

if TYPE_CHECKING:
    from flts_ray.results import RunResult
    from flts_ray.training.stage import Trained

RECORD_FILE = "record.json"
RECORD_VERSION = 1
LIBRARIES = ("ray", "torch", "numpy", "scipy", "pandas", "pyarrow", "mlflow", "prophet", "cmdstanpy", "pydantic")
"""Distributions whose versions are recorded."""

METRICS = (
    "rmse_bits",
    "mae_bits",
    "rmse_scaled",
    "mae_scaled",
    "r2",
    "mase",
    "composite",
    "skill_vs_persistence",
    "coverage_90",
    "interval_width_bits",
)
_READ_PREFIXES = (PREFIX, "SAMPLE_", "AWS_", "MLFLOW_", "RAY_", "OMP_", "MKL_", "OPENBLAS_", "CUDA_", "PYTORCH_")


class SettingRecord(Section):
    """One setting.

    Attributes:
        value: As it was used.
        origin: The layer that set it.
        overridden: ``(origin, value)`` of what set it too and lost, weakest first.
    """

    value: Any
    origin: str
    overridden: tuple[tuple[str, Any], ...] = ()


class HostRecord(Section):
    """The machine of the driver; ``memory_gb`` in units of 1e9 bytes."""

    name: str
    system: str
    release: str
    machine: str
    cpus: int
    memory_gb: float
    container: bool


class CandidateRecord(Section):
    """One candidate.

    Attributes:
        kind: gru, lstm or prophet.
        candidate_id: Its name; empty if it could not be fitted.
        epochs: Passes that were made; None for models without epochs, or where this is not known.
        seed: Seed of its random choices.
        reused: Whether an earlier run had fitted it.
        facts: Windows, best epoch, workers.
        failure: Why there is no fit.
    """

    kind: str
    candidate_id: str = ""
    epochs: int | None = None
    seed: int
    reused: bool = False
    facts: dict[str, Any] = Field(default_factory=dict)
    failure: str = ""


class ScoreRecord(Section):
    """Scores of one model over all stations; a metric is None where it is undefined."""

    model: str
    role: str
    target: str
    n: int
    metrics: dict[str, float | None]


class RunRecord(Section):
    """Everything that can make two runs differ, and in what they do.

    Attributes:
        schema_version: Version of this format.
        run_id: Which run.
        created_at: When the record was made, UTC.
        code_version: The program.
        build_id: Image that it ran from; empty outside of one.
        dataset_id: The dataset.
        config_hash: Digest of the settings that shape the data.
        claim_digest: Digest of what the dataset was when the run used it.
        claim_code_version: The program that made the dataset.
        settings: Every setting by dotted key.
        environment: Variables that the program reads and that were set; secrets are masked.
        versions: Python and libraries.
        host: The machine.
        candidates: One each.
        scores: One each model and target.
        verdict: How the run ended.
        champion: Kind of the champion.
    """

    schema_version: int = RECORD_VERSION
    run_id: str
    created_at: str
    code_version: str
    build_id: str = ""
    dataset_id: str
    config_hash: str
    claim_digest: str
    claim_code_version: str
    settings: dict[str, SettingRecord]
    environment: dict[str, str]
    versions: dict[str, str]
    host: HostRecord
    candidates: tuple[CandidateRecord, ...] = ()
    scores: tuple[ScoreRecord, ...] = ()
    verdict: str = ""
    champion: str = ""


def run_record(
    resolved: Resolved,
    *,
    claim: Claim,
    result: RunResult,
    trained: Trained,
    version: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The record of a run, as JSON: the content of ``runs/<run_id>/record.json``.

    Args:
        resolved: Settings, where they come from, and what they override.
        claim: Its dataset.
        result: How it ended.
        trained: Its candidates.
        version: The program; default: this one.
        environ: Environment; default: the process's.
    """
    env = os.environ if environ is None else environ
    settings = {
        key: SettingRecord(
            value=value,
            origin=origin,
            overridden=tuple((name, without_passwords(lost)) for name, lost in resolved.overridden.get(key, ())),
        )
        for key, value, origin in resolved.rows()
    }
    seed = resolved.settings.seed
    candidates = [
        CandidateRecord(
            kind=kind,
            candidate_id=candidate.summary.candidate_id,
            epochs=len(candidate.summary.history) or None,
            seed=seed,
            reused=candidate.reused,
            facts=candidate.summary.facts,
        )
        for kind, candidate in trained.fitted.items()
    ]
    candidates += [
        CandidateRecord(kind=kind, seed=seed, failure=masked(reason)) for kind, reason in trained.failures.items()
    ]
    record = RunRecord(
        run_id=result.run_id,
        created_at=now_utc(),
        code_version=version or code_version(),
        build_id=build_id(),
        dataset_id=claim.dataset_id,
        config_hash=claim.config_hash,
        claim_digest=claim.digest(),
        claim_code_version=claim.code_version,
        settings=settings,
        environment=recorded_environment(env),
        versions=library_versions(),
        host=_host(),
        candidates=tuple(candidates),
        scores=_scores(result.leaderboard),
        verdict=result.verdict.state,
        champion=result.verdict.champion or "",
    )
    return record.model_dump(mode="json")


def parse_record(content: bytes, place: str) -> RunRecord:
    """Read a record back.

    Args:
        content: The file's bytes.
        place: Its name, for the error.

    Raises:
        IntegrityError: If it is damaged or of another format.
    """
    try:
        record = RunRecord.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise IntegrityError(f"{place} is not the record of a run ({where}: {first['msg']}): run again") from error
    if record.schema_version != RECORD_VERSION:
        raise IntegrityError(
            f"{place} has format {record.schema_version}, this program reads format {RECORD_VERSION}: run again"
        )
    return record


def recorded_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The variables that the program or its libraries read, those that lost included; secrets are masked."""
    return {
        name: shown(name, value)
        for name, value in sorted(env.items())
        if name in LEGACY_NAMES or name in SWITCHES or name.startswith(_READ_PREFIXES)
    }


def shown(name: str, value: str) -> str:
    """The value of a variable as it may be shown: nothing of a secret, no password of an address."""
    return MASK if value and SECRET_NAMES.search(name) else masked(value)


def library_versions() -> dict[str, str]:
    """Versions of Python, of :data:`LIBRARIES` and of the CmdStan that Prophet carries; nothing is imported."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    spec = util.find_spec("prophet")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for folder in sorted(Path(place).glob("stan_model/cmdstan-*")):
            found["cmdstan"] = folder.name.removeprefix("cmdstan-")
    return found


def _scores(board: Leaderboard) -> tuple[ScoreRecord, ...]:
    return tuple(
        ScoreRecord(
            model=row.model,
            role=row.role,
            target=row.target,
            n=row.n,
            metrics={name: getattr(row, name) for name in METRICS},
        )
        for row in board.rows
        if row.series == ALL
    )


def _host() -> HostRecord:
    marks = (Path("/.dockerenv"), Path("/run/.containerenv"), Path("/var/run/secrets/kubernetes.io"))
    return HostRecord(
        name=socket.gethostname(),
        system=platform.system(),
        release=platform.release(),
        machine=platform.machine(),
        cpus=os.cpu_count() or 1,
        memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
        container=any(mark.exists() for mark in marks),
    )
