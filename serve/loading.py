"""A registered version becomes a model that answers: fetched, proved whole, held against the present one, tried."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from flts_ray.config import Settings
from flts_ray.data.claims import now_utc
from flts_ray.data.storage import open_store
from flts_ray.drift.monitor import DriftMonitor
from flts_ray.errors import DataError, StorageError
from flts_ray.inference.engine import Engine
from flts_ray.models.bundle import Bundle, BundleManifest
from flts_ray.models.prophet import quiet_prophet
from flts_ray.tracking.registry import ChampionRef, ModelRegistry
from serve.details import describe
from serve.service import LoadedModel

DETAILS_LIMIT_S = 5.0
"""Seconds that a store which is away may hold up a swap for the sake of a model's story."""


def warm(settings: Settings) -> None:
    """Import what any model may compute with, while there is no traffic: loading a library stops every thread at times.

    Prophet is among it (30 MB), so that a champion of another kind than the present one is as easy to take.
    """
    with suppress(ImportError), quiet_prophet():  # a model that needs what is not here says so
        import_module("flts_ray.models.recurrent")
        import_module("prophet.serialize")
        if settings.serve.runtime != "torch":
            import_module("onnx")
            import_module("onnxruntime")


def load_version(
    ref: ChampionRef, registry: ModelRegistry, settings: Settings, *, present: BundleManifest | None
) -> LoadedModel:
    """Load a version, and prove that it can take over.

    Nothing stays on disk: a bundle lives in memory.

    Args:
        ref: The version.
        registry: Where it is registered.
        settings: The whole configuration.
        present: Manifest of the model that answers now, if there is one.

    Raises:
        BundleError: If the bundle is not whole, its smoke forecast fails, or its snapshot of training cannot be read.
        DataError: If clients of the present model would be refused or misled by it.
        TrackingError: If the store refused or did not answer.
        StorageError: If there is no room to fetch it to.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="flts-champion-") as folder:
            bundle = Bundle.load(registry.download(ref.version, Path(folder, "bundle")))
    except OSError as error:
        raise StorageError(
            f"version {ref.version} of {ref.name} cannot be fetched to {tempfile.gettempdir()} ({error}): free space"
        ) from error
    if present is not None:
        check_same_contract(present, bundle.manifest)
    engine = Engine(bundle, runtime=settings.serve.runtime)
    engine.check()  # also the first forward pass, which is slower than those after it
    DriftMonitor(bundle.manifest, settings.drift)  # what cannot be watched is found now, not by the first request
    limit_s = min(DETAILS_LIMIT_S, settings.storage.deadline_s)
    hasty = settings.storage.model_copy(update={"deadline_s": limit_s, "timeout_s": limit_s})
    return LoadedModel(
        name=ref.name,
        version=ref.version,
        run_id=ref.run_id,
        engine=engine,
        loaded_at=now_utc(),
        details=describe(ref, engine, registry, open_store(settings.model_copy(update={"storage": hasty}))),
    )


def check_same_contract(present: BundleManifest, new: BundleManifest) -> None:
    """Refuse a model to which clients of the present one would have to speak differently.

    The columns they send and those they get, units, the step between rows, and the stations they name must stay. More
    stations are welcome, unless there was one: then clients need not have named it. How many rows a model reads and
    how far ahead it was trained may change: the service says the one and recurses beyond the other.

    Raises:
        DataError: Naming every difference.
    """
    pairs = {
        "columns to send": (_columns(present), _columns(new)),
        "targets": (list(present.targets), list(new.targets)),
        "unit": (present.target_unit, new.target_unit),
        "seconds between rows": (present.step_s, new.step_s),
    }
    found = [f"{what} {before} → {after}" for what, (before, after) in pairs.items() if before != after]
    stations, kept = sorted(present.transforms), set(new.transforms)
    if not kept >= set(stations) or (len(stations) == 1 and len(kept) > 1):
        found.append(f"stations {stations} → {sorted(kept)}")
    if found:
        raise DataError(
            f"clients of the present model would break ({'; '.join(found)}): roll back, register it under another "
            "identifier, or deploy the service anew to take it on purpose"
        )


def _columns(manifest: BundleManifest) -> list[str]:
    return sorted({name for transform in manifest.transforms.values() for name in transform.columns})
