"""A store whose server is down, hangs, breaks off, refuses, or lacks the bucket."""

from __future__ import annotations

import errno
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from http.client import IncompleteRead
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
    SSLError,
)
from pyarrow import fs

from flts_ray.config import StorageSettings
from flts_ray.data.arrow_storage import arrow_place
from flts_ray.data.retries import OutageError, is_transient, persistently
from flts_ray.data.s3 import arrow_patience
from flts_ray.data.storage import Store, expand, read_source, source_digest
from flts_ray.errors import SourceNotFoundError, StorageError
from tests.services import FaultProxy, S3Server, free_ports

unit = pytest.mark.unit


def client_error(status: int, code: str) -> ClientError:
    answer: Any = {"Error": {"Code": code, "Message": "said so"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "PutObject")


def caused(error: OSError, cause: BaseException) -> OSError:
    error.__cause__ = cause
    return error


DOWN = [
    ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
    ConnectionResetError(errno.ECONNRESET, "reset"),
    TimeoutError(),
    OSError(errno.EHOSTUNREACH, "no route"),
    IncompleteRead(b""),
    EndpointConnectionError(endpoint_url="http://x"),
    ConnectionClosedError(endpoint_url="http://x"),
    ReadTimeoutError(endpoint_url="http://x"),
    *(client_error(status, str(status)) for status in (500, 502, 503, 504)),
    caused(OSError(errno.EBUSY, "slow down"), client_error(503, "SlowDown")),
    caused(OSError(errno.EIO, "bad gateway"), client_error(502, "502")),
]
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>reduce your request rate</Message></Error>"
REFUSED = [
    FileNotFoundError(errno.ENOENT, "no such key"),
    PermissionError(errno.EACCES, "denied"),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EROFS, "Read-only file system"),
    NoCredentialsError(),
    SSLError(endpoint_url="https://x", error="certificate"),
    client_error(403, "SignatureDoesNotMatch"),
    caused(FileNotFoundError("no bucket"), client_error(404, "NoSuchBucket")),
    caused(OSError(errno.EINVAL, "condition"), client_error(412, "PreconditionFailed")),
    ValueError("a mistake of the program"),
]


@unit
@pytest.mark.parametrize(("error", "transient"), [*((e, True) for e in DOWN), *((e, False) for e in REFUSED)])
def test_only_what_may_pass_is_tried_again(error: BaseException, transient: bool) -> None:
    assert is_transient(error) is transient


def failing(times: int, error: BaseException) -> Callable[[], str]:
    left = iter([error] * times)

    def call() -> str:
        if (found := next(left, None)) is not None:
            raise found
        return "done"

    return call


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, Any]]:
    return [record.fields for record in caplog.records if record.getMessage() == name]  # type: ignore[attr-defined]


@unit
def test_an_outage_is_told_once_and_its_end_too(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flts_ray.data.retries.FIRST_WAIT_S", 0.01)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-key")
    caplog.set_level(logging.INFO, "flts_ray")
    error = ConnectionRefusedError(errno.ECONNREFUSED, "refused by very-secret-key")
    assert persistently(failing(3, error), place="s3://b/x", settings=StorageSettings()) == "done"
    (began,), (ended,) = events(caplog, "storage_retry"), events(caplog, "storage_recovered")
    assert began["place"] == "s3://b/x" and began["reason"] == "refused by ***"
    assert ended["seconds"] > 0


@unit
def test_a_refusal_is_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(PermissionError):
        persistently(failing(1, PermissionError()), place="x", settings=StorageSettings())
    assert events(caplog, "storage_retry") == []


@unit
def test_the_deadline_ends_an_outage() -> None:
    with pytest.raises(OutageError) as caught:
        persistently(failing(99, TimeoutError("silence")), place="x", settings=StorageSettings(deadline_s=0.3))
    assert isinstance(caught.value.__cause__, TimeoutError)


@unit
def test_a_long_transfer_that_breaks_off_is_tried_again() -> None:
    """The clock starts when the store fails, not when the work begins."""
    calls = 0

    def call() -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            time.sleep(0.35)
            raise ConnectionResetError
        return "done"

    settings = StorageSettings(timeout_s=0.02, deadline_s=0.6)
    assert persistently(call, place="x", settings=settings) == "done"


