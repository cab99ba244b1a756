"""The manifest of a batch forecast: what was made, from what, by which model; written last, and read back."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import ValidationError

from flts_ray.config import Section, canonical_digest
from flts_ray.data.locks import LOCKS
from flts_ray.data.storage import Store
from flts_ray.errors import ConfigError, IntegrityError
from flts_ray.inference.batch_plan import FORMAT, PARTS, ForecastOptions, ModelRecord
from flts_ray.redaction import redacted

MANIFEST_FILE = "manifest.json"
BEGUN_FILE = "unfinished.json"
"""Lies in an output from the first write until its manifest is there, so that a run that was cut off is known again."""

FORECASTS = "forecasts"


class InputRecord(Section):
    """One input file."""

    name: str
    bytes: int
    sha256: str


class SeriesRecord(Section):
    """The forecasts of one station.

    Attributes:
        series: Station.
        path: Its file, relative to the manifest.
        bytes: Size of the file.
        sha256: Digest of the file.
        rows: Rows in it: one an origin, step, target and level.
        input_rows: Rows that were read.
        origins: Rows that were forecast from.
        skipped: Rows that should have been, whose lookback has a gap.
        first_origin: Time of the first origin, ISO 8601.
        last_origin: Time of the last one.
        notices: What the reader should know.
    """

    series: str
    path: str
    bytes: int
    sha256: str
    rows: int
    input_rows: int
    origins: int
    skipped: int
    first_origin: str
    last_origin: str
    notices: tuple[str, ...] = ()


class Failure(Section):
    """A station without forecasts, and why.

    Attributes:
        series: Station.
        error: Class of the error.
        message: Its sentence.
    """

    series: str
    error: str
    message: str


class ForecastManifest(Section):
    """The content of ``manifest.json``.

    Attributes:
        format: Version of this format.
        request: Digest of all that the result depends on.
        model: What forecast.
        targets: Columns forecast.
        unit: Their unit.
        step_s: Seconds between steps.
        options: What was asked for.
        reading: How the inputs were read: what tells stations apart, the time column, the columns.
        inputs: Files that were read.
        series: Stations with forecasts, sorted by name.
        failures: Stations without, sorted by name.
        created_at: When, UTC.
        code_version: Program that made it.
        digest: SHA-256 of the canonical JSON of all other fields.
    """

    format: int = FORMAT
    request: str
    model: ModelRecord
    targets: tuple[str, ...]
    unit: str
    step_s: float
    options: ForecastOptions
    reading: dict[str, Any]
    inputs: tuple[InputRecord, ...]
    series: tuple[SeriesRecord, ...]
    failures: tuple[Failure, ...]
    created_at: str
    code_version: str
    digest: str = ""

    def content(self) -> bytes:
        """The text of the file, with the digest filled in."""
        document = self.model_dump(mode="json", exclude={"digest"})
        document["digest"] = canonical_digest(document)
        return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False).encode()


def write_manifest(output: Store, manifest: ForecastManifest) -> ForecastManifest:
    """Write the manifest and read it back.

    Raises:
        IntegrityError: If what is read back is not what was written.
        StorageError: If the store refuses.
    """
    content = manifest.content()
    output.write_bytes(MANIFEST_FILE, content)
    if output.read_bytes(MANIFEST_FILE) != content:
        raise IntegrityError(f"{redacted(output.uri_of(MANIFEST_FILE))} is not what was written: check the store")
    return ForecastManifest.model_validate_json(content)


def read_manifest(output: Store) -> ForecastManifest:
    """Read a manifest and check it against its own digest.

    Raises:
        ConfigError: If it is something else.
        IntegrityError: If it was altered.
        StorageError: If it is not there, or the store does not answer.
    """
    place = redacted(output.uri_of(MANIFEST_FILE))
    content = output.read_bytes(MANIFEST_FILE)
    try:
        raw = json.loads(content)
        recorded = raw.pop("digest")
        found = ForecastManifest.model_validate_json(content)
    except (ValueError, TypeError, KeyError, AttributeError, ValidationError) as error:
        raise ConfigError(f"{place} is not the manifest of a forecast: give another output") from error
    if recorded != canonical_digest(raw):
        raise IntegrityError(f"{place} was altered after it was written: forecast again with --force")
    return found


def intact(output: Store, record: SeriesRecord) -> bool:
    """Whether the file of a station is what its record says."""
    if not output.exists(record.path):
        return False
    return hashlib.sha256(output.read_bytes(record.path)).hexdigest() == record.sha256


def earlier(output: Store, request: str, *, force: bool) -> ForecastManifest | None:
    """What an earlier run of the same request left in this output; None if there is nothing to go on from.

    Args:
        output: Where the forecasts are to lie.
        request: Digest of the present request.
        force: Whether other forecasts may be replaced.

    Raises:
        ConfigError: If the output holds other forecasts, or anything that is no forecast.
        IntegrityError: If its manifest was altered.
    """
    place = redacted(output.uri)
    other = f"{place} holds forecasts of another model, of other rows or with other options"
    if output.exists(MANIFEST_FILE):
        try:
            found = read_manifest(output)
        except IntegrityError:
            if not force:
                raise
            return None
        if force:
            return None
        if found.request == request:
            return found
        raise ConfigError(f"{other}: give another output, or --force to replace them")
    if output.exists(BEGUN_FILE):
        if force or output.read_bytes(BEGUN_FILE) == begun(request):
            return None
        raise ConfigError(f"{other}, not finished: give another output, or --force to replace them")
    if strange := [path for path in output.list(hidden=True) if not path.startswith(f"{LOCKS}/")]:
        raise ConfigError(
            f"{place} is not empty and holds no forecasts of this program (but {strange[0]}): give an empty or a new "
            "folder"
        )
    return None


def begun(request: str) -> bytes:
    """The content of :data:`BEGUN_FILE`."""
    return json.dumps({"format": FORMAT, "request": request}).encode()


def sweep(output: Store, manifest: ForecastManifest) -> None:
    """Remove what the manifest does not name: files of earlier and of unfinished runs."""
    named = {record.path for record in manifest.series}
    for path in output.list(FORECASTS):
        if path not in named:
            output.delete(path)
    output.delete(PARTS)
    output.delete(BEGUN_FILE)
