from __future__ import annotations

import hashlib
import pickle
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flts_ray.config import StorageSettings
from flts_ray.data import storage_backends
from flts_ray.data.storage import Store, display, expand, open_source, read_source, source_digest
from flts_ray.errors import SourceNotFoundError, StorageError
from tests.services import S3Server, free_ports

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
    with open_source(f"{uri}/b.csv", settings) as stream:
        assert stream.read() == b"b.csv"


names_that_escape = st.sampled_from(
    ["../x", "a/../../x", "/etc/passwd", "a//b", "", ".", "..", "a/.", "s3://b/x", "a\\..\\b", "a\0b"]
)


@unit
@given(names_that_escape)
def test_no_path_leaves_the_store(path: str) -> None:
    store = Store("/nowhere/at/all")
    for action in (store.read_bytes, store.exists, store.delete, lambda p: store.write_bytes(p, b"")):
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


@unit
def test_a_refusing_disk_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file/below"):
        Store(str(tmp_path / "file")).write_bytes("below", b"")


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


@unit
def test_messages_hold_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-key")
    text = display("http://user:password@host/x failed with very-secret-key")
    assert text == "http://***@host/x failed with ***"


@pytest.mark.service
def test_a_closed_port_fails_soon_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-key")
    settings = StorageSettings(endpoint_url=f"http://127.0.0.1:{free_ports(1)[0]}", timeout_s=2)
    start = time.monotonic()
    with pytest.raises(StorageError, match=r"s3://bucket/x/claim\.json") as caught:
        Store("s3://bucket/x", settings).write_bytes("claim.json", b"{}")
    assert time.monotonic() - start < 60, "attempts are bounded"
    assert "very-secret-key" not in str(caught.value)
    with pytest.raises(SourceNotFoundError, match=r"s3://bucket/in\.csv"):
        expand(["s3://bucket/in.csv"], settings)


@pytest.mark.service
def test_wrong_credentials_are_refused_without_showing_them(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret-at-all")
    # Another time-out makes another client: fsspec shares clients of equal settings.
    store = Store("s3://storage-tests/x", s3_server.settings(timeout_s=9.5))
    with pytest.raises(StorageError, match="AWS_") as caught:
        store.write_bytes("x", b"x")
    assert "not-the-secret-at-all" not in str(caught.value)
    assert s3_server.secret_key not in str(caught.value)
