from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flts_ray.config import Settings, WindowSettings, canonical_json
from flts_ray.data.addresses import file_name
from flts_ray.data.plan import make_plan
from flts_ray.data.shaping import Job, SeriesOutcome, check_enough_rows, shape_series, split_by_time
from flts_ray.errors import (
    AllMissingError,
    DataError,
    IntegrityError,
    NegativeValueError,
    SplitOrderError,
    TooFewRowsError,
)
from tests.data.reports import raw_frame, report_lines, small_settings, write_report, write_station

pytestmark = pytest.mark.unit


def shape(settings: Settings, staging: Path) -> SeriesOutcome:
    (item,) = make_plan(settings).items
    return shape_series(item, Job(settings=settings, staging=str(staging), lineage={"dataset_id": "id"}))


def test_a_station_becomes_two_files_with_lineage(tmp_path: Path) -> None:
    settings = small_settings(*write_station(tmp_path / "in", "site", train=60, test=20))
    record = shape(settings, tmp_path / "out").record
    assert record is not None
    for split, rows in (("train", 60), ("test", 20)):
        part = getattr(record, split)
        content = (tmp_path / "out" / part.path).read_bytes()
        assert part.sha256 == hashlib.sha256(content).hexdigest()
        assert part.path == f"{split}/site-{part.sha256[:12]}.parquet", "named by its content"
        assert (part.rows, part.bytes) == (rows, len(content))
        table = pq.read_table(tmp_path / "out" / part.path)
        assert table.num_rows == rows
        assert table.column_names == ["time", "raw.down", "raw.up", *record.transform.feature_names]
        assert [str(table.schema.field(name).type) for name in table.column_names[:4]] == [
            "timestamp[ns]",
            "double",
            "double",
            "float",
        ]
        metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
        assert metadata["flts.series"] == "site" and metadata["flts.split"] == split
        assert metadata["flts.dataset_id"] == "id"
        assert metadata["flts.transform"] == canonical_json(record.transform.model_dump(mode="json"))
    assert record.train.time_start == "2018-02-05T00:00:00"


def test_missing_values_stay_missing_where_forecasts_are_scored(tmp_path: Path) -> None:
    lines = ["time,down,up", *report_lines(40)]
    stamp, _, up = lines[35].split(",")
    lines[35] = f"{stamp},,{up}"
    (tmp_path / "site.csv").write_text("\n".join(lines))
    record = shape(small_settings(str(tmp_path / "site.csv")), tmp_path / "out").record
    assert record is not None and (record.train.rows, record.test.rows) == (32, 8)
    table = pq.read_table(tmp_path / "out" / record.test.path)
    assert table.column("raw.down").null_count == 1 and table.column("raw.down")[2].as_py() is None
    assert all(table.column(name).null_count == 0 for name in record.transform.feature_names)


def test_the_transform_never_sees_the_test_rows(tmp_path: Path) -> None:
    first, second = (
        small_settings(
            str(write_report(tmp_path / "site.csv", 50)),
            str(write_report(tmp_path / f"{seed}_test.csv", 20, start=50, seed=seed)),
        )
        for seed in (1, 2)
    )
    records = [shape(settings, tmp_path / "out").record for settings in (first, second)]
    assert records[0] is not None and records[1] is not None
    assert records[0].transform == records[1].transform
    assert records[0].train.sha256 != "" and records[0].test.sha256 != records[1].test.sha256


def test_head_of_train_and_later_test_are_two_segments(tmp_path: Path) -> None:
    settings = small_settings(
        *write_station(tmp_path, "site"), sampling={"train_rows": 30, "test_rows": 12, "strategy": "head"}
    )
    record = shape(settings, tmp_path / "out").record
    assert record is not None and (record.train.rows, record.test.rows) == (30, 12)
    assert record.train.sampling.model_dump() == {
        "strategy": "head",
        "requested": 30,
        "source_rows": 200,
        "kept_rows": 30,
        "seed": 42,
        "first_row": 0,
    }
    assert record.train.time_end < record.test.time_start


