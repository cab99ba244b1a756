"""The claim check: what a dataset is, where it came from, and how to tell whether it is still what was written."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any, Literal, Self

from pydantic import ValidationError

from flts_ray.config import Section, canonical_digest
from flts_ray.data.quality import RegimeShift, SplitQuality
from flts_ray.data.sampling import SamplingEvidence
from flts_ray.data.storage import Store
from flts_ray.data.transform import TRANSFORM_VERSION, Transform
from flts_ray.errors import DataError, IntegrityError

SCHEMA_VERSION = 1
CLAIM_FILE = "claim.json"
DATASETS = "datasets"
Split = Literal["train", "test"]

COLUMN_UNITS = {
    "down": "bits",
    "up": "bits",
    "rnti_count": "count",
    "mcs_down": "index",
    "mcs_down_var": "index^2",
    "mcs_up": "index",
    "mcs_up_var": "index^2",
    "rb_down": "fraction",
    "rb_down_var": "fraction^2",
    "rb_up": "fraction",
    "rb_up_var": "fraction^2",
}
"""Units of a base-station report's columns; other columns have none on record."""


class ColumnRecord(Section):
    """A raw column and its unit, empty if unknown."""

    name: str
    unit: str


class SourceRecord(Section):
    """One input file, without its place: the same bytes give the same record everywhere.

    Attributes:
        split: What it was given as.
        series: Station, empty where one file holds several or several files hold one.
        name: File name.
        bytes: Its size.
        sha256: Digest of its bytes.
        encoding: Text encoding, or ``parquet``.
        time_zone: Zone of its timestamps, empty if they had none. Stored times are UTC then, else as given.
    """

    split: Split
    series: str
    name: str
    bytes: int
    sha256: str
    encoding: str = ""
    time_zone: str = ""


class SplitRecord(Section):
    """One stored Parquet file.

    Attributes:
        path: Relative to the claim.
        rows: Rows in it.
        bytes: Its size.
        sha256: Digest of its bytes.
        time_start: First timestamp, ISO 8601.
        time_end: Last timestamp.
        sampling: What sampling left out.
        quality: Findings in the rows kept, as reported.
    """

    path: str
    rows: int
    bytes: int
    sha256: str
    time_start: str
    time_end: str
    sampling: SamplingEvidence
    quality: SplitQuality


class SeriesRecord(Section):
    """One station: its transform, its two files, and what changed between them."""

    series: str
    transform: Transform
    train: SplitRecord
    test: SplitRecord
    shifts: tuple[RegimeShift, ...]
    regime_breaks: tuple[str, ...]


class DroppedSeries(Section):
    """A station that was left out, and why."""

    series: str
    reason: str


class Claim(Section):
    """Everything a reader needs to know, and to check, before it opens a dataset.

    Attributes:
        schema_version: Version of this format.
        dataset_id: Identity of the data: :func:`dataset_id_of`.
        config_hash: Digest of the settings that shape the data.
        data_digest: Digest of the source bytes.
        transform_version: Version of the transform's code.
        identifier: Name of the run that made it.
        created_at: When, UTC.
        code_version: Program that made it.
        build_id: Image that it ran from; empty outside of one.
        sampled: Whether rows were left out on purpose in any split.
        columns: Raw columns in order.
        targets: Columns to forecast.
        target_unit: Their unit.
        step_s: Seconds between rows.
        feature_names: Feature columns in order.
        sources: Input files.
        series: Stations, sorted by name.
        dropped: Stations left out.
        shaping: The settings behind ``config_hash``.
        claim_sha256: Digest of all other fields.
    """

    schema_version: int = SCHEMA_VERSION
    dataset_id: str
    config_hash: str
    data_digest: str
    transform_version: int = TRANSFORM_VERSION
    identifier: str
    created_at: str
    code_version: str
    build_id: str = ""
    sampled: bool
    columns: tuple[ColumnRecord, ...]
    targets: tuple[str, ...]
    target_unit: str
    step_s: float
    feature_names: tuple[str, ...]
    sources: tuple[SourceRecord, ...]
    series: tuple[SeriesRecord, ...]
    dropped: tuple[DroppedSeries, ...] = ()
    shaping: dict[str, Any]
    claim_sha256: str = ""

    def digest(self) -> str:
        """SHA-256 of what the data are: equal for the same data in any place, made at any time by any version."""
        made = {"created_at", "code_version", "build_id", "identifier", "claim_sha256"}
        return canonical_digest(self.model_dump(mode="json", exclude=made))

    def sealed(self) -> Self:
        """The same claim with ``claim_sha256`` filled in."""
        return self.model_copy(update={"claim_sha256": _self_digest(self.model_dump(mode="json"))})

    def files(self) -> tuple[SplitRecord, ...]:
        """Every data file."""
        return tuple(split for record in self.series for split in (record.train, record.test))

    def rows(self, split: Split) -> int:
        """Rows of one split, all series together."""
        return sum(getattr(record, split).rows for record in self.series)


def data_digest(sources: tuple[SourceRecord, ...]) -> str:
    """Digest of the source bytes: of (series, split, SHA-256) of every file, in no particular order."""
    return canonical_digest(sorted([source.series, source.split, source.sha256] for source in sources))


def dataset_id_of(config_hash: str, digest: str, transform_version: int = TRANSFORM_VERSION) -> str:
    """Identity of a dataset: 16 hexadecimal digits of a digest over settings, source bytes and transform version."""
    identity = {"config_hash": config_hash, "data_digest": digest, "transform_version": transform_version}
    return canonical_digest(identity)[:16]


