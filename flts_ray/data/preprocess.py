"""Preprocessing on Ray Data: one task a station, bounded memory, the claim written last."""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from flts_ray.build import build_id
from flts_ray.config import Settings
from flts_ray.data.claims import (
    COLUMN_UNITS,
    DATASETS,
    Claim,
    ColumnRecord,
    DroppedSeries,
    SeriesRecord,
    SplitRecord,
    has_claim,
    now_utc,
    read_claim,
    read_split,
    verify_files,
    write_claim,
)
from flts_ray.data.items import dataset_of, rows_of, this_node
from flts_ray.data.leftovers import lock_of, staging_of, sweep
from flts_ray.data.locks import Held, hold
from flts_ray.data.plan import Plan, check_same_stations, make_plan
from flts_ray.data.shaping import (
    FileItem,
    FileOutcome,
    Job,
    SeriesItem,
    SeriesOutcome,
    SourceFile,
    check_enough_rows,
    shape_series,
    split_stations,
)
from flts_ray.data.storage import Store
from flts_ray.errors import (
    DataError,
    FltsError,
    InfrastructureError,
    IntegrityError,
    StorageError,
    error_named,
)
from flts_ray.telemetry import tracing, trails
from flts_ray.telemetry.logging import bind, event
from flts_ray.telemetry.origin import joined, origin

