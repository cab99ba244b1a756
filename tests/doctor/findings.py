"""What suites of the doctor say about findings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flts_ray.config_layers import Resolved, load_settings
from flts_ray.data.claims import DATASETS, Claim, ColumnRecord, now_utc, write_claim
from flts_ray.data.plan import make_plan
from flts_ray.data.shaping import Job, shape_series
from flts_ray.data.storage import Store
from flts_ray.doctor import Finding, examine
from tests.data.reports import small_settings, write_station


def resolved(**settings: Any) -> Resolved:
    """Settings with ``__`` for the dot, and nothing from the environment."""
    return load_settings(options={key.replace("__", "."): value for key, value in settings.items()}, environ={})


def named(findings: Sequence[Finding], check: str) -> Finding:
    """The one finding of a check."""
    (found,) = [finding for finding in findings if finding.check == check]
    return found


def examined(check: str, *, fix: bool = False, deep: bool = False, **settings: Any) -> Finding:
    """The one finding of a check, after a whole examination."""
    return named(examine(resolved(**settings), fix=fix, deep=deep), check)


def unwell(findings: Sequence[Finding]) -> list[Finding]:
    """What is neither well nor a property of the machine that runs the tests."""
    machine = ("versions", "processors", "memory", "disk")
    return [finding for finding in findings if finding.state not in ("ok", "skipped") and finding.check not in machine]


def publish(store: Store, folder: Path) -> Claim:
    """A dataset of one small station, made without Ray; its sources lie in ``folder``."""
    settings = small_settings(*write_station(folder, "alpha", train=60, test=20))
    plan = make_plan(settings)
    job = Job(settings=settings, staging=store.uri_of(f"{DATASETS}/{plan.dataset_id}"), lineage={})
    job = job.model_copy(update={"settings": settings.model_copy(update={"storage": store.settings})})
    record = shape_series(plan.items[0], job).record
    assert record is not None
    claim = Claim(
        dataset_id=plan.dataset_id,
        config_hash=plan.config_hash,
        data_digest=plan.data_digest,
        identifier="alpha",
        created_at=now_utc(),
        code_version="test",
        sampled=False,
        columns=(ColumnRecord(name="down", unit="bits"),),
        targets=("down",),
        target_unit="bits",
        step_s=120.0,
        feature_names=record.transform.feature_names,
        sources=(),
        series=(record,),
        shaping={},
    )
    return write_claim(store, claim)
