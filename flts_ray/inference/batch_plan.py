"""What a batch forecast is asked to do: which rows of which stations, by which model, from which origins."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from flts_ray.config import Section, Settings, canonical_digest
from flts_ray.data.plan import ALL_STATIONS
from flts_ray.data.shaping import FileItem, Job, SourceFile, split_stations
from flts_ray.data.source import station_name
from flts_ray.data.storage import Store, expand, source_digest
from flts_ray.models.bundle import MANIFEST_FILE, WEIGHTS_FILE, Bundle
from flts_ray.redaction import redacted

FORMAT = 1
"""Changes whenever the same model, rows and options would give another output."""

PARTS = ".parts"
"""Folder of the output in which files of several stations are cut into one file a station, for the time of a run."""


class ForecastOptions(Section):
    """What is wanted of every series.

    Attributes:
        horizon: Steps to forecast.
        levels: Nominal coverages of the intervals.
        every: Distance of the origins in rows; 0: the last row of each series is the only origin.
        since: ISO 8601 time of the first row to be forecast, with ``every``; rows before it are history. Empty: all.
        interval_rows: Latest rows by whose outcomes the intervals adapt, without ``every``.
    """

    horizon: int
    levels: tuple[float, ...]
    every: int = 0
    since: str = ""
    interval_rows: int = 0


class ModelRecord(Section):
    """The model of an output.

    Attributes:
        name: Registered model.
        version: Version as text.
        run_id: Tracking run that made it.
        kind: Kind of the forecaster.
        dataset_id: Dataset it was trained on.
        digest: Digest of the bundle.
    """

    name: str
    version: str
    run_id: str
    kind: str
    dataset_id: str
    digest: str


@dataclass(frozen=True, slots=True)
class BundleFiles:
    """The content of a bundle's files, byte by byte: other machines cannot read the folder where it was fetched to."""

    manifest: bytes
    weights: bytes

    def load(self) -> Bundle:
        """The bundle, proved to be whole.

        Raises:
            BundleError: If it is not.
        """
        with tempfile.TemporaryDirectory(prefix="flts-bundle-") as folder:
            Path(folder, MANIFEST_FILE).write_bytes(self.manifest)
            Path(folder, WEIGHTS_FILE).write_bytes(self.weights)
            return Bundle.load(Path(folder))


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A registered model in hand.

    Attributes:
        bundle: As loaded, so known to be whole.
        files: What it was loaded from.
        record: Where it comes from.
    """

    bundle: Bundle
    files: BundleFiles
    record: ModelRecord

    @classmethod
    def read(cls, folder: Path, *, name: str, version: str, run_id: str) -> Model:
        """Load a bundle that was fetched from the registry.

        Raises:
            BundleError: If it is not whole.
        """
        bundle = Bundle.load(folder)
        files = BundleFiles((folder / MANIFEST_FILE).read_bytes(), (folder / WEIGHTS_FILE).read_bytes())
        manifest = bundle.manifest
        record = ModelRecord(
            name=name,
            version=version,
            run_id=run_id,
            kind=manifest.kind,
            dataset_id=manifest.identity.dataset_id,
            digest=manifest.digest,
        )
        return cls(bundle=bundle, files=files, record=record)


class ForecastItem(Section):
    """One station and the files that hold its rows, in any order."""

    series: str
    files: tuple[SourceFile, ...]


class ForecastJob(Section):
    """What the forecasts of all series share.

    Attributes:
        settings: The configuration; ``data.columns`` are those that the model reads.
        output: Folder or s3:// prefix of the result.
        options: What is wanted.
        model: By which model.
    """

    settings: Settings
    output: str
    options: ForecastOptions
    model: ModelRecord

    def store(self) -> Store:
        """Where the result lies."""
        return Store(self.output, self.settings.storage)

    def request(self, files: Sequence[SourceFile]) -> str:
        """Digest of all that the result depends on: model, content of the inputs, options, how they are read."""
        return canonical_digest(
            {
                "format": FORMAT,
                "model": self.model.model_dump(mode="json"),
                "inputs": sorted([file.uri.rsplit("/", 1)[-1], file.sha256] for file in files),
                "options": self.options.model_dump(mode="json"),
                "data": self.settings.data.model_dump(mode="json", exclude={"train", "test", "test_fraction"}),
                "max_filled_rows": self.settings.serve.max_filled_rows,
            }
        )


def make_job(model: Model, output: Store, options: ForecastOptions, settings: Settings) -> ForecastJob:
    """The job, with settings that read the columns of this model."""
    transform = next(iter(model.bundle.manifest.transforms.values()))
    data = settings.data.model_copy(update={"columns": transform.columns, "targets": transform.targets})
    settings = settings.model_copy(update={"data": data})
    return ForecastJob(settings=settings, output=output.uri, options=options, model=model.record)


def find_inputs(patterns: Sequence[str], settings: Settings) -> tuple[SourceFile, ...]:
    """The files that patterns stand for, each with its digest.

    Raises:
        SourceNotFoundError: If one does not exist or cannot be reached.
    """
    uris = expand(patterns, settings.storage)
    with ThreadPoolExecutor(4) as pool:  # hashing and network reads release the interpreter lock
        digests = list(pool.map(lambda uri: source_digest(uri, settings.storage), uris))
    return tuple(
        SourceFile(uri=uri, shown=redacted(uri), sha256=digest, bytes=size)
        for uri, (digest, size) in zip(uris, digests, strict=True)
    )


def by_station(files: Sequence[SourceFile], job: ForecastJob) -> tuple[ForecastItem, ...]:
    """One item a station, sorted by name; files of one station belong together.

    Where a column tells stations apart, every file is first cut into one file a station, below :data:`PARTS` in the
    output: blocks of rows would keep neither stations whole nor rows in order.

    Raises:
        DataError: Its subclasses, if such a file cannot be read.
        StorageError: If the parts cannot be written.
    """
    found: dict[str, list[SourceFile]] = defaultdict(list)
    data = job.settings.data
    if data.series_by == "column":
        shaping = Job(settings=job.settings, staging=job.store().uri_of(PARTS), lineage={})
        for file in files:
            cut = split_stations(FileItem(split="test", file=file), shaping)
            for series, part in cut.parts.items():
                found[series].append(part.model_copy(update={"time_zone": cut.file.time_zone}))
    else:
        for file in files:
            found[station_name(file.uri) if data.series_by == "file" else ALL_STATIONS].append(file)
    return tuple(ForecastItem(series=series, files=tuple(found[series])) for series in sorted(found))