@unit
@pytest.mark.parametrize(("timeout_s", "deadline_s"), [(30, 120), (30, 20), (1, 120), (30, 1), (5, 600)])
def test_all_attempts_of_pyarrow_fit_into_the_deadline(timeout_s: float, deadline_s: float) -> None:
    attempts, each_s = arrow_patience(StorageSettings(timeout_s=timeout_s, deadline_s=deadline_s))
    waits = sum(min(2.0**n, 20) / 2 for n in range(attempts - 1))
    assert 1 <= attempts <= 10 and each_s <= timeout_s
    assert attempts * each_s + waits <= deadline_s
    if deadline_s >= 120:
        assert waits > 20, "a server may be away for 20 s"


# --- on a real server ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    s3_server.make_bucket("faults")
    with FaultProxy("127.0.0.1", s3_server.port) as proxy:
        yield proxy


@pytest.fixture
def store(proxy: FaultProxy, tmp_path: Path) -> Iterator[Store]:
    settings = StorageSettings(endpoint_url=proxy.url, timeout_s=1, deadline_s=2)
    yield Store(f"s3://faults/{tmp_path.name}", settings)
    proxy.set("pass")


def patient(store: Store) -> Store:
    return Store(store.uri, store.settings.model_copy(update={"deadline_s": 30.0}))


fault = [pytest.mark.service, pytest.mark.fault]
FAULTS = [
    pytest.param({"mode": "refuse"}, id="refuse"),
    pytest.param({"mode": "hang"}, id="hang"),
    pytest.param({"mode": "error", "status": 503}, id="503"),
    pytest.param({"mode": "error", "status": 502, "body": b"<html>bad gateway</html>"}, id="502"),
    pytest.param({"mode": "cut", "after_bytes": 40}, id="cut"),
]


def healed_when_asked(proxy: FaultProxy, fault: dict[str, Any]) -> threading.Thread:
    """Break the server, and mend it in the background after it was asked twice (or, refusing, soon after)."""
    proxy.set(**fault)
    seen = proxy.requests

    def heal() -> None:
        until = time.monotonic() + (0.5 if fault["mode"] == "refuse" else 20)
        while proxy.requests < seen + 2 and time.monotonic() < until:
            time.sleep(0.02)
        proxy.set("pass")

    thread = threading.Thread(target=heal)
    thread.start()
    return thread