def dataset_store(store: Store, dataset_id: str) -> Store:
    """Where one dataset lies."""
    return store.child(DATASETS).child(dataset_id)


def has_claim(store: Store, dataset_id: str) -> bool:
    """Whether the dataset was finished: the claim is written last."""
    return dataset_store(store, dataset_id).exists(CLAIM_FILE)


def write_claim(store: Store, claim: Claim, *, replace: bool = False) -> Claim:
    """Seal a claim, write it, and read it back. The data files must lie in place, verified.

    Args:
        store: Where datasets are kept.
        claim: What to write.
        replace: Put it in the place of a claim that is there. Otherwise, of several writers one succeeds, and the
            others get its claim.

    Returns:
        The claim that stands now: this one, or another writer's of the same data.

    Raises:
        IntegrityError: If what is read back is not what was written, or another writer's dataset is damaged or differs.
        StorageError: If the store refuses.
    """
    claim = claim.sealed()
    content = json.dumps(claim.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False).encode()
    place = dataset_store(store, claim.dataset_id)
    if replace:
        place.write_bytes(CLAIM_FILE, content)
    elif not place.create(CLAIM_FILE, content):
        return _first_claim(store, claim)
    if (found := place.read_bytes(CLAIM_FILE)) != content:
        raise IntegrityError(
            f"the claim of dataset {claim.dataset_id} was written with {len(content)} bytes and read back with "
            f"{len(found)} that differ: check the store, then preprocess again"
        )
    return claim


def _first_claim(store: Store, ours: Claim) -> Claim:
    """The claim that another writer put there before ours, if it says the same and its files are there."""
    theirs = read_claim(store, ours.dataset_id)
    verify_files(store, theirs)
    if theirs.digest() != ours.digest():
        raise IntegrityError(
            f"another run published dataset {ours.dataset_id} at the same time, with other content (digest "
            f"{theirs.digest()[:12]}, ours {ours.digest()[:12]}): run the same version of the program everywhere"
        )
    return theirs


def read_claim(store: Store, dataset_id: str) -> Claim:
    """Read a claim and check it against its own digest and identity.

    Raises:
        DataError: If there is no such dataset.
        IntegrityError: If the claim is not what was written.
        StorageError: If the store does not answer.
    """
    if not has_claim(store, dataset_id):
        raise DataError(
            f"there is no dataset {dataset_id} in {store.uri_of(DATASETS)}: preprocess first, or check the id"
        )
    content = dataset_store(store, dataset_id).read_bytes(CLAIM_FILE)
    try:
        raw = json.loads(content)
        recorded, actual = raw["claim_sha256"], _self_digest(raw)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise IntegrityError(
            f"the claim of dataset {dataset_id} is not readable ({error}): preprocess again"
        ) from error
    if recorded != actual:
        raise IntegrityError(
            f"the claim of dataset {dataset_id} has digest {actual[:12]} but records {str(recorded)[:12]}: "
            "it was altered; preprocess again with run.force"
        )
    if raw.get("schema_version") != SCHEMA_VERSION:
        raise IntegrityError(
            f"the claim of dataset {dataset_id} has format {raw.get('schema_version')}, this program reads format "
            f"{SCHEMA_VERSION}: preprocess again with run.force"
        )
    try:
        claim = Claim.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise IntegrityError(
            f"the claim of dataset {dataset_id} does not follow its format ({'.'.join(map(str, first['loc']))}: "
            f"{first['msg']}): preprocess again with run.force"
        ) from error
    own = dataset_id_of(claim.config_hash, claim.data_digest, claim.transform_version)
    if not claim.dataset_id == own == dataset_id:
        raise IntegrityError(
            f"the claim under {dataset_id} describes dataset {own}: the folder was renamed; preprocess again"
        )
    return claim


def read_split(store: Store, dataset_id: str, split: SplitRecord) -> bytes:
    """The bytes of one stored file, checked for size and digest before anyone uses them.

    Raises:
        IntegrityError: If the file is gone or differs from its claim.
        StorageError: If the store does not answer.
    """
    place, name = dataset_store(store, dataset_id), f"{split.path} of dataset {dataset_id}"
    if not place.exists(split.path):
        raise IntegrityError(f"{name} is gone although its claim records {split.bytes} bytes: preprocess again")
    content = place.read_bytes(split.path)
    if len(content) != split.bytes:
        raise IntegrityError(
            f"{name} has {len(content)} bytes where its claim records {split.bytes}: preprocess again with run.force"
        )
    digest = hashlib.sha256(content).hexdigest()
    if digest != split.sha256:
        raise IntegrityError(
            f"{name} has digest {digest[:12]} where its claim records {split.sha256[:12]}: "
            "preprocess again with run.force"
        )
    return content


def verify_files(store: Store, claim: Claim) -> None:
    """Check every file of a dataset against its claim.

    Raises:
        IntegrityError: If a file is gone or differs.
    """
    for split in claim.files():
        read_split(store, claim.dataset_id, split)


def now_utc() -> str:
    """The time for ``created_at``, ISO 8601 to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _self_digest(raw: dict[str, Any]) -> str:
    absent = {"claim_sha256"} if raw.get("build_id") else {"claim_sha256", "build_id"}  # older claims have no build_id
    return canonical_digest({key: value for key, value in raw.items() if key not in absent})