_Item = TypeVar("_Item", bound=BaseModel)
_Outcome = TypeVar("_Outcome", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessResult:
    """What preprocessing came to.

    Attributes:
        claim: The dataset's claim check.
        reused: Whether the dataset was there already.
        seconds: Wall-clock time.
    """

    claim: Claim
    reused: bool
    seconds: float


def preprocess(
    settings: Settings,
    store: Store,
    *,
    code_version: str,
    ensure_ray: Callable[[], None] | None = None,
    owner: str = "",
) -> PreprocessResult:
    """Turn sources into a dataset, or recognise that this was done before.

    Of several runs that want the same dataset one makes it, and the others wait for it.

    Args:
        settings: The configuration; ``run.force`` redoes what is there.
        store: Where datasets are kept.
        code_version: Recorded in the claim.
        ensure_ray: Called before the first Ray task, and only if there is work; without it Ray must run already.
        owner: The run that asks, for the others to know whom they wait for.

    Raises:
        ConfigError: If no source is configured.
        DataError: Its subclasses, if a source cannot be used. Nothing is left behind.
        StorageError: If the store does not answer. What lies unfinished there is removed by the next run.
        BusyError: If another run works on it for longer than ``watchdog.preprocess_deadline_s``.
    """
    start = time.monotonic()
    plan = make_plan(settings)
    dataset_id = plan.dataset_id
    bind(dataset=dataset_id)
    tracing.annotate(dataset_id=dataset_id)
    event(
        "preprocess_started", dataset_id=dataset_id, files=len(plan.sources), bytes=sum(s.bytes for s in plan.sources)
    )
    known, _ = (None, "") if settings.run.force else _existing(store, dataset_id)
    if known is None:
        with hold(
            store,
            lock_of(dataset_id),
            owner=owner,
            wait_s=settings.watchdog.preprocess_deadline_s,
            on_wait=lambda holder: event("preprocess_waiting", dataset_id=dataset_id, holder=holder),
        ) as held:
            known, damage = _existing(store, dataset_id)
            if known is None or settings.run.force:
                if damage:
                    event("preprocess_repairing", level=logging.WARNING, dataset_id=dataset_id, reason=damage)
                return _make(
                    plan,
                    settings,
                    store,
                    code_version=code_version,
                    ensure_ray=ensure_ray,
                    replace=known is not None or bool(damage),
                    held=held,
                    start=start,
                )
    check_enough_rows(_train_rows(known.series), settings.windows)
    seconds = time.monotonic() - start
    trails.follow(store, dataset_id)
    event("preprocess_skipped", dataset_id=dataset_id, rows=known.rows("train") + known.rows("test"), seconds=seconds)
    return PreprocessResult(claim=known, reused=True, seconds=seconds)


def _make(
    plan: Plan,
    settings: Settings,
    store: Store,
    *,
    code_version: str,
    ensure_ray: Callable[[], None] | None,
    replace: bool,
    held: Held,
    start: float,
) -> PreprocessResult:
    """Make and publish the dataset, under its lock."""
    dataset_id = plan.dataset_id
    if remains := sweep(store, dataset_id):
        event("leftovers_removed", dataset_id=dataset_id, files=len(remains))
    if ensure_ray is not None:
        ensure_ray()
    staging = staging_of(dataset_id)
    lineage = {"dataset_id": dataset_id, "config_hash": plan.config_hash, "data_digest": plan.data_digest}
    job = Job(settings=settings, staging=store.uri_of(staging), lineage=lineage)
    try:
        items, read = list(plan.items), list[FileItem]()
        if settings.data.series_by == "column":
            items, read = _stations(plan, job)
        outcomes = list(_shape_all(items, job))
        check_enough_rows(_train_rows(one.record for one in outcomes if one.record), settings.windows)
        made = _claim(plan, settings, outcomes, read, code_version)
        claim = _publish(store, staging, made, replace=replace, held=held)
    except InfrastructureError:
        raise  # to clean up takes the very store that does not answer; the next run does it
    except BaseException:
        _clean_up(store, staging)
        raise
    _clean_up(store, staging)
    trails.leave(store, dataset_id)
    seconds = time.monotonic() - start
    event(
        "preprocess_done",
        dataset_id=dataset_id,
        series=len(claim.series),
        rows=claim.rows("train") + claim.rows("test"),
        bytes=sum(split.bytes for split in claim.files()),
        seconds=seconds,
    )
    return PreprocessResult(claim=claim, reused=False, seconds=seconds)


def _train_rows(records: Iterable[SeriesRecord]) -> dict[str, int]:
    return {record.series: record.train.rows for record in records}


def _stations(plan: Plan, job: Job) -> tuple[list[SeriesItem], list[FileItem]]:
    """Cut files that hold several stations into one file a station."""
    parts: dict[str, dict[str, list[SourceFile]]] = {"train": defaultdict(list), "test": defaultdict(list)}
    read = []
    for outcome in _run(split_stations, plan.files(), job, FileOutcome):
        read.append(FileItem(split=outcome.split, file=outcome.file))
        for series, part in outcome.parts.items():
            parts[outcome.split][series].append(part)
    train, test = parts["train"], parts["test"]
    if test:
        check_same_stations(train, test)
    items = [
        SeriesItem(series=name, train=tuple(train[name]), test=tuple(test[name]) if test else ())
        for name in sorted(train)
    ]
    return items, read


def _existing(store: Store, dataset_id: str) -> tuple[Claim | None, str]:
    """The claim of a dataset that is there and intact, or what is wrong with the one that is there."""
    if not has_claim(store, dataset_id):
        return None, ""
    try:
        claim = read_claim(store, dataset_id)
        verify_files(store, claim)
    except IntegrityError as error:
        return None, str(error)
    return claim, ""


def _shape_all(items: list[SeriesItem], job: Job) -> Iterator[SeriesOutcome]:
    for outcome in _run(shape_series, items, job, SeriesOutcome):
        if outcome.record is None:
            event("series_dropped", level=logging.WARNING, series=outcome.series, reason=outcome.reason)
        else:
            _report(outcome.record)
        yield outcome


def _report(record: SeriesRecord) -> None:
    for split, part in (("train", record.train), ("test", record.test)):
        if part.sampling.requested:
            event(
                "sampling_applied",
                series=record.series,
                split=split,
                before=part.sampling.source_rows,
                after=part.sampling.kept_rows,
                strategy=part.sampling.strategy,
                seed=part.sampling.seed,
            )
    event(
        "series_done",
        series=record.series,
        train_rows=record.train.rows,
        test_rows=record.test.rows,
        bytes=record.train.bytes + record.test.bytes,
        missing_cells=record.train.quality.missing_cells + record.test.quality.missing_cells,
        regime_breaks=list(record.regime_breaks),
    )


def _run(
    function: Callable[[_Item, Job], _Outcome], items: Sequence[_Item], job: Job, outcome: type[_Outcome]
) -> Iterator[_Outcome]:
    """Run ``function`` on every item, each in a task of its own, and yield outcomes in order.

    Blocks keep neither stations apart nor rows in order, so a row of this Ray dataset is a whole station (or
    file) by name. The program's own errors travel as data and are raised here under their own type.
    """
    import pyarrow as pa

    item_type, shared, sender = type(items[0]), job.model_dump_json(), origin()

    def task(batch: pa.Table) -> pa.Table:
        common = Job.model_validate_json(shared)
        with joined(sender, f"preprocess.{function.__name__}", node_id=this_node()):
            answers = [
                _guarded(function, item_type.model_validate_json(text), common)
                for text in batch.column("item").to_pylist()
            ]
        return pa.table({"answer": pa.array(answers, pa.string())})

    dataset = dataset_of(items).map_batches(task, batch_size=1, batch_format="pyarrow", num_cpus=1)
    for row in rows_of(dataset, "preprocessing"):
        answer = json.loads(row["answer"])
        if "error" in answer:
            raise error_named(answer["error"])(answer["message"])
        yield outcome.model_validate(answer["outcome"])


def _guarded(function: Callable[[Any, Job], BaseModel], item: BaseModel, job: Job) -> str:
    tracing.annotate(series=getattr(item, "series", None))
    try:
        return json.dumps({"outcome": function(item, job).model_dump(mode="json")})
    except FltsError as error:
        tracing.note("refused", error=error.name, reason=str(error))
        return json.dumps({"error": error.name, "message": str(error)})


def _publish(store: Store, staging: str, claim: Claim, *, replace: bool, held: Held) -> Claim:
    """Move the finished files to their place, check them there, then write the claim: until then nobody sees them.

    Files are named by their content, so nothing that an older claim names is touched.
    """
    place = f"{DATASETS}/{claim.dataset_id}"
    for split in claim.files():
        if not _is_there(store, claim.dataset_id, split):
            store.move(f"{staging}/{split.path}", f"{place}/{split.path}")
    verify_files(store, claim)
    held.check()
    published = write_claim(store, claim, replace=replace)
    for path in {split.path for split in claim.files()} - {split.path for split in published.files()}:
        _clean_up(store, f"{place}/{path}")
    return published


def _is_there(store: Store, dataset_id: str, split: SplitRecord) -> bool:
    try:
        read_split(store, dataset_id, split)
    except IntegrityError:
        return False
    return True


def _clean_up(store: Store, prefix: str) -> None:
    try:
        store.delete(prefix)
    except StorageError as error:  # the error or result at hand matters more than what is left behind
        event("cleanup_failed", level=logging.WARNING, prefix=prefix, reason=str(error))


def _claim(
    plan: Plan, settings: Settings, outcomes: list[SeriesOutcome], read: list[FileItem], code_version: str
) -> Claim:
    kept = [outcome.record for outcome in outcomes if outcome.record is not None]
    if not kept:
        raise error_named(outcomes[0].error)(outcomes[0].reason)
    found = {
        (item.split, item.file.sha256): {"encoding": item.file.encoding, "time_zone": item.file.time_zone}
        for item in (*(item for outcome in outcomes for item in outcome.files), *read)
    }
    return Claim(
        dataset_id=plan.dataset_id,
        config_hash=plan.config_hash,
        data_digest=plan.data_digest,
        identifier=settings.identifier or _identifier(kept),
        created_at=now_utc(),
        code_version=code_version,
        build_id=build_id(),
        sampled=any(split.sampling.sampled for record in kept for split in (record.train, record.test)),
        columns=tuple(ColumnRecord(name=name, unit=_unit(name, settings)) for name in settings.data.columns),
        targets=settings.data.targets,
        target_unit=settings.data.target_unit,
        step_s=_common_step(kept),
        feature_names=kept[0].transform.feature_names,
        sources=tuple(source.model_copy(update=found[source.split, source.sha256]) for source in plan.sources),
        series=tuple(sorted(kept, key=lambda record: record.series)),
        dropped=tuple(DroppedSeries(series=o.series, reason=o.reason) for o in outcomes if o.record is None),
        shaping=settings.data_shaping(),
    )


def _common_step(records: list[SeriesRecord]) -> float:
    first = records[0]
    for record in records:
        if record.transform.step_s != first.transform.step_s:
            raise DataError(
                f"series '{first.series}' reports every {first.transform.step_s:g} s and series '{record.series}' "
                f"every {record.transform.step_s:g} s: preprocess them apart, or set data.step_s"
            )
    return first.transform.step_s


def _identifier(records: list[SeriesRecord]) -> str:
    names = sorted(record.series for record in records)
    text = "+".join(names)
    return text if len(text) <= 60 else f"{names[0][:40]}+{len(names) - 1}"


def _unit(name: str, settings: Settings) -> str:
    return settings.data.target_unit if name in settings.data.targets else COLUMN_UNITS.get(name, "")
