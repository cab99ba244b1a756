from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flts_ray.config import DataSettings, SamplingSettings, Settings
from flts_ray.data.claims import CLAIM_FILE, DATASETS, Claim, Split, read_claim, verify_files, write_claim
from flts_ray.data.dataset import dataset_ids, load_dataset
from flts_ray.data.leftovers import leftovers, lock_of, remove_leftovers, staging_of
from flts_ray.data.locks import hold
from flts_ray.data.plan import make_plan
from flts_ray.data.preprocess import PreprocessResult, preprocess
from flts_ray.data.storage import Store
from flts_ray.data.windows import training_origins
from flts_ray.errors import (
    AllMissingError,
    BusyError,
    ColumnTypeError,
    DataError,
    EmptyInputError,
    FltsError,
    IntegrityError,
    SplitOrderError,
    StorageError,
    TimeOrderError,
    TooFewRowsError,
)
from tests.data.reports import report_lines, small_settings, write_report, write_station
from tests.services import S3Server

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    return tmp_path / "in"


def run(settings: Settings, store: Store, **options: Any) -> PreprocessResult:
    return preprocess(settings, store, code_version="test", **options)


def no_ray() -> None:
    raise AssertionError("Ray must not be needed")


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, Any]]:
    return [record.fields for record in caplog.records if record.getMessage() == name]  # type: ignore[attr-defined]


def datasets_of(store: Store) -> list[str]:
    """Everything below datasets/, hidden files included."""
    return store.list(DATASETS, hidden=True)


def published(claim: Claim) -> list[str]:
    return sorted(f"{DATASETS}/{claim.dataset_id}/{path}" for path in (CLAIM_FILE, *(f.path for f in claim.files())))


def file_of(store: Store, dataset_id: str, split: Split) -> str:
    (record,) = read_claim(store, dataset_id).series
    return f"{DATASETS}/{dataset_id}/{getattr(record, split).path}"


def test_stations_stay_whole_and_apart(store: Store, sources: Path) -> None:
    pairs = [write_station(sources, name, train=60 + i, test=20 + i, seed=i) for i, name in enumerate("cab")]
    trains, tests = zip(*pairs, strict=True)
    result = run(small_settings(trains, tests), store)
    claim = result.claim
    assert not result.reused and not claim.sampled
    assert [(r.series, r.train.rows, r.test.rows) for r in claim.series] == [
        ("a", 61, 21),
        ("b", 62, 22),
        ("c", 60, 20),
    ]
    assert claim.identifier == "a+b+c" and claim.step_s == 120.0
    assert [(c.name, c.unit) for c in claim.columns] == [("down", "bits"), ("up", "bits")]
    assert datasets_of(store) == published(claim), "no staging is left"

    data = load_dataset(store, claim.dataset_id)
    assert dataset_ids(store) == (claim.dataset_id,) == (data.dataset_id,)
    for i, name in enumerate("cab"):
        frame = next(frame for frame in data.frames if frame.series == name)
        lines = [*report_lines(60 + i, seed=i), *report_lines(20 + i, start=60 + i, seed=i + 1)]
        assert frame.observed[:, 0].tolist() == [float(line.split(",")[1]) for line in lines]
        assert (frame.train_rows, frame.test_rows) == (60 + i, 20 + i)
        assert frame.features.shape == (80 + 2 * i, len(data.feature_names))
        assert set(frame.segment.tolist()) == {0}