@pytest.mark.service
@pytest.mark.fault
@pytest.mark.parametrize("fault", FAULTS)
def test_every_operation_survives_an_outage(
    store: Store, proxy: FaultProxy, fault: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flts_ray")
    store = patient(store)
    data = bytes(range(256)) * 40
    store.write_bytes("a", data)
    uri = store.uri_of("a")
    operations: list[tuple[Callable[[], object], object]] = [
        (lambda: store.read_bytes("a"), data),
        (lambda: store.write_bytes("b", data), None),
        (lambda: store.create("c", data), True),
        (lambda: store.move("b", "d"), None),
        (store.list, ["a", "c", "d"]),
        (lambda: source_digest(uri, store.settings), (hashlib.sha256(data).hexdigest(), len(data))),
        (lambda: expand([uri], store.settings), (uri,)),
        (lambda: store.delete("c"), None),
    ]
    if fault != {"mode": "error", "status": 503}:  # the rest goes the same way
        operations = operations[:4]
    for operation, expected in operations:
        healing = healed_when_asked(proxy, fault)
        assert operation() == expected
        healing.join()
    assert store.read_bytes("d") == data
    assert len(events(caplog, "storage_retry")) == len(events(caplog, "storage_recovered")) >= len(operations)


@pytest.mark.service
@pytest.mark.fault
@pytest.mark.parametrize("fault", FAULTS[:3])
def test_a_store_that_stays_down_is_given_up_with_a_reason(
    store: Store, proxy: FaultProxy, fault: dict[str, Any], s3_server: S3Server
) -> None:
    proxy.set(**fault)
    found = rf"could not be reached for \d+\.\d s .*{proxy.url} is up"
    if fault["mode"] == "error":
        found = rf"kept failing for \d+\.\d s \(.*{proxy.url} has room and works"
    for operation in (
        lambda: store.write_bytes("x", b"x"),
        lambda: store.wait_until_up(1.0),
        lambda: read_source(store.uri_of("in.csv"), store.settings),
    ):
        with pytest.raises(StorageError, match=found) as caught:
            operation()
        assert type(caught.value) is StorageError and "s3://faults/" in str(caught.value)
        assert s3_server.secret_key not in str(caught.value)


@pytest.mark.service
@pytest.mark.fault
def test_a_write_that_is_cut_off_publishes_nothing(store: Store, proxy: FaultProxy) -> None:
    store.write_bytes("x", b"old")
    proxy.set("cut", after_bytes=20)  # in the middle of "100 Continue": the body is never sent
    for action in (lambda: store.write_bytes("x", b"new" * 1000), lambda: store.create("y", b"new" * 1000)):
        with pytest.raises(StorageError, match="could not be reached"):
            action()
    proxy.set("pass")
    assert store.read_bytes("x") == b"old"
    assert store.list() == ["x"]


@pytest.mark.service
def test_a_large_object_is_written_in_parts(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flts_ray.data.storage_backends.LARGEST_PUT_BYTES", 12 << 20)
    s3_server.make_bucket("faults")
    store, data = Store(f"s3://faults/{tmp_path.name}", s3_server.settings()), bytes(range(256)) * (15 << 12)
    store.write_bytes("x", data)
    assert store.read_bytes("x") == data
    assert store.create("y", data)
    assert not store.create("y", b"other")
    assert not store.create("y", data[::-1])
    assert store.read_bytes("y") == data


@pytest.mark.service
@pytest.mark.fault
def test_pyarrow_gives_up_in_time_and_survives_what_passes(store: Store, proxy: FaultProxy) -> None:
    place, filesystem = arrow_place(store)
    proxy.set("hang")
    with pytest.raises(OSError, match="NETWORK_CONNECTION"):
        filesystem.get_file_info(f"{place}/x")
    place, filesystem = arrow_place(patient(store))
    healing = healed_when_asked(proxy, {"mode": "error", "status": 503, "body": SLOW_DOWN})
    with filesystem.open_output_stream(f"{place}/x") as stream:
        stream.write(b"whole")
    healing.join()
    assert store.read_bytes("x") == b"whole"
    assert filesystem.get_file_info(f"{place}/x").type == fs.FileType.File


@pytest.mark.service
@pytest.mark.fault
def test_a_slow_store_is_no_outage(store: Store, proxy: FaultProxy, caplog: pytest.LogCaptureFixture) -> None:
    proxy.set("slow", delay_s=0.3)
    store.write_bytes("x", b"x")
    assert store.read_bytes("x") == b"x"
    assert events(caplog, "storage_retry") == []


@pytest.mark.service
def test_a_closed_port_is_infrastructure_and_a_missing_file_is_input(
    s3_server: S3Server, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = StorageSettings(endpoint_url=f"http://127.0.0.1:{free_ports(1)[0]}", timeout_s=2, deadline_s=0.5)
    with pytest.raises(StorageError, match=r"s3://bucket/in\.csv could not be reached"):
        expand(["s3://bucket/in.csv"], settings)
    for uri in (store.uri_of("in.csv"), "s3://no-such-bucket/in.csv"):
        with pytest.raises(SourceNotFoundError, match=r"in\.csv"):
            expand([uri], store.settings)


@pytest.mark.service
@pytest.mark.parametrize("what", ["unknown key", "wrong secret", "no rights", "nothing at all"])
def test_refused_credentials_are_named_at_once_and_not_shown(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    key, secret = s3_server.access_key, s3_server.secret_key
    key, secret = {
        "unknown key": ("not-a-key-at-all", secret),
        "wrong secret": (key, "not-the-secret-at-all"),
        "no rights": s3_server.rightless,
        "nothing at all": ("", ""),
    }[what]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    # Another time-out makes another client: fsspec shares clients of equal settings.
    store = Store("s3://storage-tests/x", s3_server.settings(timeout_s=9 + len(what) / 100))
    for action in (store.prepare, lambda: store.write_bytes("x", b"x"), lambda: store.create("x", b"x")):
        with pytest.raises(StorageError, match=r"s3://storage-tests/x.*AWS_ACCESS_KEY_ID") as caught:
            action()
        for text in (key, secret, s3_server.secret_key):
            assert not text or text not in str(caught.value)
    with pytest.raises(SourceNotFoundError, match=r"in\.csv"):
        read_source("s3://storage-tests/in.csv", store.settings)
    assert events(caplog, "storage_retry") == []


@pytest.mark.service
def test_a_missing_bucket_is_named_or_made_but_never_by_accident(s3_server: S3Server) -> None:
    settings = s3_server.settings()
    typo = Store("s3://no-such-bucket/store", settings)
    for action in (typo.prepare, typo.list, lambda: typo.exists("x"), lambda: typo.read_bytes("x")):
        with pytest.raises(StorageError, match=r"the bucket 'no-such-bucket' does not exist.*storage\.create_bucket"):
            action()
    assert "no-such-bucket" not in s3_server.buckets()
    allowed = Store("s3://made-on-request/store", settings.model_copy(update={"create_bucket": True}))
    allowed.prepare()
    assert "made-on-request" in s3_server.buckets()
    allowed.prepare()
