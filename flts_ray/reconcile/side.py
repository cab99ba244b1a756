"""What is held against something else: a run, a dataset's claim, a configuration file or a deployment file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml
from pydantic import ValidationError

from flts_ray.config import Settings, StorageSettings
from flts_ray.config_layers import load_settings, setting_fields
from flts_ray.data.addresses import absolute_uri
from flts_ray.data.claims import CLAIM_FILE, Claim, has_claim, read_claim
from flts_ray.data.storage import Store
from flts_ray.errors import ConfigError, DataError, IntegrityError, StorageError
from flts_ray.reconcile.deployment import Service, services_of_dotenv, services_of_yaml
from flts_ray.redaction import redacted
from flts_ray.run_record import RECORD_FILE, RunRecord, SettingRecord, parse_record
from flts_ray.runs import RUN_FILE, RUNS

Kind = Literal["run", "claim", "configuration", "deployment"]
MAX_BYTES = 8 << 20
"""Largest file that is read as a configuration or a deployment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two things that are compared; secrets are masked in it.

    Attributes:
        kind: What it is.
        name: What it was called on the command line.
        settings: Settings by dotted key; only what is known. Empty for a deployment: its services have them.
        services: Services of a deployment, by role.
        claim: The dataset behind it, where there is one at hand.
        record: What a run kept of itself.
        config_hash: Digest of the settings that shape the data, where known.
        notes: What could not be told, and why.
    """

    kind: Kind
    name: str
    settings: Mapping[str, SettingRecord] = field(default_factory=dict)
    services: Mapping[str, Service] = field(default_factory=dict)
    claim: Claim | None = None
    record: RunRecord | None = None
    config_hash: str | None = None
    notes: tuple[str, ...] = ()


def load_side(text: str, settings: Settings, store: Store, home: Path) -> Side:
    """Find out what a word on the command line means, and read it.

    Args:
        text: A run id; a dataset id; a path of a run's folder, record, claim, configuration or deployment file;
            or the ``s3://`` address of a run's or a dataset's folder, of a record, or of a claim.
        settings: Where storage is.
        store: Datasets are looked for here.
        home: Runs are looked for here.

    Raises:
        ConfigError: If it is none of these, or a file that cannot be read.
        IntegrityError: If a record or a claim is damaged or was altered.
        StorageError: If the store does not answer.
    """
    if text.startswith("s3://"):
        return _object(text, settings.storage, store)
    path = Path(text).expanduser()
    if not path.exists() and "/" not in text and (home / RUNS / text).is_dir():
        path = home / RUNS / text
    if path.is_dir():
        return _folder(path, text, store)
    if path.is_file():
        return _file(path, text, store)
    if re.fullmatch(r"[\w.-]+", text, flags=re.ASCII) and store.exists(f"{RUNS}/{text}/{RECORD_FILE}"):
        kept = f"{RUNS}/{text}/{RECORD_FILE}"
        return _run(parse_record(store.read_bytes(kept), redacted(store.uri_of(kept))), text, [store])
    if re.fullmatch(r"[0-9a-f]{16}", text) and has_claim(store, text):
        return claim_side(read_claim(store, text), text)
    raise ConfigError(
        f"'{text}' is no run of {home / RUNS}, no dataset of {redacted(store.uri)} and no file: "
        "name a run, a dataset, a configuration file or a deployment file"
    )


def claim_side(claim: Claim, name: str) -> Side:
    """The side of a dataset: its settings are those that shaped it."""
    shaping = {key: part for key, part in claim.shaping.items() if key not in ("version", "salt")}
    known = {f"{section}.{key}": value for section, values in shaping.items() for key, value in values.items()}
    known["hash_salt"] = claim.shaping.get("salt", "")
    return Side(
        kind="claim",
        name=name,
        settings={key: SettingRecord(value=known[key], origin="claim") for key in setting_fields() if key in known},
        claim=claim,
        config_hash=claim.config_hash,
        notes=("a claim knows only the settings that shape the data",),
    )


def run_side(record: RunRecord, name: str, claim: Claim | None, *notes: str) -> Side:
    """The side of a run with a record."""
    return Side(
        kind="run",
        name=name,
        settings=record.settings,
        claim=claim,
        record=record,
        config_hash=record.config_hash,
        notes=notes,
    )


def parse_claim(content: bytes, place: str) -> Claim:
    """Read a claim wherever it lies, and check it against its own digest.

    Raises:
        IntegrityError: If it is damaged or was altered.
    """
    try:
        claim = Claim.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise IntegrityError(f"{place} is no claim ({where}: {first['msg']}): name another file") from error
    if claim.sealed().claim_sha256 != claim.claim_sha256:
        raise IntegrityError(f"{place} is not the claim that was written: it was altered; preprocess again")
    return claim


def _object(uri: str, storage: StorageSettings, store: Store) -> Side:
    """A record or a claim on an S3 server, or the folder of one: runs are kept beside the datasets they used."""
    folder, _, name = absolute_uri(uri).rpartition("/")
    if not name.endswith(".json"):
        folder = f"{folder}/{name}"
        name = RECORD_FILE if Store(folder, storage).exists(RECORD_FILE) else CLAIM_FILE
    content, place = Store(folder, storage).read_bytes(name), redacted(f"{folder}/{name}")
    if name == RECORD_FILE:
        own = Store(folder.rpartition(f"/{RUNS}/")[0] or folder, storage)  # the store that the record lies in
        return _run(parse_record(content, place), uri, [own, store])
    return claim_side(parse_claim(content, place), uri)


def _folder(path: Path, name: str, store: Store) -> Side:
    for file in (RECORD_FILE, RUN_FILE, CLAIM_FILE):
        if (path / file).is_file():
            return _file(path / file, name, store)
    raise ConfigError(f"the folder {path} holds no {RECORD_FILE}, {RUN_FILE} or {CLAIM_FILE}: name a run or a dataset")


def _file(path: Path, name: str, store: Store) -> Side:
    try:
        if path.stat().st_size > MAX_BYTES and path.suffix != ".json":
            raise ConfigError(
                f"{path} has {path.stat().st_size:,} bytes, too many for a file of settings: check the path"
            )
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): check the path and its rights") from error
    if path.suffix == ".json":
        return _json(path, content, name, store)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text: name a YAML or .env file") from error
    notes: list[str] = []
    if path.name.startswith(".env") or path.suffix == ".env":
        services = services_of_dotenv(text, str(path), notes)
    else:
        try:
            documents = [document for document in yaml.safe_load_all(text) if document is not None]
        except (yaml.YAMLError, RecursionError) as error:
            raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
        services = services_of_yaml(documents, str(path), notes)
    if services:
        notes.insert(0, "a deployment file says only what it sets")
        return Side(
            kind="deployment", name=name, services={service.role: service for service in services}, notes=tuple(notes)
        )
    resolved = load_settings(file=path, environ={})
    return Side(
        kind="configuration",
        name=name,
        settings={
            key: SettingRecord(value=value, origin=origin, overridden=resolved.overridden.get(key, ()))
            for key, value, origin in resolved.rows()
        },
        config_hash=resolved.settings.config_hash(),
    )


def _json(path: Path, content: bytes, name: str, store: Store) -> Side:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path} is not valid JSON ({error}): it is damaged, or no file of ours") from error
    keys = set(document) if isinstance(document, dict) else set()
    if "claim_sha256" in keys:
        return claim_side(parse_claim(content, str(path)), name)
    record = path.parent / RECORD_FILE
    if {"run_id", "settings", "versions"} <= keys:
        own = Store(str(path.absolute().parent.parent.parent))  # the home that the record lies in
        return _run(parse_record(content, str(path)), name, [store, own])
    if "run_id" in keys and record.is_file():
        return _file(record, name, store)
    if {"run_id", "dataset_id"} <= keys:
        raise ConfigError(f"run {document['run_id']} left no {RECORD_FILE}: run the same command again to have one")
    raise ConfigError(f"{path} is neither the record of a run nor a claim: name another file")


def _run(record: RunRecord, name: str, places: list[Store]) -> Side:
    for place in places:
        try:
            if has_claim(place, record.dataset_id):
                return run_side(record, name, read_claim(place, record.dataset_id))
        except (DataError, StorageError) as error:
            return run_side(record, name, None, f"its dataset {record.dataset_id} was not read: {error}")
    gone = f"its dataset {record.dataset_id} is gone, so rows and sampling are not compared"
    return run_side(record, name, None, gone)


def says(side: Side, key: str) -> dict[str, SettingRecord]:
    """What a side says of a setting: role of a service → value; the role is empty but for deployments."""
    if side.kind != "deployment":
        return {"": side.settings[key]} if key in side.settings else {}
    found = {}
    for role, service in side.services.items():
        if key in service.settings:
            value, variable = service.settings[key]
            found[role] = SettingRecord(value=value, origin=f"{variable} of {service.name}")
    return found
