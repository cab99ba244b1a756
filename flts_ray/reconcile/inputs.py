"""Differences in what was put in: settings, variables, services, code, libraries, machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from flts_ray.config_layers import setting_fields
from flts_ray.data.storage import SOURCE_SUFFIXES
from flts_ray.env_names import LEGACY_NAMES, SAMPLING_NAMES, SWITCHES
from flts_ray.reconcile.deployment import INFERENCE, OWNED, PREPROCESS, WHOLE, Service
from flts_ray.reconcile.ledger import Area, Difference, Ledger, plain
from flts_ray.reconcile.side import Side, says
from flts_ray.redaction import MASK
from flts_ray.run_record import SettingRecord

ROWS = ("sampling.train_rows", "sampling.test_rows")
NO_EFFECT = (
    "run.", "storage.", "tracking.", "watchdog.", "serve.", "predictions.", "drift.", "explain.", "telemetry.",
    "training.cpus_per_worker",
    "training.max_failures",
)  # fmt: skip
"""Settings that say where, how fast or how stubbornly, and never what comes out."""

NUMERICS = ("OMP_", "MKL_", "OPENBLAS_", "CUDA_", "PYTORCH_")
"""Starts of variables that decide how numbers are computed."""

_PLACE = re.compile(
    r"(^|_)(URL|URI|HOST|PORT|ENDPOINT|PATH|DIR|FILE|SERVERS?|BUCKET|TOPIC(_\d+)?|GROUP_ID|KEY|USER|TIMEOUT(_\w+)?"
    r"|DELAY(_\w+)?|RETRIES)$"
)

Pair = tuple[str, SettingRecord | None, SettingRecord | None]


def compare_inputs(a: Side, b: Side, ledger: Ledger) -> None:
    """Everything that both sides know of what was put in."""
    for key in setting_fields():
        _setting(a, b, key, ledger)
    _services(a.services, b.services, ledger) if a.services and b.services else _stray_sampling(a, b, ledger)
    _code(a, b, ledger)
    if a.record and b.record:
        for name in sorted({*a.record.versions, *b.record.versions}):
            ledger.compare(
                "libraries", name, a.record.versions.get(name, "absent"), b.record.versions.get(name, "absent")
            )
        for name, value in a.record.host:
            ledger.compare(
                "environment",
                f"host {name}",
                value,
                getattr(b.record.host, name),
                matters=name in ("system", "machine"),
            )
        _environment(a, b, ledger)


def rounds_otherwise(one: Difference) -> bool:
    """Whether a difference says how numbers are computed: library versions, processor, threads."""
    return not one.outcome and (one.area == "libraries" or one.key.startswith(("host ", *NUMERICS)))


def asked_rows(side: Side, key: str) -> SettingRecord | None:
    """Rows that a configuration or a deployment asks for, 0 for all; None if it does not preprocess."""
    said = says(side, key)
    if side.kind != "deployment":
        return said.get("")
    for role in (PREPROCESS, WHOLE):
        if role in side.services:
            return said.get(role) or SettingRecord(value=0, origin=f"not set in {side.services[role].name}")
    return None


def _setting(a: Side, b: Side, key: str, ledger: Ledger) -> None:
    area: Area = "sampling" if key.startswith("sampling.") else "configuration"
    matters = not key.startswith(NO_EFFECT)
    merged: dict[str, list[Pair]] = {}
    for pair in _pairs(a, b, key):
        shown = repr([plain(side.value) if side else None for side in pair[1:]])
        merged.setdefault(shown, []).append(pair)
    for pairs in merged.values():
        _, one, other = pairs[0]
        left, right = one.value if one else None, other.value if other else None
        if key in ROWS and not left and not right:
            left = right  # not set and 0 are the same
        if key in ("data.train", "data.test") and plain(left) != plain(right):
            names = [_names(side, value, key.removeprefix("data.")) for side, value in ((a, left), (b, right))]
            known = a.claim is not None and b.claim is not None  # then the bytes themselves are compared
            area, matters = "source", not known and all(names) and names[0] != names[1]
        ledger.compare(
            area,
            key,
            left,
            right,
            where=", ".join(sorted(role for role, _, _ in pairs if role)),
            origin_a=_origin(one),
            origin_b=_origin(other),
            matters=matters,
        )


def _pairs(a: Side, b: Side, key: str) -> Iterator[Pair]:
    said_a, said_b = says(a, key), says(b, key)
    if key == "candidates" and (a.services or b.services):
        if said_a and said_b:
            yield "", _all_of(said_a), _all_of(said_b)
    elif a.services and b.services:
        for role in [role for role in a.services if role in b.services and role in {*said_a, *said_b}]:
            yield role, said_a.get(role), said_b.get(role)
    elif a.services or b.services:
        deployment, single, said = (a, said_b.get(""), said_a) if a.services else (b, said_a.get(""), said_b)
        if single is None:
            return
        if key in ROWS and not said and (asked := asked_rows(deployment, key)) is not None:
            said = {"": asked}
        for role, record in said.items():
            yield (role, record, single) if a.services else (role, single, record)
    elif said_a and said_b:
        yield "", said_a[""], said_b[""]


def _all_of(said: Mapping[str, SettingRecord]) -> SettingRecord:
    values = sorted({part for record in said.values() for part in record.value})
    return SettingRecord(value=values, origin=", ".join(dict.fromkeys(record.origin for record in said.values())))


def _origin(record: SettingRecord | None) -> str:
    if record is None:
        return "not set"
    lost = [f"{value} of {origin}" for origin, value in record.overridden if plain(value) != plain(record.value)]
    return f"{record.origin}, over {', '.join(lost)}" if lost else record.origin


def _names(side: Side, paths: Any, split: str) -> list[str]:
    """Names of the files that a setting stands for; none where it names a folder or nothing."""
    if side.claim:
        return sorted(source.name for source in side.claim.sources if source.split == split)
    names = sorted(str(path).rsplit("/", 1)[-1] for path in paths or ())
    return names if all(name.lower().endswith(SOURCE_SUFFIXES) for name in names) else []


def _services(a: Mapping[str, Service], b: Mapping[str, Service], ledger: Ledger) -> None:
    merged: dict[tuple[str, str | None, str | None], list[str]] = {}
    for role in [*a, *(role for role in b if role not in a)]:
        known = role in OWNED or role == INFERENCE
        one, other = a.get(role), b.get(role)
        if one is None or other is None:
            ledger.compare("environment", f"service {role}", one and one.name, other and other.name, matters=known)
            continue
        if one.image and other.image:
            images = (service.image.rsplit("/", 1)[-1] for service in (one, other))
            ledger.compare("code", "image", *images, where=role, matters=known)
        names = {*one.environment, *other.environment} - _compared(one) - _compared(other)
        for name in [*(name for name in SAMPLING_NAMES if name in names), *sorted(names - {*SAMPLING_NAMES})]:
            values = one.environment.get(name), other.environment.get(name)
            merged.setdefault((name, *values), []).append(role)
    for (name, left, right), roles in merged.items():
        sampling = name in SAMPLING_NAMES
        ledger.compare(
            "sampling" if sampling else "environment",
            name,
            left,
            right,
            where=", ".join(sorted(roles)),
            matters=sampling or not (_PLACE.search(name) or MASK in (left, right)),
        )


def _compared(service: Service) -> set[str]:
    """Variables that were compared as settings, or are the role itself."""
    switches = {name for names in SWITCHES.values() for name in names} | set(SWITCHES)
    shaping = switches if service.role in (PREPROCESS, WHOLE) else set()
    return {variable for _, variable in service.settings.values()} | shaping | {"MODEL_TYPE"}


def _stray_sampling(a: Side, b: Side, ledger: Ledger) -> None:
    """Sampling in services that do not preprocess, against a side that has no services."""
    for deployment in (a, b):
        merged: dict[tuple[str, str], list[str]] = {}
        for role, service in deployment.services.items():
            if role not in (PREPROCESS, WHOLE):
                for name, value in service.sampling.items():
                    merged.setdefault((name, value), []).append(role)
        for (name, value), roles in merged.items():
            values = (value, None) if deployment is a else (None, value)
            ledger.compare("sampling", name, *values, where=", ".join(sorted(roles)))


def _code(a: Side, b: Side, ledger: Ledger) -> None:
    same_data = a.claim is not None and b.claim is not None and a.claim.digest() == b.claim.digest()
    if a.claim and b.claim:
        ledger.compare("code", "transform_version", a.claim.transform_version, b.claim.transform_version)
        ledger.compare(
            "code",
            "code_version of the dataset",
            a.claim.code_version,
            b.claim.code_version,
            matters=not same_data,
        )
        ledger.compare("code", "build_id of the dataset", a.claim.build_id, b.claim.build_id, matters=False)
    if a.record and b.record:
        ledger.compare("code", "code_version", a.record.code_version, b.record.code_version)
        ledger.compare("code", "build_id", a.record.build_id, b.record.build_id, matters=False)
    elif a.claim and b.claim and (a.record or b.record):
        left, right = ((side.record or side.claim) for side in (a, b))
        assert left and right
        ledger.compare("code", "code_version", left.code_version, right.code_version, matters=True)


def _environment(a: Side, b: Side, ledger: Ledger) -> None:
    """Variables that are no setting, or lost to another layer: those that won were compared as settings."""
    assert a.record and b.record
    won = {side.origin for record in (a.record, b.record) for side in record.settings.values()}
    one, other = a.record.environment, b.record.environment
    for name in sorted({*one, *other}):
        if f"environment {name}" not in won:
            setting = LEGACY_NAMES.get(name)
            ledger.compare(
                "environment",
                name,
                one.get(name),
                other.get(name),
                matters=name.startswith(NUMERICS),
                note=f"it lost: {setting[0]} was set by something stronger" if setting else "",
            )