def test_the_same_inputs_are_recognised_without_ray(
    store: Store, sources: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = small_settings(*write_station(sources, "site"))
    caplog.set_level(logging.INFO)
    first = run(settings, store)
    second = run(settings, store, ensure_ray=no_ray)
    assert second.reused and second.claim == first.claim
    assert [e["dataset_id"] for e in events(caplog, "preprocess_skipped")] == [first.claim.dataset_id]
    assert events(caplog, "preprocess_done")[0]["rows"] == 250

    forced = run(settings.model_copy(update={"run": settings.run.model_copy(update={"force": True})}), store)
    assert not forced.reused and forced.claim.digest() == first.claim.digest()
    with pytest.raises(TooFewRowsError):
        run(small_settings(*write_station(sources, "site"), windows={"lookback": 200}), store, ensure_ray=no_ray)


def test_a_damaged_dataset_is_made_again(store: Store, sources: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = small_settings(*write_station(sources, "site"))
    first = run(settings, store)
    path = file_of(store, first.claim.dataset_id, "test")
    store.write_bytes(path, store.read_bytes(path)[:-1])
    again = run(settings, store)
    assert not again.reused and again.claim.digest() == first.claim.digest()
    assert "bytes where its claim records" in events(caplog, "preprocess_repairing")[0]["reason"]
    verify_files(store, again.claim)


def test_sampling_is_exact_and_reported(store: Store, sources: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    sampling = {"train_rows": 50, "test_rows": 500, "strategy": "tail"}
    claim = run(small_settings(*write_station(sources, "site"), sampling=sampling), store).claim
    record = claim.series[0]
    assert claim.sampled and (record.train.rows, record.test.rows) == (50, 50)
    assert record.train.sampling.first_row == 150 and not record.test.sampling.sampled
    assert [(e["split"], e["before"], e["after"], e["strategy"]) for e in events(caplog, "sampling_applied")] == [
        ("train", 200, 50, "tail"),
        ("test", 50, 50, "tail"),
    ]


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        ("time,down,up\n", EmptyInputError, "no rows"),
        ("time,down,up\n2018-01-01,a,1\n", ColumnTypeError, "'a' in row 1"),
        ("time,down,up\n2018-01-01,1,1\n2018-01-01,1,1\n", TimeOrderError, "row 2"),
        ("time,down,up\n2030-01-01,1,1\n", SplitOrderError, "not after the train rows"),
    ],
)
def test_one_bad_file_refuses_all_and_leaves_nothing(
    store: Store, sources: Path, content: str, error: type[FltsError], words: str
) -> None:
    trains, tests = zip(*(write_station(sources, name) for name in "abcd"), strict=True)
    (sources / "b.csv").write_text(content)
    with pytest.raises(error, match=words) as caught:
        run(small_settings(trains, tests), store)
    assert type(caught.value) is error and "Traceback" not in str(caught.value)
    assert datasets_of(store) == []


def test_a_failed_redo_leaves_the_old_dataset(store: Store, sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = small_settings(*write_station(sources, "site"), run={"force": True})
    first = run(settings, store)
    monkeypatch.setattr("flts_ray.data.preprocess._claim", lambda *_: (_ for _ in ()).throw(DataError("stop")))
    with pytest.raises(DataError, match="stop"):
        run(settings, store)
    assert load_dataset(store, first.claim.dataset_id).claim == first.claim


def test_an_empty_station_is_dropped_with_a_reason(store: Store, sources: Path) -> None:
    trains, tests = zip(*(write_station(sources, name) for name in "ab"), strict=True)
    lines = (sources / "b.csv").read_text().splitlines()
    (sources / "b.csv").write_text("\n".join([lines[0], *(line.rsplit(",", 1)[0] + "," for line in lines[1:])]))
    claim = run(small_settings(trains, tests), store).claim
    assert [record.series for record in claim.series] == ["a"]
    assert [d.series for d in claim.dropped] == ["b"] and "'up' has no value" in claim.dropped[0].reason
    with pytest.raises(AllMissingError, match="'up' has no value"):
        run(small_settings(trains[1], tests[1]), store)


def test_stations_with_other_steps_are_refused(store: Store, sources: Path) -> None:
    write_station(sources, "a")
    path = sources / "b.csv"
    path.write_text("time,down,up\n" + "\n".join(f"2018-01-01 {h:02}:00:00,{h + 1},2" for h in range(24)))
    with pytest.raises(DataError, match=r"every 120 s .* every 3600 s"):
        run(small_settings([str(sources / "a.csv"), str(path)]), store)
    assert datasets_of(store) == []


def by_column(sources: Path) -> tuple[list[str], str]:
    """Two train files and one test file, each with both stations, rows interleaved."""

    def write(name: str, rows: int, start: int) -> str:
        lines = [
            line for s in "ab" for line in report_lines(rows, start=start, seed=ord(s) + start, station=f"site {s}")
        ]
        lines.sort()
        sources.mkdir(exist_ok=True)
        (sources / name).write_text("\n".join(["time,series,down,up", *lines]))
        return str(sources / name)

    return [write("late.csv", 40, 40), write("early.csv", 40, 0)], write("test.csv", 20, 80)


def test_a_column_tells_stations_apart_across_files(store: Store, sources: Path) -> None:
    train, test = by_column(sources)
    settings = small_settings(train, test, data={"series_by": "column"})
    claim = run(settings, store).claim
    data = load_dataset(store, claim.dataset_id)
    assert [frame.series for frame in data.frames] == ["site a", "site b"]
    for frame, station in zip(data.frames, "ab", strict=True):
        expected = [
            float(line.split(",")[1])
            for start, rows in ((0, 40), (40, 40), (80, 20))
            for line in report_lines(rows, start=start, seed=ord(station) + start)
        ]
        assert frame.observed[:, 0].tolist() == expected and frame.train_rows == 80
    assert sorted((s.split, s.name, s.encoding) for s in claim.sources) == [
        ("test", "test.csv", "utf-8"),
        ("train", "early.csv", "utf-8"),
        ("train", "late.csv", "utf-8"),
    ]
    assert datasets_of(store) == published(claim)
    assert run(settings, store, ensure_ray=no_ray).reused


def test_overlapping_files_of_one_station_are_refused(store: Store, sources: Path) -> None:
    first, second = write_report(sources / "x.csv", 40), write_report(sources / "y.csv", 40, start=39)
    with pytest.raises(TimeOrderError, match=r"y\.csv starts at .* before .*x\.csv ends"):
        run(small_settings([str(first), str(second)], data={"series_by": "none"}), store)


def test_without_stations_all_files_are_one(store: Store, sources: Path) -> None:
    first, second = write_report(sources / "x.csv", 40), write_report(sources / "y.csv", 40, start=45)
    claim = run(small_settings([str(second), str(first)], data={"series_by": "none"}), store).claim
    (record,) = claim.series
    assert (record.series, record.train.rows, record.test.rows) == ("all", 64, 16)
    assert (record.train.quality.gaps, record.train.quality.rows_missing) == (1, 5)
    (frame,) = load_dataset(store, claim.dataset_id).frames
    assert set(frame.segment.tolist()) == {0, 1}


# --- two at once, and runs that were cut off --------------------------------------------------------------------


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.service)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return Store(str(tmp_path / "store"))
    server: S3Server = request.getfixturevalue("s3_server")
    server.make_bucket("flts-data")
    return Store(f"s3://flts-data/{tmp_path.name}", server.settings())


@pytest.mark.fault
def test_of_two_runs_at_once_one_works_and_the_other_waits(
    place: Store, sources: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    settings = small_settings(*write_station(sources, "site"), storage=place.settings.model_dump())
    with ThreadPoolExecutor(2) as pool:
        with hold(place, lock_of(make_plan(settings).dataset_id), owner="other", wait_s=0):
            runs = [pool.submit(run, settings, place, owner=f"run{i}") for i in range(2)]
            while len(events(caplog, "preprocess_waiting")) < 2:
                assert not any(r.done() for r in runs)
        results = [r.result() for r in runs]
    assert sorted(result.reused for result in results) == [False, True]
    assert results[0].claim == results[1].claim
    assert {e["holder"].split(" (")[0] for e in events(caplog, "preprocess_waiting")} == {"run other"}
    assert datasets_of(place) == published(results[0].claim)


def test_waiting_ends(store: Store, sources: Path) -> None:
    settings = small_settings(*write_station(sources, "site"), watchdog={"preprocess_deadline_s": 0.1})
    other = hold(store, lock_of(make_plan(settings).dataset_id), owner="other", wait_s=0)
    with other, pytest.raises(BusyError, match="run other"):
        run(settings, store, ensure_ray=no_ray)


class Killed(BaseException):
    """Stands for a SIGKILL: nothing may be cleaned up after it."""


def cut_off(monkeypatch: pytest.MonkeyPatch, name: str, settings: Settings, store: Store) -> None:
    """Run as far as ``name``, a function of the module, and end there as if killed."""

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("flts_ray.data.preprocess._clean_up", lambda *_: None)
        patch.setattr(f"flts_ray.data.preprocess.{name}", die)
        with pytest.raises(Killed):
            run(settings, store)


@pytest.mark.fault
def test_a_run_cut_off_before_its_claim_is_made_up_for(
    place: Store, sources: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    settings = small_settings(*write_station(sources, "site"), storage=place.settings.model_dump())
    dataset_id = make_plan(settings).dataset_id
    for name, left in (("_publish", staging_of(dataset_id)), ("write_claim", f"{DATASETS}/{dataset_id}")):
        cut_off(monkeypatch, name, settings, place)
        assert dataset_ids(place) == (), "no reader sees what is not finished"
        assert leftovers(place) == [left]
    with hold(place, lock_of(dataset_id), owner="other", wait_s=0):
        assert leftovers(place) == remove_leftovers(place) == [], "somebody works on it"
    result = run(settings, place)
    assert not result.reused and datasets_of(place) == published(result.claim)
    assert [e["files"] for e in events(caplog, "leftovers_removed")] == [2, 2]
    verify_files(place, result.claim)
    assert leftovers(place) == []


def test_leftovers_are_removed_on_request(place: Store, sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = small_settings(*write_station(sources, "site"), storage=place.settings.model_dump())
    whole = run(small_settings(*write_station(sources, "other"), storage=place.settings.model_dump()), place).claim
    cut_off(monkeypatch, "_publish", settings, place)
    assert leftovers(place) == remove_leftovers(place) == [staging_of(make_plan(settings).dataset_id)]
    assert remove_leftovers(place) == [] and datasets_of(place) == published(whole)


def test_a_store_that_fails_keeps_what_it_has_for_the_next_run(
    store: Store, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small_settings(*write_station(sources, "site"))

    def down(*_: Any, **__: Any) -> None:
        raise StorageError("down")

    with monkeypatch.context() as patch:
        patch.setattr("flts_ray.data.preprocess.write_claim", down)
        patch.setattr("flts_ray.data.preprocess._clean_up", lambda *_: pytest.fail("that would only take longer"))
        with pytest.raises(StorageError, match="down"):
            run(settings, store)
    claim = run(settings, store).claim
    assert datasets_of(store) == published(claim)


def test_a_redo_touches_no_file_that_a_reader_may_use(
    store: Store, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small_settings(*write_station(sources, "site"), run={"force": True})
    first = run(settings, store).claim
    files = [Path(store.uri_of(file_of(store, first.dataset_id, split))) for split in ("train", "test")]
    before = [file.stat().st_ino for file in files]
    seen = []

    def looking(*arguments: Any, **options: Any) -> Claim:
        verify_files(store, read_claim(store, first.dataset_id))  # the old dataset, whole until the very end
        seen.append(options["replace"])
        return write_claim(*arguments, **options)

    monkeypatch.setattr("flts_ray.data.preprocess.write_claim", looking)
    assert run(settings, store).claim.digest() == first.digest()
    assert seen == [True]
    assert [file.stat().st_ino for file in files] == before


def test_the_loser_of_a_race_takes_the_winners_claim(
    store: Store, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a lock prevents may still happen when a machine stood still for longer than a lease lives."""
    settings = small_settings(*write_station(sources, "site"))
    winner = run(settings, store).claim
    monkeypatch.setattr("flts_ray.data.preprocess._existing", lambda *_: (None, ""))
    result = run(settings, store)
    assert result.claim == winner
    assert datasets_of(store) == published(winner)


# --- what a reader checks --------------------------------------------------------------------------------------


@pytest.fixture
def stored(store: Store, sources: Path) -> str:
    return run(small_settings(*write_station(sources, "site")), store).claim.dataset_id


def test_train_alone_never_opens_a_test_file(store: Store, stored: str) -> None:
    store.delete(f"{DATASETS}/{stored}/test")
    (frame,) = load_dataset(store, stored, test=False).frames
    assert len(frame) == frame.train_rows == 200
    with pytest.raises(IntegrityError, match=r"test/site-\w+\.parquet .* is gone"):
        load_dataset(store, stored)


def test_altered_files_are_refused_with_both_numbers(store: Store, stored: str) -> None:
    path = file_of(store, stored, "train")
    content = store.read_bytes(path)
    store.write_bytes(path, content + b"x")
    with pytest.raises(IntegrityError, match=rf"has {len(content) + 1} bytes where its claim records {len(content)}"):
        load_dataset(store, stored)
    altered = bytearray(content)
    altered[len(altered) // 2] ^= 1
    store.write_bytes(path, bytes(altered))
    with pytest.raises(IntegrityError, match=r"has digest [0-9a-f]{12} where its claim records [0-9a-f]{12}"):
        load_dataset(store, stored)


def test_a_claim_with_another_row_count_is_refused(store: Store, stored: str) -> None:
    path = f"{DATASETS}/{stored}/{CLAIM_FILE}"
    raw = json.loads(store.read_bytes(path))
    raw["series"][0]["train"]["rows"] = 199
    store.write_bytes(path, json.dumps(raw).encode())
    with pytest.raises(IntegrityError, match="has digest"):
        load_dataset(store, stored)


# --- the published data ----------------------------------------------------------------------------------------


def poble_sec(folder: Path, **sections: Any) -> Settings:
    data = DataSettings(train=(str(folder / "PobleSec.csv"),), test=(str(folder / "PobleSec_test.csv"),))
    return Settings(data=data, **sections)


def test_poble_sec(real_data: Path, store: Store) -> None:
    claim = run(poble_sec(real_data), store).claim
    record = claim.series[0]
    assert (record.train.rows, record.test.rows) == (15_927, 3_982)
    assert record.train.quality.missing_cells == 22 and record.test.quality.missing_cells == 0
    assert (record.train.time_start, record.test.time_end) == ("2018-02-05T23:40:00", "2018-03-05T15:16:00")
    assert record.regime_breaks == () and claim.identifier == "PobleSec"
    (frame,) = load_dataset(store, claim.dataset_id, test=False).frames
    assert len(training_origins(frame.segment, 10, 1)) == 15_917
    assert not np.isnan(frame.features).any()


def test_poble_sec_sampled(real_data: Path, store: Store) -> None:
    claim = run(poble_sec(real_data, sampling=SamplingSettings(train_rows=50, test_rows=30)), store).claim
    record = claim.series[0]
    assert claim.sampled
    for split, kept, source in ((record.train, 50, 15_927), (record.test, 30, 3_982)):
        assert (split.rows, split.sampling.kept_rows, split.sampling.source_rows) == (kept, kept, source)
        assert (split.sampling.strategy, split.sampling.first_row) == ("head", 0)


@pytest.mark.service
def test_a_folder_and_a_bucket_give_the_same_claim(s3_server: S3Server, store: Store, sources: Path) -> None:
    train, test = write_station(sources, "site")
    local = run(small_settings(train, test), store)
    s3_server.make_bucket("flts-data")
    bucket = Store("s3://flts-data/preprocess", s3_server.settings())
    for path in (train, test):
        bucket.write_bytes(f"in/{Path(path).name}", Path(path).read_bytes())
    storage = s3_server.settings().model_dump()
    settings = small_settings(bucket.uri_of("in/site.csv"), bucket.uri_of("in/*_test.csv"), storage=storage)
    remote = run(settings, bucket)
    assert remote.claim.dataset_id == local.claim.dataset_id
    assert remote.claim.digest() == local.claim.digest()
    assert run(settings, bucket, ensure_ray=no_ray).reused
    there, here = load_dataset(bucket, remote.claim.dataset_id), load_dataset(store, local.claim.dataset_id)
    np.testing.assert_array_equal(there.frames[0].features, here.frames[0].features)
    assert dataset_ids(bucket) == dataset_ids(store)
    assert datasets_of(bucket) == published(remote.claim)
