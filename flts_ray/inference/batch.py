"""Forecasts of whole files, whoever does the work: planned, recognised if done before, published with a manifest."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flts_ray.build import code_version
from flts_ray.config import Settings
from flts_ray.data.claims import now_utc
from flts_ray.data.locks import hold
from flts_ray.data.shaping import SourceFile
from flts_ray.data.storage import Store
from flts_ray.errors import ConfigError, DataError, FltsError, InfrastructureError, IntegrityError, error_named
from flts_ray.inference.batch_manifest import (
    BEGUN_FILE,
    ForecastManifest,
    InputRecord,
    SeriesRecord,
    begun,
    earlier,
    intact,
    sweep,
    write_manifest,
)
from flts_ray.inference.batch_plan import (
    ForecastItem,
    ForecastJob,
    ForecastOptions,
    Model,
    by_station,
    find_inputs,
    make_job,
)
from flts_ray.inference.batch_series import Outcome, SeriesForecaster
from flts_ray.redaction import redacted
from flts_ray.telemetry.logging import event

LOCK = "forecast"


class Workers(Protocol):
    """Whoever forecasts the stations."""

    def __call__(self, items: Sequence[ForecastItem], job: ForecastJob, model: Model) -> Iterator[Outcome]:
        """Forecast each item and store its file; outcomes come in any order."""


def in_this_process(items: Sequence[ForecastItem], job: ForecastJob, model: Model) -> Iterator[Outcome]:
    """One station after the other, right here."""
    yield from map(SeriesForecaster(model.bundle, job), items)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """What a batch forecast came to.

    Attributes:
        manifest: What lies in the output.
        output: Where.
        reused: Whether all of it was there already.
        seconds: Wall-clock time.
    """

    manifest: ForecastManifest
    output: str
    reused: bool
    seconds: float

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "output": self.output,
            "reused": self.reused,
            "seconds": round(self.seconds, 3),
            "manifest": self.manifest.model_dump(mode="json"),
        }

    def error(self) -> FltsError | None:
        """What to end with: None, or an error that names every station without forecasts."""
        failures = self.manifest.failures
        if not failures:
            return None
        kinds = {failure.error for failure in failures}
        kind = error_named(kinds.pop()) if len(kinds) == 1 else DataError
        total = len(failures) + len(self.manifest.series)
        reasons = "; ".join(f"{failure.series}: {failure.message}" for failure in failures)
        return kind(f"{len(failures)} of {total} series could not be forecast, the others are written: {reasons}")


def make_options(
    model: Model,
    settings: Settings,
    *,
    horizon: int | None = None,
    levels: Sequence[float] = (),
    every: int = 0,
    since: str = "",
) -> ForecastOptions:
    """What is wanted, with what the model says where nothing is said.

    Raises:
        ConfigError: If it cannot be had from this model.
    """
    manifest = model.bundle.manifest
    steps = manifest.horizon if horizon is None else horizon
    most = manifest.horizon if every else settings.serve.max_horizon
    if not 1 <= steps <= most:
        why = "from many origins no further than it was trained for" if every else "as serve.max_horizon says"
        raise ConfigError(f"a horizon of {steps} steps cannot be had: give 1 to {most}, {why}")
    if wrong := [level for level in levels if not 0 < level < 1]:
        raise ConfigError(f"{wrong[0]:g} is no level of an interval: give a share between 0 and 1, such as 0.9")
    if since and not every:
        raise ConfigError("--since chooses among many origins: give --every too, such as --every 1")
    calibrated = {cell["coverage"] for entry in manifest.intervals.values() for cell in entry["cells"]}
    return ForecastOptions(
        horizon=steps,
        levels=tuple(dict.fromkeys(levels)) or tuple(sorted(calibrated)),
        every=every,
        since=since,
        interval_rows=0 if every else settings.serve.interval_rows,
    )


def forecast_batch(
    model: Model,
    patterns: Sequence[str],
    output: Store,
    options: ForecastOptions,
    settings: Settings,
    *,
    workers: Workers = in_this_process,
    force: bool = False,
) -> BatchResult:
    """Forecast every station in some files, or recognise that this was done before.

    Args:
        model: By which model.
        patterns: Input files, folders and globs, local or s3://.
        output: Where the result is to lie; empty, or holding forecasts of this program.
        options: From :func:`make_options`.
        settings: The configuration: how inputs are read.
        workers: Who does it.
        force: Redo what is done, and replace other forecasts.

    Returns:
        What there is now. Stations that could not be forecast are named in its manifest and in its error.

    Raises:
        ConfigError: If the output holds something else.
        SourceNotFoundError: If an input does not exist.
        DataError: If a file of several stations cannot be read.
        InfrastructureError: If store or cluster gave way: the same command goes on.
    """
    started = time.monotonic()
    job = make_job(model, output, options, settings)
    files = find_inputs(patterns, settings)
    request = job.request(files)
    earlier(output, request, force=force)  # refuses a strange folder before anything is written to it
    output.prepare()
    with hold(output, LOCK, owner="", wait_s=settings.watchdog.preprocess_deadline_s):
        found = earlier(output, request, force=force)
        kept = () if found is None else tuple(record for record in found.series if intact(output, record))
        if found is not None and len(kept) == len(found.series) and not found.failures:
            event("forecast_skipped", output=redacted(output.uri), series=len(kept))
            seconds = time.monotonic() - started
            return BatchResult(manifest=found, output=output.uri, reused=True, seconds=seconds)
        event(
            "forecast_started", output=redacted(output.uri), files=len(files), bytes=sum(file.bytes for file in files)
        )
        output.write_bytes(BEGUN_FILE, begun(request))
        done = {record.series for record in kept}
        items = [item for item in by_station(files, job) if item.series not in done]
        outcomes = list(_forecast(items, job, model, workers))
        manifest = _publish(output, job, model, files, request, kept, outcomes)
    seconds = time.monotonic() - started
    rows = sum(record.rows for record in manifest.series)
    event("forecast_done", series=len(manifest.series), failed=len(manifest.failures), rows=rows, seconds=seconds)
    return BatchResult(manifest=manifest, output=output.uri, reused=False, seconds=seconds)


def _forecast(items: Sequence[ForecastItem], job: ForecastJob, model: Model, workers: Workers) -> Iterator[Outcome]:
    for outcome in workers(items, job, model):
        if outcome.record is not None:
            record = outcome.record
            event(
                "series_forecast",
                series=record.series,
                rows=record.rows,
                origins=record.origins,
                skipped=record.skipped,
            )
        elif outcome.failure is not None:
            kind = error_named(outcome.failure.error)
            if issubclass(kind, InfrastructureError):  # the next station would meet it too
                raise kind(outcome.failure.message)
            event("series_failed", level=logging.WARNING, series=outcome.series, reason=outcome.failure.message)
        yield outcome


def _publish(
    output: Store,
    job: ForecastJob,
    model: Model,
    files: Sequence[SourceFile],
    request: str,
    kept: Sequence[SeriesRecord],
    outcomes: Sequence[Outcome],
) -> ForecastManifest:
    """Check every file where readers will look for it, write the manifest, then remove what it does not name."""
    made = [outcome.record for outcome in outcomes if outcome.record is not None]
    for record in made:
        if not intact(output, record):
            raise IntegrityError(
                f"{redacted(output.uri_of(record.path))} is not what was written: on a cluster of several machines the "
                "output must be s3:// or a folder that all of them share"
            )
    data, bundle = job.settings.data, model.bundle.manifest
    manifest = ForecastManifest(
        request=request,
        model=model.record,
        targets=bundle.targets,
        unit=bundle.target_unit,
        step_s=bundle.step_s,
        options=job.options,
        reading={"series_by": data.series_by, "time_column": data.time_column, "columns": list(data.columns)},
        inputs=tuple(InputRecord(name=f.uri.rsplit("/", 1)[-1], bytes=f.bytes, sha256=f.sha256) for f in files),
        series=tuple(sorted((*kept, *made), key=lambda record: record.series)),
        failures=tuple(outcome.failure for outcome in outcomes if outcome.failure is not None),
        created_at=now_utc(),
        code_version=code_version(),
    )
    manifest = write_manifest(output, manifest)
    sweep(output, manifest)
    return manifest
