"""Fitted candidates: named by what went into them, kept once, recognised when asked for again."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from flts_ray.config import Section, Settings, canonical_digest
from flts_ray.data.storage import Store
from flts_ray.errors import BundleError
from flts_ray.models.bundle import MANIFEST_FILE, WEIGHTS_FILE, Bundle

MODEL_FORMAT = 2
"""Changes whenever the same dataset and settings would give another model; part of every candidate_id."""

SUMMARY_FILE = "fit.json"

TUNED = "tuned"
"""Name on the leaderboard of the winner of a sweep, refitted; its cell may be any."""


class FitSummary(Section):
    """How a candidate was fitted.

    Attributes:
        kind: gru, lstm or prophet.
        candidate_id: Its name.
        fit_s: Seconds of fitting alone, without starting processes.
        history: One mapping an epoch; empty for models without epochs.
        facts: Anything else worth showing: windows, best epoch, workers.
        failures: Why it knows nothing of a series, for those that could not be fitted.
        again: Whether fitting again may mend one of them: it is then not reused, but fitted anew.
    """

    kind: str
    candidate_id: str
    fit_s: float
    history: tuple[dict[str, float], ...] = ()
    facts: dict[str, Any] = Field(default_factory=dict)
    failures: dict[str, str] = Field(default_factory=dict)
    again: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedCandidate:
    """A candidate as it lies on disk.

    Attributes:
        folder: Holds the bundle's files and the summary.
        bundle: As fitted, or loaded from that folder if it had been fitted before.
        summary: How it was fitted.
        reused: Whether it had been fitted before this run.
    """

    folder: Path
    bundle: Bundle
    summary: FitSummary
    reused: bool


def candidate_id(kind: str, dataset_id: str, settings: Settings) -> str:
    """``<kind>-<12 hex>``: a digest of the dataset and of every setting that shapes this candidate."""
    shaping: dict[str, Any] = {
        "format": MODEL_FORMAT,
        "kind": kind,
        "dataset_id": dataset_id,
        "seed": settings.seed,
        "windows": settings.windows.model_dump(mode="json"),
        "evaluation": settings.evaluation.model_dump(mode="json"),
    }
    if kind == "prophet":
        shaping["prophet"] = settings.prophet.model_dump(mode="json")
        shaping["validation_fraction"] = settings.training.validation_fraction
    else:
        # A network that tells no stations apart keeps the name that it had before networks could.
        unset = set() if settings.recurrent.series_embedding else {"series_embedding"}
        shaping["recurrent"] = settings.recurrent.model_dump(mode="json", exclude=unset)
        shaping["training"] = settings.training.model_dump(mode="json", exclude={"cpus_per_worker", "max_failures"})
    return f"{kind}-{canonical_digest(shaping)[:12]}"


class CandidateStore:
    """Candidates in a local folder, and in the object store where there is one."""

    def __init__(self, home: Path, store: Store) -> None:
        self._local = Store(str(home / "models"))
        self._remote = store.child("models")

    def folder(self, name: str) -> Path:
        """Where a candidate's files lie on this machine."""
        return Path(self._local.uri_of(name))

    def find(self, name: str) -> FittedCandidate | None:
        """A candidate that was saved whole, verified; None if there is none.

        Raises:
            BundleError: If its files are not what was saved.
        """
        if not self._local.exists(f"{name}/{SUMMARY_FILE}"):
            if not self._remote.exists(f"{name}/{SUMMARY_FILE}"):
                return None
            for file in (WEIGHTS_FILE, MANIFEST_FILE, SUMMARY_FILE):
                self._local.write_bytes(f"{name}/{file}", self._remote.read_bytes(f"{name}/{file}"))
        return self._load(name, reused=True)

    def save(self, bundle: Bundle, summary: FitSummary) -> FittedCandidate:
        """Write a candidate, its summary last, and read it back.

        Returns:
            The candidate with the bundle as it was fitted, not as it was read back: evaluation loads what lies on
            disk and holds it against this one.

        Raises:
            StorageError: If a disk or server refuses.
            BundleError: If what was read back is not what was written.
        """
        name = summary.candidate_id
        self._local.delete(name)
        bundle.save(self.folder(name))
        self._local.write_bytes(f"{name}/{SUMMARY_FILE}", summary.model_dump_json(indent=2).encode())
        if self._remote.uri != self._local.uri:
            for file in (WEIGHTS_FILE, MANIFEST_FILE, SUMMARY_FILE):
                self._remote.write_bytes(f"{name}/{file}", self._local.read_bytes(f"{name}/{file}"))
        return replace(self._load(name, reused=False), bundle=bundle)

    def forget(self, name: str) -> None:
        """Remove a candidate everywhere, so that it is fitted anew."""
        self._remote.delete(name)
        self._local.delete(name)

    def _load(self, name: str, *, reused: bool) -> FittedCandidate:
        folder = self.folder(name)
        bundle = Bundle.load(folder)
        try:
            summary = FitSummary.model_validate(json.loads(self._local.read_bytes(f"{name}/{SUMMARY_FILE}")))
        except ValueError as error:
            raise BundleError(f"{folder / SUMMARY_FILE} is damaged: run again with --force to fit anew") from error
        if bundle.manifest.identity.candidate_id != name or summary.candidate_id != name:
            raise BundleError(f"{folder} holds candidate {bundle.manifest.identity.candidate_id}, not {name}")
        return FittedCandidate(folder=folder, bundle=bundle, summary=summary, reused=reused)
