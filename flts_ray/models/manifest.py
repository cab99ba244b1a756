"""What ``bundle.json`` of a model bundle says, and the proof that it says what was written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import ConfigDict, Field, ValidationError

from flts_ray.config import Section, canonical_digest, canonical_json
from flts_ray.data.transform import Transform
from flts_ray.errors import BundleError

BUNDLE_VERSION = 1


class BundleIdentity(Section):
    """Where a model comes from.

    Attributes:
        candidate_id: Name of the candidate in its run.
        dataset_id: Dataset it was trained on.
        config_hash: Hash of the settings that shaped the dataset.
        claim_digest: SHA-256 of the dataset's claim.
        sampled: Whether rows were left out on purpose.
    """

    candidate_id: str
    dataset_id: str
    config_hash: str
    claim_digest: str
    sampled: bool


class ArrayShape(Section):
    """What an array in the weights file looks like."""

    dtype: str
    shape: tuple[int, ...]


class BundleManifest(Section):
    """The content of ``bundle.json``.

    Attributes:
        schema_version: Format of the bundle.
        kind: Kind of the forecaster.
        identity: Where the model comes from.
        created_at: UTC, ISO 8601.
        code_version: This program's version when it was made.
        libraries: Versions of the libraries then.
        feature_names: Columns that the model reads, in order.
        targets: Columns that it forecasts.
        target_unit: Their unit.
        step_s: Seconds between rows.
        lookback: Rows of gap-free history it reads.
        horizon: Rows it forecasts.
        transforms: Per series, from reports to features.
        forecaster: State of the forecaster, less its arrays.
        intervals: State of the forecast intervals, less its arrays; owned by ``evaluation/intervals.py``.
        snapshot: What training looked like, for drift; owned by ``drift/snapshot.py``. Empty in old bundles.
        arrays: What the weights file holds.
        weights_sha256: SHA-256 of the weights file.
        digest: SHA-256 of the canonical JSON of all other fields.
    """

    model_config = ConfigDict(ser_json_inf_nan="constants")  # "null" would hide what to_json must refuse

    schema_version: int = BUNDLE_VERSION
    kind: str
    identity: BundleIdentity
    created_at: str
    code_version: str
    libraries: dict[str, str]
    feature_names: tuple[str, ...]
    targets: tuple[str, ...]
    target_unit: str
    step_s: float
    lookback: int
    horizon: int
    transforms: dict[str, Transform]
    forecaster: dict[str, Any]
    intervals: dict[str, Any]
    snapshot: dict[str, Any] = Field(default_factory=dict)
    arrays: dict[str, ArrayShape]
    weights_sha256: str
    digest: str = ""

    def to_json(self) -> str:
        """The text of ``bundle.json``.

        Raises:
            BundleError: If a number is not finite.
        """
        # Bundles from before there were snapshots have no such field, and their digest was made without it.
        unset = set() if self.snapshot else {"snapshot"}
        try:
            return canonical_json(self.model_dump(mode="json", exclude=unset))
        except ValueError as error:
            raise BundleError(f"the '{self.kind}' model holds a value that is not a finite number: {error}") from error

    def sealed(self) -> Self:
        """The same manifest with its digest filled in."""
        return self.model_copy(update={"digest": digest_of(json.loads(self.to_json()))})


def read_manifest(text: bytes, path: Path) -> BundleManifest:
    """Parse and check the content of a ``bundle.json``.

    Args:
        text: The content.
        path: Where it lies, for the errors.

    Raises:
        BundleError: If it was altered, is of another format, or contradicts itself.
    """
    try:
        content = json.loads(text)
        whole = canonical_json(content).encode() == text and content["digest"] == digest_of(content)
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{path} is damaged or not a model bundle ({type(error).__name__})") from error
    if not whole:
        raise BundleError(f"{path} was changed after it was saved: its digest differs")
    if content.get("schema_version") != BUNDLE_VERSION:
        raise BundleError(f"{path} has the format {content.get('schema_version')}, this program reads {BUNDLE_VERSION}")
    try:
        manifest = BundleManifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BundleError(f"{path} is not what this program writes: {where}: {first['msg']}") from error
    check_transforms(manifest)
    return manifest


def check_transforms(manifest: BundleManifest) -> None:
    """Refuse transforms that differ in features, targets or step.

    Raises:
        BundleError: Naming the series.
    """
    for name, transform in manifest.transforms.items():
        found = (transform.feature_names, transform.targets, transform.step_s)
        if found != (manifest.feature_names, manifest.targets, manifest.step_s):
            raise BundleError(f"the transform of series '{name}' gives other features than the model reads")


def digest_of(content: Mapping[str, Any]) -> str:
    """Digest of a manifest's content, its own ``digest`` left out."""
    return canonical_digest({name: value for name, value in content.items() if name != "digest"})
