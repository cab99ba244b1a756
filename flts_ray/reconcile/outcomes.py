"""Differences in what came out: dataset, rows, transform, candidates, scores, verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from flts_ray.data.claims import Claim, SeriesRecord, SourceRecord
from flts_ray.data.sampling import SamplingEvidence
from flts_ray.data.scaling import ColumnScaler
from flts_ray.reconcile.inputs import asked_rows
from flts_ray.reconcile.ledger import Ledger
from flts_ray.reconcile.side import Side
from flts_ray.run_record import CandidateRecord, RunRecord

SPLITS: tuple[Literal["train", "test"], ...] = ("train", "test")
KINDS = ("gru", "lstm", "prophet")
FAILED = "it could not be fitted"
COUNTS = ("train_windows", "validation_windows")
"""Facts that follow from rows and windows alone."""


def compare_outcomes(a: Side, b: Side, ledger: Ledger) -> None:
    """Everything that both sides know of what came out."""
    ids = [(side.record or side.claim) for side in (a, b)]
    if a.config_hash and b.config_hash:
        ledger.compare("dataset", "config_hash", a.config_hash[:12], b.config_hash[:12], outcome="config_hash")
    if ids[0] and ids[1]:
        ledger.compare("dataset", "dataset_id", ids[0].dataset_id, ids[1].dataset_id, outcome="dataset_id")
    if a.claim and b.claim:
        _claims(a.claim, b.claim, ledger)
    else:
        _expected(a, b, ledger)
    if a.record and b.record:
        _records(a.record, b.record, ledger)


def _claims(a: Claim, b: Claim, ledger: Ledger) -> None:
    ledger.compare("dataset", "data_digest", a.data_digest[:12], b.data_digest[:12], outcome="data_digest")
    if a.dataset_id == b.dataset_id:
        ledger.compare("dataset", "claim_digest", a.digest()[:12], b.digest()[:12], outcome="transform")
    files_a, files_b = _files(a.sources), _files(b.sources)
    for where in {**files_a, **files_b}:
        one, other = files_a.get(where, {}), files_b.get(where, {})
        if one.keys() == other.keys():
            ledger.equal["source"] += 1
        else:
            ledger.compare("source", "file", ", ".join(one.values()), ", ".join(other.values()), where=where)
    ledger.compare("transform", "step_s", a.step_s, b.step_s, outcome="transform")
    only_a = [name for name in a.feature_names if name not in b.feature_names]
    only_b = [name for name in b.feature_names if name not in a.feature_names]
    ledger.compare("transform", "features only here", only_a, only_b, outcome="transform")
    dropped = [{gone.series: f"dropped: {gone.reason}" for gone in claim.dropped} for claim in (a, b)]
    stations = [{record.series: record for record in claim.series} for claim in (a, b)]
    for name in sorted({*stations[0], *stations[1], *dropped[0], *dropped[1]}):
        left, right = stations[0].get(name), stations[1].get(name)
        if left and right:
            _station(left, right, ledger)
        else:
            states = [
                "kept" if found.get(name) else gone.get(name) for found, gone in zip(stations, dropped, strict=True)
            ]
            ledger.compare("rows", "station", *states, where=name, outcome="rows")


def _files(sources: tuple[SourceRecord, ...]) -> dict[str, dict[str, str]]:
    """Of each split and station, digest → what to show. The same bytes under another name are the same."""
    found: dict[str, dict[str, str]] = {}
    for source in sources:
        shown = f"{source.name} {source.bytes:,} bytes {source.sha256[:12]}"
        found.setdefault(f"{source.series} {source.split}".strip(), {})[source.sha256] = shown
    return found


def _station(a: SeriesRecord, b: SeriesRecord, ledger: Ledger) -> None:
    for split in SPLITS:
        one, other, where = getattr(a, split), getattr(b, split), f"{a.series} {split}"
        _evidence(one.sampling, other.sampling, where, ledger)
        if (one.rows, other.rows) != (one.sampling.kept_rows, other.sampling.kept_rows):
            ledger.compare("rows", "rows", one.rows, other.rows, where=where, outcome="rows")
        spans = (f"{one.time_start} to {one.time_end}", f"{other.time_start} to {other.time_end}")
        ledger.compare("rows", "time range", *spans, where=where, outcome="block")
    columns = {**dict.fromkeys(a.transform.columns), **dict.fromkeys(b.transform.columns)}
    scalers = [dict(zip(record.transform.columns, record.transform.scalers, strict=True)) for record in (a, b)]
    differing = [name for name in columns if scalers[0].get(name) != scalers[1].get(name)]
    ledger.compare(
        "transform",
        "scaler",
        *({name: _scaler(side.get(name)) for name in differing} for side in scalers),
        where=a.series,
        outcome="transform",
    )
    for name in ("cleaner", "calendar_scalers", "target_range"):
        left, right = (record.transform.model_dump(mode="json")[name] for record in (a, b))
        ledger.compare("transform", name.replace("_", " "), left, right, where=a.series, outcome="transform")


def _scaler(scaler: ColumnScaler | None) -> str | None:
    if scaler is None:
        return None
    return f"{scaler.kind} offset {scaler.offset:.6g} center {scaler.center:.6g} scale {scaler.scale:.6g}"


def _evidence(a: SamplingEvidence, b: SamplingEvidence, where: str, ledger: Ledger) -> None:
    ledger.compare("sampling", "requested rows", a.requested, b.requested, where=where, outcome="rows")
    ledger.compare("rows", "source rows", a.source_rows, b.source_rows, where=where, outcome="rows")
    ledger.compare("rows", "kept rows", a.kept_rows, b.kept_rows, where=where, outcome="rows")
    if a.sampled or b.sampled:
        for name in ("strategy", "seed", "first_row"):
            if name != "seed" or "random" in (a.strategy, b.strategy):
                ledger.compare("sampling", name, getattr(a, name), getattr(b, name), where=where, outcome="block")


def _expected(a: Side, b: Side, ledger: Ledger) -> None:
    """What was asked for on one side against what was kept on the other."""
    claim = a.claim or b.claim
    if claim is None:
        return
    for split in SPLITS:
        asked = asked_rows(b if a.claim else a, f"sampling.{split}_rows")
        if asked is None or not isinstance(asked.value, int):
            continue
        for record in claim.series:
            evidence: SamplingEvidence = getattr(record, split).sampling
            expected = min(asked.value, evidence.source_rows) if asked.value else evidence.source_rows
            values = (evidence.kept_rows, expected) if a.claim else (expected, evidence.kept_rows)
            ledger.compare(
                "rows",
                "kept rows",
                *values,
                where=f"{record.series} {split}",
                outcome="asked",
                note=f"of {evidence.source_rows:,} source rows",
            )


def _records(a: RunRecord, b: RunRecord, ledger: Ledger) -> None:
    made = [{one.kind: one for one in record.candidates} for record in (a, b)]
    for kind in {**made[0], **made[1]}:
        left, right = made[0].get(kind), made[1].get(kind)
        if left and right and not (left.failure or right.failure):
            _candidate(left, right, ledger)
        else:
            states = [one and (one.failure or one.candidate_id) for one in (left, right)]
            failed = FAILED if (left and left.failure) or (right and right.failure) else ""
            ledger.compare("candidates", "candidate", *states, where=kind, outcome=f"fit:{kind}", note=failed)
    scores = [{(row.model, row.target): row for row in record.scores} for record in (a, b)]
    for (model, target), row in scores[0].items():
        if other := scores[1].get((model, target)):
            where = model if len({key[1] for key in scores[0]}) == 1 else f"{model} {target}"
            outcome = f"fit:{model}" if row.role == "candidate" else "baselines"
            ledger.compare("metrics", "forecasts scored", row.n, other.n, where=where, outcome="counts")
            for name, value in row.metrics.items():
                ledger.metric(name, value, other.metrics.get(name), where=where, outcome=outcome)
    for key in ("verdict", "champion"):
        ledger.compare("verdict", key, getattr(a, key), getattr(b, key), outcome="verdict")


def _candidate(a: CandidateRecord, b: CandidateRecord, ledger: Ledger) -> None:
    kind = a.kind
    ledger.compare("candidates", "candidate_id", a.candidate_id, b.candidate_id, where=kind, outcome=f"id:{kind}")
    early = [side for side, one in (("A", a), ("B", b)) if one.facts.get("stopped_early")]
    ledger.compare(
        "candidates",
        "epochs run",
        a.epochs,
        b.epochs,
        where=kind,
        outcome=f"fit:{kind}" if early else "epochs",
        note=f"stopped early on {' and '.join(early)}" if early else "",
    )
    for name in {**a.facts, **b.facts}:
        _fact(name, a.facts, b.facts, kind, ledger)


def _fact(name: str, a: Mapping[str, Any], b: Mapping[str, Any], kind: str, ledger: Ledger) -> None:
    lasting = name.endswith(("_s", "_ms", "_at", "_mb"))
    ledger.compare(
        "candidates",
        name.replace("_", " "),
        a.get(name),
        b.get(name),
        where=kind,
        outcome="counts" if name in COUNTS else f"fit:{kind}",
        matters=not lasting,
    )
