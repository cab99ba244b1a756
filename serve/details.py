"""The story of a loaded model: what it reads and says, where it comes from, how well it did. For ``/v1/model``."""

from __future__ import annotations

from typing import Any

from flts_ray.config import canonical_digest
from flts_ray.data.claims import COLUMN_UNITS, read_claim
from flts_ray.data.storage import Store
from flts_ray.data.transform import Transform
from flts_ray.errors import FltsError
from flts_ray.inference.engine import Engine
from flts_ray.models.manifest import BundleManifest
from flts_ray.tracking.registry import ChampionRef, ModelRegistry

SCORES = "test_"
"""Metrics of a run with this prefix were measured on the test rows."""


def describe(ref: ChampionRef, engine: Engine, registry: ModelRegistry, store: Store) -> dict[str, Any]:
    """All that is known of a model, as JSON.

    What lies outside the bundle may be gone or out of reach: the entry is None then, and ``notes`` says why.

    Args:
        ref: Its version.
        engine: The model, loaded.
        registry: Where its run is.
        store: Where its dataset may be.

    Returns:
        ``kind``, ``tags``, ``registered_at``, ``created_at``, ``code_version``, ``libraries``, ``candidate_id``,
        ``dataset_id``, ``config_hash``, ``sampled``; ``runtime`` and ``runtime_note``; ``stations``, ``columns`` (what
        to send: names and units), ``features`` (names of what the model reads), ``targets``, ``target_unit``,
        ``step_s``, ``lookback``, ``context_rows``, ``horizon``; ``scaler_sha256``; ``coverage`` (of the calibrated
        intervals); ``training`` (per station ``start``, ``end`` and ``rows``, or None); ``metrics`` (on the test
        rows, or None); ``notes``.
    """
    manifest, notes = engine.bundle.manifest, list[str]()
    return {
        "kind": manifest.kind,
        "tags": dict(ref.tags),
        "registered_at": ref.registered_at,
        "created_at": manifest.created_at,
        "code_version": manifest.code_version,
        "libraries": dict(manifest.libraries),
        **manifest.identity.model_dump(include={"candidate_id", "dataset_id", "config_hash", "sampled"}),
        "runtime": engine.runtime,
        "runtime_note": engine.runtime_note,
        "stations": list(manifest.transforms),
        "columns": _columns(manifest),
        "features": list(manifest.feature_names),
        "targets": list(manifest.targets),
        "target_unit": manifest.target_unit,
        "step_s": manifest.step_s,
        "lookback": manifest.lookback,
        "context_rows": engine.context_rows,
        "horizon": manifest.horizon,
        "scaler_sha256": scaler_digest(manifest.transforms),
        "coverage": list(engine.levels),
        "training": _training(manifest, store, notes),
        "metrics": _metrics(ref, registry, notes),
        "notes": notes,
    }


def scaler_digest(transforms: dict[str, Transform]) -> str:
    """SHA-256 of the canonical JSON of every scaler of every station."""
    fields = {"scalers", "calendar_scalers"}
    return canonical_digest({name: t.model_dump(mode="json", include=fields) for name, t in transforms.items()})


def _columns(manifest: BundleManifest) -> list[dict[str, str]]:
    columns = next(iter(manifest.transforms.values())).columns
    units = COLUMN_UNITS | dict.fromkeys(manifest.targets, manifest.target_unit)
    return [{"name": name, "unit": units.get(name, "")} for name in columns]


def _training(manifest: BundleManifest, store: Store, notes: list[str]) -> dict[str, dict[str, Any]] | None:
    """Time range of the train rows of each station, from the claim of the dataset that the model was trained on."""
    try:
        claim = read_claim(store, manifest.identity.dataset_id)
    except FltsError as error:
        notes.append(f"the training window is not known: {error}")
        return None
    return {
        record.series: {"start": record.train.time_start, "end": record.train.time_end, "rows": record.train.rows}
        for record in claim.series
    }


def _metrics(ref: ChampionRef, registry: ModelRegistry, notes: list[str]) -> dict[str, float] | None:
    try:
        found = registry.metrics(ref.run_id)
    except FltsError as error:
        notes.append(f"the metrics of run {ref.run_id} cannot be read: {error}")
        return None
    return {name.removeprefix(SCORES): value for name, value in sorted(found.items()) if name.startswith(SCORES)}
