"""From the source files of one station to its two stored files: the work of one task, without Ray."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from flts_ray.config import DataSettings, Section, Settings, WindowSettings, canonical_json
from flts_ray.data.addresses import file_name
from flts_ray.data.claims import SeriesRecord, Split, SplitRecord
from flts_ray.data.frame import RawFrame, SeriesFrame
from flts_ray.data.parquet import encode, write_table
from flts_ray.data.quality import most_frequent_step, regime_shifts, split_quality
from flts_ray.data.sampling import SamplingEvidence, sample
from flts_ray.data.source import concatenate, read_rows, stamp
from flts_ray.data.storage import Store, read_source
from flts_ray.data.transform import Transform
from flts_ray.errors import AllMissingError, DataError, IntegrityError, SplitOrderError, TooFewRowsError
from flts_ray.redaction import redacted

MIN_TRAIN_ROWS = 2
"""Of a series; fewer have no step."""


class SourceFile(Section):
    """An input file of known content.

    Attributes:
        uri: Where it lies.
        shown: What messages call it.
        sha256: Digest of its bytes.
        bytes: Its size.
        encoding: Text encoding, once read.
        time_zone: Zone of its timestamps, once read.
    """

    uri: str
    shown: str
    sha256: str
    bytes: int
    encoding: str = ""
    time_zone: str = ""


class SeriesItem(Section):
    """The files of one station; without test files the last rows of train are held out."""

    series: str
    train: tuple[SourceFile, ...]
    test: tuple[SourceFile, ...]


class FileItem(Section):
    """One file that holds several stations."""

    split: Split
    file: SourceFile


class Job(Section):
    """What all tasks of one preprocessing share.

    Attributes:
        settings: The configuration.
        staging: Folder or s3:// prefix for unfinished output.
        lineage: Identity of the dataset, written into every file.
    """

    settings: Settings
    staging: str
    lineage: dict[str, str]

    def store(self) -> Store:
        """The staging store."""
        return Store(self.staging, self.settings.storage)


class SeriesOutcome(Section):
    """What became of one station: a record of what was stored, or why it was dropped.

    Attributes:
        series: The station.
        record: What was stored, paths relative to staging and, later, to the claim.
        reason: Why it was dropped, empty if it was not.
        error: Type of the error that this would be if no station were left.
        files: The source files with what was found out in reading them.
    """

    series: str
    record: SeriesRecord | None = None
    reason: str = ""
    error: str = ""
    files: tuple[FileItem, ...] = ()


class FileOutcome(Section):
    """The stations of one file, each now in a file of its own."""

    split: Split
    file: SourceFile
    parts: dict[str, SourceFile]


def split_stations(item: FileItem, job: Job) -> FileOutcome:
    """Cut a file with several stations into one file a station, in staging."""
    data = job.settings.data
    rows = read_rows(_content(item.file, job.settings), item.file.uri, data)
    parts = {}
    for frame in rows.frames:
        columns = {name: pa.array(frame.values[:, i], from_pandas=True) for i, name in enumerate(frame.columns)}
        content = write_table(pa.table({data.time_column: pa.array(frame.time), **columns}))
        digest = hashlib.sha256(content).hexdigest()
        path = f"parts/{item.split}/{file_name(frame.series)}/{item.file.sha256[:16]}.parquet"
        job.store().write_bytes(path, content)
        shown = f"{item.file.shown}, station '{frame.series}'"
        parts[frame.series] = SourceFile(uri=job.store().uri_of(path), shown=shown, sha256=digest, bytes=len(content))
    read = item.file.model_copy(update={"encoding": rows.encoding, "time_zone": rows.time_zone})
    return FileOutcome(split=item.split, file=read, parts=parts)


def shape_series(item: SeriesItem, job: Job) -> SeriesOutcome:
    """Read, check, sample, transform and store one station.

    The transform is fitted on the train rows kept, and applied to train and test in one go so that the first test
    rows have their history.

    Raises:
        DataError: Its subclasses, for whatever makes the source unusable.
        IntegrityError: If a source changed since it was hashed.
        StorageError: If staging cannot be written.
    """
    settings = job.settings
    train, train_files = _read(item.series, item.train, "train", settings)
    if item.test:
        test, test_files = _read(item.series, item.test, "test", settings)
        check_split_order(train, test)
    else:
        (train, test), test_files = split_by_time(train, settings.data.test_fraction), ()
    files = (*train_files, *test_files)
    empty = _all_missing(train, "train") or _all_missing(test, "test")
    train, train_evidence = sample(train, settings.sampling.train_rows, settings.sampling)
    test, test_evidence = sample(test, settings.sampling.test_rows, settings.sampling)
    empty = empty or _all_missing(train, "sampled train")
    few = f"it has {len(train)} train row(s), which tell no step" if len(train) < MIN_TRAIN_ROWS else ""
    if reason := empty or few or _too_much_missing(train, settings.data):
        error = AllMissingError if empty else TooFewRowsError if few else DataError
        return SeriesOutcome(series=item.series, reason=reason, error=error.__name__, files=files)

    step_s = settings.data.step_s or most_frequent_step(train.time) or 1.0
    try:
        transform = Transform.fit(train, settings, step_s)
    except DataError as error:
        raise type(error)(f"series '{item.series}': {error}") from error
    both = concatenate([("train", train), ("test", test)])
    frame = transform.apply(both, len(train))
    shifts = regime_shifts(train, test)
    record = SeriesRecord(
        series=item.series,
        transform=transform,
        train=_store(frame, train, "train", transform, train_evidence, job),
        test=_store(frame, test, "test", transform, test_evidence, job),
        shifts=shifts,
        regime_breaks=tuple(shift.column for shift in shifts if shift.broken),
    )
    return SeriesOutcome(series=item.series, record=record, files=files)


def split_by_time(frame: RawFrame, test_fraction: float) -> tuple[RawFrame, RawFrame]:
    """Hold out the last rows: ``round(test_fraction * n)``, at least one.

    Raises:
        TooFewRowsError: If nothing would be left to train on.
    """
    cut = len(frame) - max(1, round(test_fraction * len(frame)))
    if cut < 1:
        raise TooFewRowsError(
            f"series '{frame.series}' has {len(frame)} rows, too few to hold out {test_fraction:g} of them: "
            "give more rows or a test source"
        )
    train, test = (
        RawFrame(series=frame.series, time=frame.time[rows], columns=frame.columns, values=frame.values[rows])
        for rows in (slice(0, cut), slice(cut, None))
    )
    return train, test


def check_split_order(train: RawFrame, test: RawFrame) -> None:
    """Refuse test rows that do not come after all train rows.

    Raises:
        SplitOrderError: Naming both times.
    """
    if test.time[0] <= train.time[-1]:
        raise SplitOrderError(
            f"series '{train.series}': the test rows start at {stamp(test.time[0])}, not after the train rows, which "
            f"end at {stamp(train.time[-1])}: exchange the sources or cut them at one time"
        )


def check_enough_rows(rows: Mapping[str, int], windows: WindowSettings) -> None:
    """Refuse a dataset in which the train rows of no series fill one window. Shorter ones beside it do no harm.

    Args:
        rows: Train rows by series.
        windows: What a window is.

    Raises:
        TooFewRowsError: Naming the longest series and both numbers.
    """
    needed = windows.lookback + windows.horizon
    if rows and max(rows.values()) < needed:
        series = max(rows, key=lambda name: rows[name])
        raise TooFewRowsError(
            f"series '{series}' has {rows[series]} train rows, but one window of lookback {windows.lookback} and "
            f"horizon {windows.horizon} needs {needed}{' and no series has more' if len(rows) > 1 else ''}: give more "
            "rows or shorten the window"
        )


def _content(file: SourceFile, settings: Settings) -> bytes:
    content = read_source(file.uri, settings.storage)
    if (digest := hashlib.sha256(content).hexdigest()) != file.sha256:
        raise IntegrityError(
            f"{redacted(file.shown)} changed while it was being read (digest {digest[:12]} after {file.sha256[:12]}): "
            "preprocess again when it is complete"
        )
    return content


def _read(
    series: str, files: Sequence[SourceFile], split: Split, settings: Settings
) -> tuple[RawFrame, tuple[FileItem, ...]]:
    data = settings.data.model_copy(update={"series_by": "file"})  # stations are already told apart
    parts, read = [], []
    for file in files:
        rows = read_rows(_content(file, settings), file.shown, data, series=series)
        parts.append((file.shown, rows.frames[0]))
        known = file.model_copy(update={"encoding": rows.encoding, "time_zone": rows.time_zone})
        read.append(FileItem(split=split, file=known))
    return concatenate(parts), tuple(read)


def _all_missing(frame: RawFrame, split: str) -> str:
    empty = [name for name, column in zip(frame.columns, frame.values.T, strict=True) if np.isnan(column).all()]
    if not empty:
        return ""
    return (
        f"series '{frame.series}': column '{empty[0]}' has no value in the {split} rows: "
        "mend the source or leave the column out of data.columns"
    )


def _too_much_missing(frame: RawFrame, data: DataSettings) -> str:
    shares = np.isnan(frame.values).mean(axis=0)
    worst = int(shares.argmax())
    if shares[worst] <= data.max_missing_fraction:
        return ""
    return (
        f"series '{frame.series}': column '{frame.columns[worst]}' lacks {shares[worst]:.1%} of its train values, "
        f"more than data.max_missing_fraction ({data.max_missing_fraction:.1%}) allows: mend the source or raise it"
    )


def _store(
    frame: SeriesFrame,
    raw: RawFrame,
    split: Split,
    transform: Transform,
    evidence: SamplingEvidence,
    job: Job,
) -> SplitRecord:
    rows = slice(0, frame.train_rows) if split == "train" else slice(frame.train_rows, None)
    lineage = {
        **job.lineage,
        "series": frame.series,
        "split": split,
        "transform": canonical_json(transform.model_dump(mode="json")),
    }
    content = encode(raw, frame.features[rows], transform.feature_names, lineage)
    digest = hashlib.sha256(content).hexdigest()
    # Named by content too: no writer ever replaces bytes that another claim, or a reader, counts on.
    path = f"{split}/{file_name(frame.series)}-{digest[:12]}.parquet"
    job.store().write_bytes(path, content)
    return SplitRecord(
        path=path,
        rows=len(raw),
        bytes=len(content),
        sha256=digest,
        time_start=stamp(raw.time[0]),
        time_end=stamp(raw.time[-1]),
        sampling=evidence,
        quality=split_quality(raw, transform.step_s),
    )
