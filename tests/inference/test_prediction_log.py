from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flts_ray.config import StorageSettings
from flts_ray.config_serving import PredictionLogSettings
from flts_ray.data.frame import RawFrame
from flts_ray.data.storage import Store
from flts_ray.errors import IntegrityError, StorageError
from flts_ray.inference.prediction_log import PredictionLog
from flts_ray.inference.prediction_rows import folder_of, read_segments
from flts_ray.inference.queries import Forecast, Query
from tests.services import S3Server

unit = pytest.mark.unit

ORIGIN = np.datetime64("2018-03-01T12:00:00", "ns")
STEP = np.timedelta64(120, "s")


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def asked(*, rows: int = 5, columns: tuple[str, ...] = ("down", "up"), last: tuple[float, ...] = (7.0, 8.0)) -> Query:
    values = np.arange(rows * len(columns), dtype=np.float64).reshape(rows, -1)
    values[-1] = last
    history = RawFrame(series="alpha", time=ORIGIN + STEP * np.arange(1 - rows, 1), columns=columns, values=values)
    return Query(history=history, horizon=1, levels=(0.9,), adapt_rows=0)


def answered(horizon: int = 1, *, targets: tuple[str, ...] = ("down",), levels: tuple[float, ...] = (0.9,)) -> Forecast:
    values = np.arange(horizon * len(targets), dtype=np.float64).reshape(horizon, -1) + 10
    spread = np.arange(1.0, len(levels) + 1)[:, None, None]
    return Forecast(
        series="alpha",
        origin=ORIGIN,
        time=ORIGIN + STEP * np.arange(1, horizon + 1),
        values=values,
        lower=values - spread,
        upper=values + spread,
        levels=levels,
        direct_steps=1,
        targets=targets,
        unit="bits",
        step_s=120.0,
    )


@dataclass
class Desk:
    """A log on a local store, its losses, and a switch that takes the store away."""

    log: PredictionLog
    store: Store
    losses: list[int]
    away: threading.Event = field(default_factory=threading.Event)

    def record(self, horizon: int = 1, name: str = "r") -> int:
        self.log.record(name, "flts-alpha", "3", asked(), answered(horizon))
        return horizon

    @property
    def stored(self) -> list[dict[str, Any]]:
        return [row for table in read_segments(self.store, "alpha") for row in table.to_pylist()]


@contextmanager
def desk(folder: Path, monkeypatch: pytest.MonkeyPatch, *, replica: str = "one", **settings: Any) -> Iterator[Desk]:
    store, losses, away = Store(str(folder)), list[int](), threading.Event()
    create = Store.create

    def sometimes(self: Store, path: str, data: bytes) -> bool:
        if away.is_set():
            raise StorageError("the store is away")
        return create(self, path, data)

    monkeypatch.setattr(Store, "create", sometimes)
    chosen = PredictionLogSettings(**{"flush_s": 0.01, **settings})
    log = PredictionLog(store, chosen, identifier="alpha", replica=replica, on_lost=losses.append)
    yield Desk(log, store, losses, away)
    log.close(10)


@unit
def test_a_row_says_what_was_asked_and_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = datetime.now(UTC)
    with desk(tmp_path, monkeypatch, flush_s=60.0) as here:
        query = asked(columns=("down", "up"), last=(7.0, np.nan))
        here.log.record("r1", "flts-alpha", "3", query, answered(2, targets=("down", "up"), levels=(0.9, 0.5)))
    rows = here.stored
    assert [(row["step"], row["target"], row["value"], row["method"]) for row in rows] == [
        (1, "down", 10, "direct"),
        (1, "up", 11, "direct"),
        (2, "down", 12, "recursive"),
        (2, "up", 13, "recursive"),
    ]
    first = rows[0]
    assert (first["request_id"], first["model"], first["version"], first["series"]) == (
        "r1",
        "flts-alpha",
        "3",
        "alpha",
    )
    assert (first["lower"], first["upper"], first["level"]) == (9, 11, 0.9), "of the first level"
    assert [row["time"] for row in rows] == [
        (ORIGIN + STEP * step).astype("datetime64[us]").item() for step in (1, 1, 2, 2)
    ]
    assert before - timedelta(seconds=1) <= first["logged_at"] <= datetime.now(UTC)
    assert [(row["raw.down"], row["raw.up"]) for row in rows] == [(7, None)] + [(None, None)] * 3


@unit
def test_no_interval_is_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with desk(tmp_path, monkeypatch) as here:
        here.log.record("r", "m", "1", asked(), answered(levels=()))
    assert [(row["lower"], row["upper"], row["level"]) for row in here.stored] == [(None, None, None)]


