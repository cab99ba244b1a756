from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flts_ray.config import StorageSettings
from flts_ray.data import storage_backends
from flts_ray.data.storage import Store, expand, read_source, source_digest
from flts_ray.errors import SourceNotFoundError, StorageError
from tests.services import S3Server

SETTINGS = StorageSettings()
unit = pytest.mark.unit


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture(params=[pytest.param("local", marks=pytest.mark.unit), pytest.param("s3", marks=pytest.mark.service)])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A local store and one on a real S3 server: both must behave the same."""
    if request.param == "local":
        return Store(str(tmp_path / "store"))
    server: S3Server = request.getfixturevalue("s3_server")
    server.make_bucket("storage-tests")
    return Store(f"s3://storage-tests/{tmp_path.name}", server.settings())


def test_what_is_written_is_read_listed_moved_and_deleted(any_store: Store) -> None:
    store = any_store
    assert store.list() == [] and not store.exists("a/b.txt")
    store.write_bytes("a/b.txt", b"one")
    store.write_bytes("a/b.txt", b"three")
    store.write_bytes("a/c d+e.txt", b"")
    store.write_bytes("ab/x", b"x")
    assert store.read_bytes("a/b.txt") == b"three"
    assert store.size("a/b.txt") == 5 and store.exists("a/b.txt")
    assert not store.exists("a"), "a folder is no file"
    assert store.list("a") == ["a/b.txt", "a/c d+e.txt"], "a prefix is a folder, not the start of a name"
    assert store.list() == ["a/b.txt", "a/c d+e.txt", "ab/x"]
    assert store.child("a").read_bytes("b.txt") == b"three"
    store.move("a/b.txt", "z/b.txt")
    assert store.list() == ["a/c d+e.txt", "ab/x", "z/b.txt"]
    store.delete("a")
    store.delete("nothing/here")
    store.delete("ab/x")
    assert store.list() == ["z/b.txt"]
    assert pickle.loads(pickle.dumps(store)).read_bytes("z/b.txt") == b"three"  # noqa: S301 - our own bytes


def test_what_is_missing_is_named(any_store: Store) -> None:
    with pytest.raises(StorageError, match=r"no/such\.txt: it does not exist"):
        any_store.read_bytes("no/such.txt")
    with pytest.raises(StorageError, match="does not exist"):
        any_store.size("no/such.txt")
    with pytest.raises(StorageError, match="does not exist"):
        any_store.move("no/such.txt", "other")
    with pytest.raises(SourceNotFoundError, match=r"no/such\.csv"):
        read_source(any_store.uri_of("no/such.csv"), any_store.settings)


def test_sources_are_found_by_file_folder_and_glob(any_store: Store) -> None:
    for name in ("b.csv", "a.csv", "a_test.csv", "notes.txt", ".hidden.csv", "deeper/c.parquet"):
        any_store.write_bytes(f"in/{name}", name.encode())
    uri, settings = any_store.uri_of("in"), any_store.settings

    def names(*patterns: str) -> list[str]:
        return [found.removeprefix(uri + "/") for found in expand([f"{uri}{p}" for p in patterns], settings)]

    assert names("/b.csv") == ["b.csv"]
    assert names("") == names("/") == ["a.csv", "a_test.csv", "b.csv"]
    assert names("/*_test.csv") == ["a_test.csv"]
    assert names("/deeper", "/b.csv", "/*.csv") == ["deeper/c.parquet", "b.csv", "a.csv", "a_test.csv"]
    for pattern in ("/nope.csv", "/nope", "/n*.parquet"):
        with pytest.raises(SourceNotFoundError, match="nope" if "nope" in pattern else "parquet"):
            names(pattern)
    digest, size = source_digest(f"{uri}/b.csv", settings)
    assert (digest, size) == (hashlib.sha256(b"b.csv").hexdigest(), 5)
    assert read_source(f"{uri}/b.csv", settings) == b"b.csv"


def test_what_starts_with_a_dot_is_listed_on_request(any_store: Store) -> None:
    for path in ("a/x", "a/.unfinished-1/y", ".locks/z"):
        any_store.write_bytes(path, b"")
    assert any_store.list() == ["a/x"]
    assert any_store.list("a/.unfinished-1") == ["a/.unfinished-1/y"]
    assert any_store.list(hidden=True) == [".locks/z", "a/.unfinished-1/y", "a/x"]


def test_what_exists_is_not_created_again(any_store: Store) -> None:
    assert any_store.create("a/x", b"one")
    assert not any_store.create("a/x", b"two")
    assert not any_store.create("a/x", b"one"), "the same bytes are no success either: somebody else wrote them"
    assert any_store.read_bytes("a/x") == b"one"
    assert any_store.list(hidden=True) == ["a/x"] and any_store.temporary_files(-1) == ()


def test_exactly_one_of_many_writers_creates(any_store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: any_store.create("claim", str(i).encode()), range(8)))
    assert won.count(True) == 1
    assert any_store.read_bytes("claim") == str(won.index(True)).encode()


def test_a_prepared_store_takes_files(any_store: Store) -> None:
    any_store.prepare()
    any_store.prepare()
    any_store.wait_until_up()
    any_store.write_bytes("x", b"full")
    assert any_store.read_bytes("x") == b"full"


names_that_escape = st.sampled_from(
    ["../x", "a/../../x", "/etc/passwd", "a//b", "", ".", "..", "a/.", "s3://b/x", "a\\..\\b", "a\0b"]
)


@unit
@given(names_that_escape)
def test_no_path_leaves_the_store(path: str) -> None:
    store = Store("/nowhere/at/all")
    writes = (lambda p: store.write_bytes(p, b""), lambda p: store.create(p, b""), lambda p: store.move("a", p))
    for action in (store.read_bytes, store.exists, store.delete, *writes):
        with pytest.raises(StorageError, match="not a path within a store"):
            action(path)


@unit
def test_an_interrupted_write_leaves_the_old_content(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write_bytes("x", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(storage_backends.os, "fsync", full)
        with pytest.raises(StorageError, match="No space left on device"):
            store.write_bytes("x", b"new content")
    assert store.read_bytes("x") == b"old"
    assert [p.name for p in Path(store.uri).iterdir()] == ["x"], "no temporary file stays behind"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk takes root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.unit
@pytest.mark.fault
def test_a_full_disk_keeps_what_it_has(small_disk: Path) -> None:
    store = Store(str(small_disk))
    store.write_bytes("claim", b"old")
    for write in (lambda: store.write_bytes("claim", bytes(1 << 17)), lambda: store.create("new", bytes(1 << 17))):
        with pytest.raises(StorageError, match=r"disk/(claim|new) \(No space left on device\): check the disk"):
            write()
    assert store.read_bytes("claim") == b"old"
    assert [p.name for p in small_disk.iterdir()] == ["claim"]


@unit
def test_what_killed_writers_left_is_found_when_it_is_old(store: Store) -> None:
    store.write_bytes("a/x", b"")
    left = Path(store.uri) / "a" / ".x.0123.tmp"
    left.write_bytes(b"half")
    assert store.list(hidden=True) == ["a/x"]
    assert store.temporary_files(3600) == ()
    os.utime(left, (time.time() - 4000,) * 2)
    assert store.temporary_files(3600) == ("a/.x.0123.tmp",)


@unit
def test_a_refusing_disk_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(str(tmp_path / "file"))
    for action in (lambda: store.write_bytes("below", b""), lambda: store.create("below", b""), store.prepare):
        with pytest.raises(StorageError, match=r"/file(/below)? \((Not a directory|File exists)\): check the disk"):
            action()


@unit
def test_relative_folders_mean_the_same_after_a_change_of_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store("data")
    monkeypatch.chdir("/")
    assert store.uri == str(tmp_path / "data")


@unit
@pytest.mark.parametrize("uri", ["", "s3://", "gs://bucket/x", "http://host/x"])
def test_unknown_addresses_are_refused(uri: str) -> None:
    with pytest.raises(StorageError):
        Store(uri)