def refuse(tmp_path: Path, settings: Settings, error: type[DataError], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        shape(settings, tmp_path / "out")
    assert type(caught.value) is error
    assert not (tmp_path / "out").exists(), "nothing is written for a station that is refused"


def test_test_rows_before_train_rows_are_refused(tmp_path: Path) -> None:
    train, test = write_station(tmp_path, "site")
    refuse(tmp_path, small_settings(test, train), SplitOrderError, "start at 2018-02-05T00:00:00")


def test_a_single_row_is_a_reason_to_drop_the_station(tmp_path: Path) -> None:
    outcome = shape(small_settings(*write_station(tmp_path, "site"), sampling={"train_rows": 1}), tmp_path / "out")
    assert outcome.record is None
    assert outcome.error == "TooFewRowsError"
    assert "it has 1 train row" in outcome.reason


def test_rows_that_fill_no_window_of_any_series_are_refused() -> None:
    windows = WindowSettings(lookback=10, horizon=1)
    with pytest.raises(TooFewRowsError, match=r"'site' has 10 train rows.* needs 11: give"):
        check_enough_rows({"site": 10}, windows)
    with pytest.raises(TooFewRowsError, match=r"'b' has 9 .* needs 11 and no series has more: give"):
        check_enough_rows({"a": 3, "b": 9}, windows)
    check_enough_rows({"a": 3, "b": 11}, windows)


def test_negative_values_on_a_log_scale_are_refused_by_name(tmp_path: Path) -> None:
    path = write_report(tmp_path / "site.csv", 40)
    path.write_text(path.read_text().replace("00:10:00,", "00:10:00,-"))
    refuse(tmp_path, small_settings(str(path)), NegativeValueError, "series 'site'.*'down'.*negative")


def test_a_source_that_changed_since_it_was_hashed_is_refused(tmp_path: Path) -> None:
    settings = small_settings(*write_station(tmp_path, "site"))
    (item,) = make_plan(settings).items
    write_report(tmp_path / "site.csv", 190)
    with pytest.raises(IntegrityError, match="changed while it was being read"):
        shape_series(item, Job(settings=settings, staging=str(tmp_path / "out"), lineage={}))


@pytest.mark.parametrize("empty_share", [1.0, 0.6])
def test_columns_with_too_little_are_a_reason_to_drop_the_station(tmp_path: Path, empty_share: float) -> None:
    lines = report_lines(100)
    emptied = [line.rsplit(",", 1)[0] + "," for line in lines[: round(100 * empty_share)]]
    (tmp_path / "site.csv").write_text("\n".join(["time,down,up", *emptied, *lines[len(emptied) :]]))
    settings = small_settings(str(tmp_path / "site.csv"), data={"max_missing_fraction": 0.5})
    outcome = shape(settings, tmp_path / "out")
    assert outcome.record is None and "'up'" in outcome.reason
    assert outcome.error == (AllMissingError if empty_share == 1.0 else DataError).__name__
    if empty_share < 1.0:
        assert "75.0%" in outcome.reason and "50.0%" in outcome.reason


@given(st.integers(2, 300), st.floats(0.01, 0.99))
def test_splitting_by_time_loses_no_row(rows: int, fraction: float) -> None:
    frame = raw_frame(np.arange(rows))
    if rows - max(1, round(fraction * rows)) < 1:
        with pytest.raises(TooFewRowsError):
            split_by_time(frame, fraction)
        return
    train, test = split_by_time(frame, fraction)
    assert [*train.values[:, 0], *test.values[:, 0]] == list(range(rows))
    assert len(test) == max(1, round(fraction * rows))


@given(st.text(min_size=1, max_size=150), st.text(min_size=1, max_size=150))
def test_file_names_are_safe_and_distinct(first: str, second: str) -> None:
    name = file_name(first)
    assert "/" not in name and name not in {".", ".."} and len(name) <= 100 and name.isascii()
    assert (first == second) == (name == file_name(second))