@unit
def test_models_with_other_columns_share_a_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with desk(tmp_path, monkeypatch, flush_s=60.0) as here:
        here.log.record("r1", "m", "1", asked(columns=("down", "up"), last=(1.0, 2.0)), answered())
        here.log.record("r2", "m", "2", asked(columns=("load", "down"), last=(3.0, 4.0)), answered())
    columns = ("raw.down", "raw.up", "raw.load")
    assert [tuple(row[name] for name in columns) for row in here.stored] == [(1, 2, None), (4, None, 3)]


@unit
def test_the_history_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gc
    import weakref

    with desk(tmp_path, monkeypatch, flush_s=60.0) as here:
        query = asked(rows=1000)
        values = weakref.ref(query.history.values)
        here.log.record("r", "m", "1", query, answered())
        del query
        gc.collect()
        assert here.log.pending == 1
        assert values() is None


@unit
def test_a_full_segment_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with desk(tmp_path, monkeypatch, flush_s=3600.0, segment_rows=10) as here:
        for _ in range(9):
            here.record()
        assert here.log.written == 0
        here.record()
        until(lambda: here.log.written == 10)


@unit
def test_segments_are_objects_of_their_own_that_never_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with desk(tmp_path, monkeypatch, replica="a/b c") as one, desk(tmp_path, monkeypatch, replica="two") as two:
        one.record()
        two.record()
        until(lambda: one.log.written == two.log.written == 1)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
        one.record()
        until(lambda: one.log.written == 2)
    today = f"date={datetime.now(UTC):%Y-%m-%d}"
    after = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
    assert len(after) == 3
    assert {path: after[path] for path in before} == before
    assert {path.parent.relative_to(tmp_path).parts for path in after} <= {
        ("predictions", "alpha", today),
        ("predictions", "alpha", f"date={datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}"),
    }
    assert sorted(path.name.split("-")[0] for path in after) == ["a_b_c", "a_b_c", "two"]


@unit
def test_an_outage_loses_the_oldest_and_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="flts_ray"), desk(tmp_path, monkeypatch, buffer_rows=20) as here:
        here.record(name="before")
        until(lambda: here.log.written == 1)
        here.away.set()
        here.record(name="on its way")
        until(lambda: "prediction_log_waits" in caplog.messages)
        for i in range(30):
            here.record(name=f"r{i}")
        assert (here.log.pending, here.log.lost) == (20, 11)
        until(lambda: sum(here.losses) == 11)
        here.away.clear()
        until(lambda: here.log.pending == 0)
        assert (here.log.written, here.log.lost) == (21, 11)
    assert sum(here.losses) == 11
    names = {row["request_id"] for row in here.stored}
    assert names == {"before", "on its way", *(f"r{i}" for i in range(11, 30))}
    told = [m for m in caplog.messages if m.startswith("prediction_log")]
    assert sorted(told) == ["prediction_log_goes_on", "prediction_log_lost_rows", "prediction_log_waits"]


@unit
def test_a_lost_answer_of_the_store_does_not_write_rows_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with desk(tmp_path, monkeypatch) as here:
        create, failures = Store.create, iter([True])

        def answer_lost(self: Store, path: str, data: bytes) -> bool:
            done = create(self, path, data)
            if next(failures, False):
                raise StorageError("no answer")
            return done

        monkeypatch.setattr(Store, "create", answer_lost)
        here.record()
        until(lambda: here.log.written == 1)
    assert len(here.stored) == 1


@unit
def test_a_request_larger_than_the_buffer_is_lost_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with desk(tmp_path, monkeypatch, buffer_rows=100, flush_s=3600.0) as here:
        here.record(horizon=720)
        assert (here.log.pending, here.log.lost) == (0, 720)
        here.record()
    assert (here.log.written, here.log.lost, sum(here.losses)) == (1, 720, 720)


@unit
def test_closing_writes_what_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with desk(tmp_path, monkeypatch, flush_s=3600.0, segment_rows=4) as here:
        for _ in range(10):
            here.record()
        here.log.close(10)
        assert (here.log.written, here.log.pending, here.log.lost) == (10, 0, 0)
        here.record()
        assert (here.log.written, here.log.lost) == (10, 1), "nothing is taken after"
    assert len(list(tmp_path.rglob("*.parquet"))) == 3


