"""Fetches a registered model."""

from __future__ import annotations

import tempfile
from pathlib import Path

from flts_ray.config import Settings
from flts_ray.errors import TrackingError
from flts_ray.inference.batch_plan import Model
from flts_ray.runs import read_run
from flts_ray.tracking.client import Gateway
from flts_ray.tracking.registry import ModelRegistry


def registered_model(settings: Settings, identifier: str | None = None, version: str | None = None) -> Model:
    """The champion of an identifier, or one of its versions, loaded and proved to be whole.

    Args:
        settings: Where the registry is.
        identifier: Registered name less ``flts-``; default: as set, else that of the latest run.
        version: Which version; default: the champion.

    Raises:
        TrackingError: If there is no such model, or the store refused or did not answer.
        BundleError: If its bundle is not what was saved.
    """
    home = Path(settings.run.home).absolute()
    name = identifier or settings.identifier or str(read_run(home, None)["identifier"])
    registry = ModelRegistry(Gateway(settings.tracking, home), name, wait_s=0)
    ref = registry.champion() if version is None else registry.version(version)
    if ref is None:
        raise TrackingError(f"{registry.name} has no champion yet: run the pipeline first, or give --version")
    with tempfile.TemporaryDirectory(prefix="flts-model-") as folder:
        fetched = registry.download(ref.version, Path(folder))
        return Model.read(fetched, name=registry.name, version=ref.version, run_id=ref.run_id)
