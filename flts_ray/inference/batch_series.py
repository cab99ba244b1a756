"""The forecasts of one station, from the files that hold its rows to its output file."""

from __future__ import annotations

import hashlib

import numpy as np

from flts_ray.config import Section
from flts_ray.data.addresses import file_name
from flts_ray.data.frame import FloatArray, RawFrame, TimeArray
from flts_ray.data.source import concatenate, read_rows, stamp
from flts_ray.data.storage import read_source
from flts_ray.errors import DataError, FltsError, IntegrityError, TooFewRowsError
from flts_ray.evaluation.intervals import unpack
from flts_ray.inference.batch_manifest import FORECASTS, Failure, SeriesRecord
from flts_ray.inference.batch_plan import ForecastItem, ForecastJob
from flts_ray.inference.batch_rows import ForecastFile
from flts_ray.inference.engine import Engine
from flts_ray.inference.history import read_history
from flts_ray.inference.queries import Query
from flts_ray.inference.rolling import roll, station_of
from flts_ray.inference.times import read_times
from flts_ray.models.bundle import Bundle


class Outcome(Section):
    """What became of one station: its record, or why there is none."""

    series: str
    record: SeriesRecord | None = None
    failure: Failure | None = None


class SeriesForecaster:
    """Forecasts one station after another with a model that is loaded once."""

    def __init__(self, bundle: Bundle, job: ForecastJob) -> None:
        """Make the model ready."""
        self.job, self.bundle = job, bundle
        self.engine = Engine(bundle, runtime=job.settings.serve.runtime)
        self.intervals = unpack(bundle.manifest.intervals, bundle.interval_arrays)

    def __call__(self, item: ForecastItem) -> Outcome:
        """Forecast a station and store its file; what goes wrong with it is told and stops nobody else."""
        try:
            return Outcome(series=item.series, record=self.record(item))
        except FltsError as error:
            failure = Failure(series=item.series, error=error.name, message=str(error))
            return Outcome(series=item.series, failure=failure)

    def record(self, item: ForecastItem) -> SeriesRecord:
        """Forecast a station and store its file.

        Raises:
            DataError: Its subclasses, if its rows cannot be used.
            IntegrityError: If a file changed since the work was planned.
            StorageError: If the output cannot be written.
        """
        raw, zone = self._read(item)
        manifest, options = self.bundle.manifest, self.job.options
        file = ForecastFile(
            item.series,
            self.job.model,
            targets=manifest.targets,
            unit=manifest.target_unit,
            step_s=manifest.step_s,
            direct_steps=manifest.horizon,
            levels=options.levels,
            zone="UTC" if zone else "",
        )
        origins, skipped, notices = self._roll(raw, file) if options.every else self._latest(raw, file)
        content = file.close()
        digest = hashlib.sha256(content).hexdigest()
        path = f"{FORECASTS}/{file_name(item.series)}-{digest[:12]}.parquet"
        self.job.store().write_bytes(path, content)
        return SeriesRecord(
            series=item.series,
            path=path,
            bytes=len(content),
            sha256=digest,
            rows=file.rows,
            input_rows=len(raw),
            origins=len(origins),
            skipped=skipped,
            first_origin=stamp(origins[0]),
            last_origin=stamp(origins[-1]),
            notices=notices,
        )

    def _latest(self, raw: RawFrame, file: ForecastFile) -> tuple[TimeArray, int, tuple[str, ...]]:
        """Forecast what follows the last row, as the service does."""
        options, settings = self.job.options, self.job.settings.serve
        rows = min(len(raw), self.engine.context_rows + options.interval_rows + self.bundle.manifest.horizon)
        tail = slice(len(raw) - min(rows, settings.max_rows), None)
        checked = read_history(
            self.bundle.manifest,
            series=raw.series,
            time=raw.time[tail],
            columns={name: column[tail] for name, column in zip(raw.columns, raw.values.T, strict=True)},
            settings=settings,
            field=raw.series,
        )
        query = Query(
            history=checked.frame,
            horizon=options.horizon,
            levels=options.levels,
            adapt_rows=options.interval_rows,
            notices=checked.notices,
        )
        (made,) = self.engine.forecast([query])
        if isinstance(made, FltsError):
            raise made
        origins: TimeArray = np.array([made.origin], dtype="datetime64[ns]")
        file.write(origins, made.values[None], made.lower[:, None], made.upper[:, None])
        return origins, 0, tuple(notice.message for notice in made.notices)

    def _roll(self, raw: RawFrame, file: ForecastFile) -> tuple[TimeArray, int, tuple[str, ...]]:
        """Forecast from many rows, as evaluation does."""
        options, manifest = self.job.options, self.bundle.manifest
        first_row = 0
        if options.since:
            since, _ = read_times([options.since], lambda row: "since")
            first_row = int(np.searchsorted(raw.time, since[0]))
        origins: list[TimeArray] = []
        skipped = 0
        for part in roll(
            self.bundle,
            raw,
            self.intervals.get(station_of(self.bundle, raw.series), ()),
            options.levels,
            every=options.every,
            first_row=first_row,
        ):
            skipped += part.skipped
            if len(part.origins):
                origins.append(raw.time[part.origins])
                file.write(
                    origins[-1], *(_first_steps(a, options.horizon) for a in (part.values, part.lower, part.upper))
                )
        if not origins:
            raise TooFewRowsError(
                f"series '{raw.series}' has no {manifest.lookback} rows that are {manifest.step_s:g} s apart where a "
                "forecast is due: check the distance of the rows and the option --since"
            )
        return np.concatenate(origins), skipped, ()

    def _read(self, item: ForecastItem) -> tuple[RawFrame, str]:
        """All rows of a station, and their time zone."""
        station_of(self.bundle, item.series)  # refuses an unknown one before anything is read
        settings = self.job.settings
        data = settings.data.model_copy(update={"series_by": "file"})  # stations are already told apart
        parts: list[tuple[str, RawFrame]] = []
        zones = set()
        for file in item.files:
            content = read_source(file.uri, settings.storage)
            if hashlib.sha256(content).hexdigest() != file.sha256:
                raise IntegrityError(
                    f"{file.shown} changed while it was being read: forecast again when it is complete"
                )
            rows = read_rows(content, file.shown, data, series=item.series)
            parts.append((file.shown, rows.frames[0]))
            zones.add(file.time_zone or rows.time_zone)
        if "" in zones and len(zones) > 1:
            raise DataError(f"series '{item.series}' has files with and without a time zone: write all times alike")
        return concatenate(parts), zones.pop()


def _first_steps(array: FloatArray, horizon: int) -> FloatArray:
    return array[..., :horizon, :]
