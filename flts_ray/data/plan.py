"""What preprocessing is asked to do: which files, of which stations, with which content."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from flts_ray.config import Section, Settings
from flts_ray.data.claims import SourceRecord, Split, data_digest, dataset_id_of
from flts_ray.data.shaping import FileItem, SeriesItem, SourceFile
from flts_ray.data.source import station_name
from flts_ray.data.storage import expand, source_digest
from flts_ray.errors import ConfigError, DataError
from flts_ray.redaction import redacted

ALL_STATIONS = "all"
"""Name of the one series when nothing tells stations apart."""


class Plan(Section):
    """The work, and the identity that its result will have.

    Attributes:
        items: The stations and their files; one item with all files if a column is to tell stations apart.
        sources: What the claim records of every file.
        config_hash: Digest of the settings that shape the data.
        data_digest: Digest of the source bytes.
    """

    items: tuple[SeriesItem, ...]
    sources: tuple[SourceRecord, ...]
    config_hash: str
    data_digest: str

    @property
    def dataset_id(self) -> str:
        """Identity of the dataset to be."""
        return dataset_id_of(self.config_hash, self.data_digest)

    def files(self) -> list[FileItem]:
        """Every file with its split."""
        return [
            FileItem(split=split, file=file) for item in self.items for split, group in _splits(item) for file in group
        ]


def make_plan(settings: Settings) -> Plan:
    """Find the files, hash them, and tell stations apart.

    Raises:
        ConfigError: If no source is configured.
        SourceNotFoundError: If a source does not exist or cannot be reached.
        DataError: If train and test files cannot be matched by station.
    """
    data = settings.data
    if not data.train:
        raise ConfigError("data.train names no source: give CSV or Parquet files, a folder or a glob")
    test_uris = expand(data.test, settings.storage) if data.test else ()
    train_uris = [uri for uri in expand(data.train, settings.storage) if uri not in test_uris]
    if not train_uris:
        raise DataError(f"every file of data.train is also in data.test ({redacted(test_uris[0])}): separate them")
    uris = [*train_uris, *test_uris]
    with ThreadPoolExecutor(4) as pool:  # hashing and network reads release the interpreter lock
        digests = list(pool.map(lambda uri: source_digest(uri, settings.storage), uris))
    known = {
        uri: SourceFile(uri=uri, shown=redacted(uri), sha256=digest, bytes=size)
        for uri, (digest, size) in zip(uris, digests, strict=True)
    }
    train, test = [known[uri] for uri in train_uris], [known[uri] for uri in test_uris]
    by_file = data.series_by == "file"
    items = (
        match_files(train, test) if by_file else [SeriesItem(series=ALL_STATIONS, train=tuple(train), test=tuple(test))]
    )
    sources = tuple(
        SourceRecord(
            split=split,
            series=item.series if by_file else "",
            name=file.uri.rsplit("/", 1)[-1],
            bytes=file.bytes,
            sha256=file.sha256,
        )
        for item in items
        for split, group in _splits(item)
        for file in group
    )
    return Plan(
        items=tuple(items), sources=sources, config_hash=settings.config_hash(), data_digest=data_digest(sources)
    )


def match_files(train: list[SourceFile], test: list[SourceFile]) -> list[SeriesItem]:
    """Pair train and test files by station; one of each belong together whatever their names.

    Raises:
        DataError: If two files of a split name one station, or a station lacks a file in one split.
    """
    train_by_name, test_by_name = _by_station(train), _by_station(test)
    if len(train) == len(test) == 1:
        test_by_name = dict(zip(train_by_name, test, strict=True))
    if test:
        check_same_stations(train_by_name, test_by_name)
    return [
        SeriesItem(series=name, train=(train_by_name[name],), test=(test_by_name[name],) if test else ())
        for name in sorted(train_by_name)
    ]


def check_same_stations(train: Iterable[str], test: Iterable[str]) -> None:
    """Refuse a station that only one split knows.

    Raises:
        DataError: Naming it and what there is.
    """
    known, tested = set(train), set(test)
    if alone := sorted(known ^ tested):
        lacking = "test" if alone[0] in known else "train"
        raise DataError(
            f"station '{alone[0]}' has no {lacking} rows (train has {', '.join(sorted(known))}; test has "
            f"{', '.join(sorted(tested))}): name files alike, as in PobleSec.csv and PobleSec_test.csv, or remove it"
        )


def _by_station(files: list[SourceFile]) -> dict[str, SourceFile]:
    found: dict[str, SourceFile] = {}
    for file in files:
        name = station_name(file.uri)
        if name in found:
            raise DataError(
                f"{found[name].shown} and {file.shown} both name the station '{name}' in one split: "
                "put test files into data.test, rename one, or set data.series_by"
            )
        found[name] = file
    return found


def _splits(item: SeriesItem) -> tuple[tuple[Split, tuple[SourceFile, ...]], ...]:
    return ("train", item.train), ("test", item.test)
