"""The journal: whatever a kill or a disk does to it, what is whole is delivered in order, once, and told about."""

from __future__ import annotations

import errno
import json
import os
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flts_ray.errors import IntegrityError, StorageError, TrackingError
from flts_ray.tracking import journal as module
from flts_ray.tracking.artifacts import keep_bytes
from flts_ray.tracking.delivery import Delivery
from flts_ray.tracking.journal import REJECTED_FILE, SENT_FILE, Journal, JournalWriter, Op
from flts_ray.tracking.replay import Replay
from tests.tracking.fake_store import FakeStore

pytestmark = pytest.mark.unit

Entry = tuple[str, str, dict[str, Any]]


def metrics(run: str, step: int, value: float, name: str = "loss") -> Entry:
    return run, "metrics", {"values": {name: value}, "step": step, "measured_ms": 1000 + step}


def start(run: str, parent: str | None = None, token: str = "t1") -> Entry:
    body = {"id": f"{token}-{run}", "name": run, "tags": {}, "parent": parent, "store": "fake flts"}
    return run, "start", body


def end(run: str, status: str = "FINISHED", token: str = "t1") -> Entry:
    return run, "end", {"status": status, "start": f"{token}-{run}"}


def written(folder: Path, entries: Sequence[Entry]) -> Journal:
    journal = Journal(folder)
    writer = JournalWriter(journal)
    for at_ms, (run, kind, body) in enumerate(entries):
        writer.append(run, kind, at_ms, body)
    writer.close()
    return journal


def delivered(journal: Journal, store: FakeStore, tries: int = 10_000) -> Replay:
    """Deliver everything, as a process would that dies after every failure."""
    replay = Replay(journal, Delivery(store.gateway))
    for _ in range(tries):
        try:
            if not replay.step():
                return replay
        except TrackingError:
            replay = Replay(journal, Delivery(store.gateway))
    raise AssertionError("the replay does not end")


def rejected(journal: Journal) -> list[str]:
    file = journal.folder / REJECTED_FILE
    return [json.loads(line)["reason"] for line in file.read_text().splitlines()] if file.exists() else []


runs = st.sampled_from(["r", "r/gru", "r/lstm"])
entries = st.lists(
    st.one_of(
        st.builds(metrics, runs, st.integers(0, 5), st.floats(-10, 10)),
        st.builds(lambda run, value: (run, "tags", {"tags": {"note": value}}), runs, st.text(max_size=5)),
        st.builds(
            lambda run, name: (run, "params", {"params": {name: f"value of {name}"}}), runs, st.sampled_from("abc")
        ),
    ),
    max_size=15,
)
STARTS = [start("r"), start("r/gru", "r"), start("r/lstm", "r")]
ENDS = [end("r/lstm"), end("r/gru", "FAILED"), end("r")]
ENDED = {"r": "FINISHED", "r/gru": "FAILED", "r/lstm": "FINISHED"}


def contents(store: FakeStore) -> dict[str, Any]:
    skipped = {"mlflow.parentRunId"}
    return {
        run.tags["flts.run_key"]: (
            run.status,
            run.params,
            run.metrics,
            {name: value for name, value in run.tags.items() if name not in skipped},
        )
        for run in store.runs.values()
    }