@unit
def test_closing_does_not_wait_for_a_store_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = threading.Event()
    with desk(tmp_path, monkeypatch) as here:
        monkeypatch.setattr(Store, "create", lambda self, path, data: held.wait(30))
        here.record()
        here.record()
        here.log.close(0.1)
        assert (here.log.written, here.log.pending, here.log.lost, sum(here.losses)) == (0, 0, 2, 2)
        held.set()
        until(lambda: not here.log._thread.is_alive())
        assert (here.log.written, here.log.lost) == (0, 2)


@unit
def test_what_cannot_be_written_down_is_lost_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with desk(tmp_path, monkeypatch, segment_rows=1, flush_s=3600.0) as here:
        here.record(name="\udc80 is no text")
        until(lambda: here.log.lost == 1)
        here.record()
        until(lambda: here.log.written == 1)


@unit
@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.one_of(st.integers(1, 30), st.sampled_from(["away", "back", "pause"])), max_size=40),
    st.integers(1, 60),
    st.integers(1, 40),
)
def test_every_row_is_written_pending_or_lost(
    tmp_path_factory: pytest.TempPathFactory, story: list[int | str], buffer_rows: int, segment_rows: int
) -> None:
    recorded, folder = 0, tmp_path_factory.mktemp("log")
    chosen = {"buffer_rows": buffer_rows, "segment_rows": segment_rows, "flush_s": 0.001}
    with pytest.MonkeyPatch.context() as patch, desk(folder, patch, **chosen) as here:
        for event in story:
            if event == "pause":
                threading.Event().wait(0.003)
            elif isinstance(event, str):
                (here.away.set if event == "away" else here.away.clear)()
            else:
                recorded += here.record(event)
            assert here.log.pending <= buffer_rows
        here.log.close(10)
        assert here.log.pending == 0
        assert here.log.written + here.log.lost == recorded
        assert sum(here.losses) == here.log.lost
        assert len(here.stored) == here.log.written


@unit
def test_reading_goes_back_to_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with desk(tmp_path, monkeypatch, segment_rows=1) as here:
        for i in range(3):
            here.record(name=f"r{i}")
            until(lambda i=i: here.log.written == i + 1)  # type: ignore[misc]
    now = datetime.now(UTC)
    newest_first = [table["request_id"].to_pylist() for table in read_segments(here.store, "alpha")]
    assert newest_first == [["r2"], ["r1"], ["r0"]]
    assert len(list(read_segments(here.store, "alpha", since=now - timedelta(days=1)))) == 3
    assert list(read_segments(here.store, "alpha", since=now + timedelta(days=1))) == []
    assert sum(len(table) for table in read_segments(here.store, "alpha", since=now)) == 0
    assert list(read_segments(here.store, "beta")) == []


@unit
def test_a_damaged_segment_is_named(tmp_path: Path) -> None:
    Store(str(tmp_path)).write_bytes(f"{folder_of('alpha')}/date=2026-01-01/one-x-1.parquet", b"PAR1 or not")
    with pytest.raises(IntegrityError, match=r"one-x-1\.parquet is not a readable segment"):
        list(read_segments(Store(str(tmp_path)), "alpha"))


@pytest.mark.service
@pytest.mark.timeout(300)
def test_it_goes_on_when_a_real_server_is_back(tmp_path: Path, s3_credentials: dict[str, str]) -> None:
    server = S3Server(
        tmp_path,
        access_key=s3_credentials["AWS_ACCESS_KEY_ID"],
        secret_key=s3_credentials["AWS_SECRET_ACCESS_KEY"],
    )
    server.start()
    try:
        server.make_bucket("flts")
        patience = StorageSettings(endpoint_url=server.endpoint_url, timeout_s=2.0, deadline_s=3.0)
        store, lost = Store("s3://flts/store", patience), list[int]()
        chosen = PredictionLogSettings(flush_s=0.2, segment_rows=10, buffer_rows=40)
        log = PredictionLog(store, chosen, identifier="alpha", replica="one", on_lost=lost.append)

        def record(first: int, rows: int) -> None:
            for i in range(first, first + rows):
                log.record(f"r{i}", "flts-alpha", "1", asked(), answered())

        record(0, 25)
        until(lambda: log.written == 25, timeout_s=60)
        server.stop()
        record(25, 100)
        assert log.pending <= 40
        assert log.lost >= 60
        server.start()
        record(125, 5)
        until(lambda: log.pending == 0, timeout_s=120)
        record(130, 5)
        log.close(60)
        assert log.written + log.lost == 135
        assert sum(lost) == log.lost
        names = [name for table in read_segments(store, "alpha") for name in table["request_id"].to_pylist()]
        assert len(names) == len(set(names)) == log.written
        assert {f"r{i}" for i in (0, 24, 124, 125, 134)} <= set(names), "the newest survive"
    finally:
        server.stop()
