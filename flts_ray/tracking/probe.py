"""Small questions to a tracking store, for ``flts doctor``: is it of our version, does it take files?"""

from __future__ import annotations

import tempfile
from pathlib import Path

from flts_ray.errors import TrackingError
from flts_ray.redaction import redacted
from flts_ray.tracking.bounded import within

CONTENT = "written and removed by flts doctor\n"


def client_version() -> str:
    """Version of MLflow's client."""
    from importlib import metadata

    return metadata.version("mlflow")


def probe_artifacts(tracking_uri: str, location: str, *, limit_s: float) -> None:
    """Store a small file where artifacts go, read it back, remove it.

    Args:
        tracking_uri: The store.
        location: Address of a folder of artifacts that this may make and remove.
        limit_s: Seconds it may take in all.

    Raises:
        TrackingError: If any of it fails.
    """
    try:
        within(limit_s, _round_trip, tracking_uri, location)
    except Exception as error:  # every artifact store raises errors of its own
        lines = [line.strip() for line in redacted(str(error)).splitlines()]
        reason = next(filter(None, lines), type(error).__name__)
        raise TrackingError(f"artifacts cannot be stored at {location}: {reason.rstrip('.')[:500]}") from error


def _round_trip(tracking_uri: str, location: str) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    repository = get_artifact_repository(location, tracking_uri=tracking_uri)
    with tempfile.TemporaryDirectory(prefix="flts-doctor-") as scratch:
        file = Path(scratch) / "probe.txt"
        file.write_text(CONTENT, encoding="utf-8")
        repository.log_artifact(str(file))
        back = Path(scratch) / "back"
        back.mkdir()
        found = Path(repository.download_artifacts(file.name, str(back))).read_text(encoding="utf-8")
        repository.delete_artifacts()
    if found != CONTENT:
        raise ValueError("what was read back is not what was written")