@given(entries, st.data())
@settings(max_examples=25, deadline=None)
def test_any_cut_leaves_a_prefix_of_what_was_recorded(body: list[Entry], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        journal = written(Path(scratch), [*STARTS, *body, *ENDS])
        whole = [line.text for line in journal.lines()]
        size = data.draw(st.integers(0, journal.size()))
        os.truncate(journal.file, size)
        left = [line.text for line in journal.lines()]
        assert left == whole[: len(left)]
        assert sum(map(len, left)) <= size < sum(map(len, whole[: len(left) + 1])) or left == whole
        JournalWriter(journal).append("r", "tags", 99, {"tags": {"after": "the cut"}})
        assert [line.text for line in journal.lines()][: len(left)] == left
        assert Op.parse(list(journal.lines())[-1].text).body == {"tags": {"after": "the cut"}}


@given(entries, st.integers(0, 2**32), st.sampled_from([0.0, 0.2, 0.5]))
@settings(max_examples=30, deadline=None)
def test_faults_at_random_change_nothing_in_the_end(body: list[Entry], seed: int, share: float) -> None:
    """Calls that fail, answers that get lost, processes that die between delivery and note: the same store results."""
    dice = random.Random(seed)

    def fault(method: str) -> str:
        return dice.choice(["down", "lost"]) if dice.random() < share else ""

    with tempfile.TemporaryDirectory() as scratch:
        journal = written(Path(scratch), [*STARTS, *body, *ENDS])
        plain, faulty = FakeStore(), FakeStore(fault=fault)
        replay = delivered(journal, plain)
        assert replay.cursor.ops == len(list(journal.lines()))
        (journal.folder / SENT_FILE).unlink()
        delivered(journal, faulty)
        assert contents(faulty) == contents(plain)
        assert rejected(journal) == []
        (journal.folder / SENT_FILE).unlink()
        delivered(journal, faulty)
        assert contents(faulty) == contents(plain)


def test_order_is_kept_and_metrics_share_calls(tmp_path: Path) -> None:
    body = [metrics(run, step, step / 2) for step in range(200) for run in ("r/gru", "r/lstm")]
    store = FakeStore()
    delivered(written(tmp_path, [*STARTS, *body, *ENDS]), store)
    assert store.calls.count("log_metrics") == 2
    assert len(store.by_key("r/gru").metrics) == len(store.by_key("r/lstm").metrics) == 200
    assert store.by_key("r/gru").tags["mlflow.parentRunId"] == "id-1"
    assert store.statuses() == ENDED
    last = [call for call in store.calls if call in ("log_metrics", "end_run")]
    assert last == ["log_metrics"] * 2 + ["end_run"] * 3


def test_a_damaged_line_is_put_aside_and_the_rest_delivered(tmp_path: Path) -> None:
    journal = written(tmp_path, [*STARTS, metrics("r", 1, 1.0), metrics("r", 2, 2.0), *ENDS])
    lines = journal.file.read_bytes().splitlines(keepends=True)
    lines[3] = b'{"run": "r", "op": "metr\xff\n'
    lines[4:4] = [b"[]\n", b'{"run": "r", "op": "fly", "at_ms": 1}\n', b'{"run": "r", "op": "tags", "at_ms": 1}\n']
    journal.file.write_bytes(b"".join(lines))
    store = FakeStore()
    replay = delivered(journal, store)
    assert replay.rejected == 4
    assert len(rejected(journal)) == 4
    assert store.by_key("r").metrics == {("loss", 2, 1002, "2.0")}
    assert store.statuses() == ENDED
    assert journal.summary().open_runs == {}


def test_what_the_store_refuses_costs_nothing_else(tmp_path: Path) -> None:
    params = [("r", "params", {"params": {"epochs": "8"}}), ("r", "params", {"params": {"epochs": "9", "seed": "1"}})]
    points = [metrics("r", 1, 1.0), metrics("r", 2, 2.0, name="bad name"), metrics("r", 3, 3.0)]
    journal = written(tmp_path, [start("r"), *params, *points, end("r")])
    store = FakeStore()
    replay = delivered(journal, store)
    assert store.by_key("r").params == {"epochs": "8", "seed": "1"}
    assert {name for name, *_ in store.by_key("r").metrics} == {"loss"}
    assert len(store.by_key("r").metrics) == 2
    assert replay.rejected == len(rejected(journal)) == 2
    assert store.statuses() == {"r": "FINISHED"}


def test_files_must_be_what_was_recorded_and_inside(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    folder = tmp_path / "run"
    folder.mkdir()
    good, altered, gone = (keep_bytes(folder, f"{name}.txt", name.encode()) for name in ("good", "altered", "gone"))
    (folder / altered[0]).write_text("other")
    (folder / gone[0]).unlink()
    outside = ("../secret", "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881")
    files: list[Entry] = [
        ("r", "file", {"to": "plots", "file": kept, "sha256": sha}) for kept, sha in (good, altered, gone, outside)
    ]
    journal = written(folder, [start("r"), *files, end("r")])
    store = FakeStore()
    delivered(journal, store)
    assert store.by_key("r").files == {"plots/good.txt": b"good"}
    reasons = " ".join(rejected(journal))
    assert all(word in reasons for word in ("SHA-256 differs", "cannot be read", "outside the run's folder"))


def test_a_later_attempt_reopens_the_run_and_counts(tmp_path: Path) -> None:
    store = FakeStore()
    delivered(written(tmp_path, [start("r"), end("r", "FAILED")]), store)
    journal = written(tmp_path, [start("r", token="t2"), end("r", token="t2")])
    replay = Replay(journal, Delivery(store.gateway))
    replay.step()
    assert store.statuses() == {"r": "RUNNING"}
    assert store.by_key("r").tags["flts.attempt"] == "2"
    assert not replay.step() or not replay.step()
    assert store.statuses() == {"r": "FINISHED"}


def test_an_old_end_does_not_end_what_others_have_taken_up(tmp_path: Path) -> None:
    store = FakeStore()
    delivered(written(tmp_path / "a", [start("r")]), store)
    delivered(written(tmp_path / "b", [start("r", token="t2")]), store)
    delivered(written(tmp_path / "a", [end("r", "KILLED")]), store)
    assert store.statuses() == {"r": "RUNNING"}
    delivered(written(tmp_path / "b", [end("r", token="t2")]), store)
    assert store.statuses() == {"r": "FINISHED"}


def test_a_run_made_by_a_call_that_came_late_is_removed(tmp_path: Path) -> None:
    store = FakeStore()
    journal = written(tmp_path, [start("r"), metrics("r", 1, 1.0), end("r")])
    replay = Replay(journal, Delivery(store.gateway))
    replay.step()
    twin = store.create_run("1", "r", {"flts.run_key": "r"}, -5)  # older than ours, so a search finds it first
    delivered(journal, store)
    assert twin not in store.runs
    assert len(store.by_key("r").metrics) == 1
    assert store.statuses() == {"r": "FINISHED"}


def test_another_store_is_told_everything(tmp_path: Path) -> None:
    journal = written(tmp_path, [*STARTS, metrics("r", 1, 1.0), *ENDS])
    first, second = FakeStore(store="a"), FakeStore(store="b")
    delivered(journal, first)
    delivered(journal, second)
    assert contents(first) == contents(second)


def test_a_store_that_lost_its_content_is_told_everything_again(tmp_path: Path) -> None:
    journal = written(tmp_path, [*STARTS, metrics("r/gru", 1, 1.0)])
    store = FakeStore()
    replay = delivered(journal, store)
    store.runs.clear()
    written(tmp_path, [metrics("r/gru", 2, 2.0), *ENDS])
    while replay.step():
        pass
    assert len(store.by_key("r/gru").metrics) == 2
    assert store.statuses() == ENDED
    assert rejected(journal) == []


def test_the_same_value_again_is_not_recorded_and_infinity_is_null(tmp_path: Path) -> None:
    written(tmp_path, [metrics("r", 1, 1.0)])
    journal = written(tmp_path, [metrics("r", 1, 1.0), metrics("r", 1, 1.5), metrics("r", 2, 1.0)])
    assert journal.summary().ops == 3
    writer = JournalWriter(journal)
    with pytest.raises(ValueError, match="not JSON compliant"):
        writer.append("r", "tags", 1, {"tags": {"x": float("inf")}})
    writer.close()


def test_settled_is_delivered_and_ended(tmp_path: Path) -> None:
    assert Journal(tmp_path).settled()
    journal = written(tmp_path, [start("r"), start("r/gru", "r"), end("r/gru")])
    assert not journal.settled()
    delivered(journal, FakeStore())
    assert not journal.settled()
    written(tmp_path, [end("r")])
    assert not journal.settled()
    delivered(journal, FakeStore())
    assert journal.settled()
    with journal.file.open("ab") as stream:
        stream.write(b"no json\n")
    journal.save_sent(module.Cursor(5, journal.size(), "fake flts"))
    assert not journal.settled()


def test_a_damaged_note_means_send_again(tmp_path: Path) -> None:
    journal = written(tmp_path, [start("r"), end("r")])
    for text in ("", "7", '{"ops": 1}x', '{"what": 1}', '{"ops": 9, "bytes": 99999, "store": "fake flts"}'):
        (tmp_path / SENT_FILE).write_text(text)
        assert journal.sent().bytes == 0


def test_one_process_at_a_time_delivers(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with journal.held() as first, journal.held() as second:
        assert (first, second) == (True, False)
    with journal.held() as again:
        assert again


def test_a_full_disk_delays_lines_and_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    writer = JournalWriter(journal)
    real = os.write

    def full(file: int, data: bytes) -> int:
        real(file, bytes(data)[:7])
        raise OSError(errno.ENOSPC, "No space left on device")

    writer.append(*STARTS[0][:2], 1, STARTS[0][2])
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "write", full)
        writer.append("r", "tags", 2, {"tags": {"a": "1"}})
        writer.append("r", "tags", 3, {"tags": {"a": "2"}})
        assert not writer.flush()
        assert len(list(journal.lines())) == 1
        patch.setattr(module, "MAX_UNWRITTEN", 2)
        with pytest.raises(StorageError, match="make room"):
            writer.append("r", "tags", 4, {"tags": {"a": "3"}})
    writer.append("r", "tags", 5, {"tags": {"a": "4"}})
    writer.close()
    assert [Op.parse(line.text).at_ms for line in journal.lines()] == [1, 2, 3, 4, 5]


def test_a_line_that_is_no_operation_says_so() -> None:
    with pytest.raises(IntegrityError, match="damaged"):
        Op.parse(b"null\n")
    with pytest.raises(IntegrityError, match="'fly' is unknown"):
        Op.parse(b'{"run": "r", "op": "fly", "at_ms": 1}\n')
