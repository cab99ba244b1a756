from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flts_ray.config import DataSettings
from flts_ray.data.source import concatenate, read_rows, station_name
from flts_ray.errors import (
    ColumnTypeError,
    DataError,
    EmptyInputError,
    FltsError,
    MissingColumnError,
    TimeOrderError,
)
from tests.data.reports import raw_frame

pytestmark = pytest.mark.unit

SETTINGS = DataSettings(columns=("down", "up"), targets=("down",))
BY_COLUMN = SETTINGS.model_copy(update={"series_by": "column"})
T = "2018-02-05 23:4"


def read(text: str | bytes, settings: DataSettings = SETTINGS, name: str = "in/site.csv") -> Any:
    content = text.encode() if isinstance(text, str) else text
    return read_rows(content, name, settings, series="site")


def parquet(**columns: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


TIMES = np.array([f"2018-02-05T23:4{i}:00" for i in range(3)], dtype="datetime64[ms]")


def test_csv_is_read_in_the_order_of_the_settings() -> None:
    rows = read(f"up,extra,time,down\n1,x,{T}0:00,2.5\n,y,{T}2:00,-3e2\n")
    (frame,) = rows.frames
    assert (frame.series, frame.columns, rows.encoding, rows.time_zone) == ("site", ("down", "up"), "utf-8", "")
    np.testing.assert_array_equal(frame.values, [[2.5, 1.0], [-300.0, np.nan]])
    assert frame.time.tolist() == np.array(["2018-02-05T23:40", "2018-02-05T23:42"], "datetime64[ns]").tolist()
    assert frame.time.dtype == np.dtype("datetime64[ns]")


def test_parquet_and_csv_of_the_same_rows_are_the_same() -> None:
    from_csv = read("time,down,up\n2018-02-05T23:40:00,1,\n2018-02-05T23:41:00,2,5\n2018-02-05T23:42:00,3,6\n").frames[
        0
    ]
    content = parquet(up=pa.array([None, 5, 6], pa.int32()), time=pa.array(TIMES), down=[1.0, 2.0, 3.0])
    rows = read(content, name="site.parquet")
    assert rows.encoding == "parquet"
    np.testing.assert_array_equal(rows.frames[0].values, from_csv.values)
    np.testing.assert_array_equal(rows.frames[0].time, from_csv.time)


@pytest.mark.parametrize(("encoding", "recorded"), [("utf-8", "utf-8"), ("cp1252", "cp1252"), ("utf-8-sig", "utf-8")])
def test_the_encoding_is_recognised_and_recorded(encoding: str, recorded: str) -> None:
    settings = DataSettings(columns=("tráfico",), targets=("tráfico",))
    rows = read(f"time,tráfico\n{T}0:00,1\n".encode(encoding), settings)
    assert rows.frames[0].values.tolist() == [[1.0]]
    assert rows.encoding == recorded


def test_bytes_that_cp1252_does_not_know_are_latin_1() -> None:
    assert read(f"time,down,up,note\n{T}0:00,1,2,".encode() + b"\x81\xe9\n").encoding == "latin-1"


def test_zones_become_utc_and_are_noted() -> None:
    rows = read(f"time,down,up\n{T}0:00+02:00,1,2\n{T}1:00+02:00,1,2\n")
    assert str(rows.frames[0].time[0]).startswith("2018-02-05T21:40:00")
    assert rows.time_zone == "UTC"
    zoned = parquet(time=pa.array(TIMES).cast(pa.timestamp("ms", "Europe/Madrid")), down=[1.0] * 3, up=[1.0] * 3)
    rows = read(zoned)
    assert rows.time_zone == "Europe/Madrid"
    assert rows.frames[0].time.tolist() == TIMES.astype("datetime64[ns]").tolist(), "Arrow stores zoned times in UTC"


HEAD = "time,down,up\n"


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        ("", EmptyInputError, ["empty"]),
        (" \n\n", EmptyInputError, ["empty"]),
        (HEAD, EmptyInputError, ["no rows"]),
        (parquet(time=pa.array([], pa.timestamp("ns")), down=[], up=[]), EmptyInputError, ["no rows"]),
        (f"time,down\n{T}0:00,1\n", MissingColumnError, ["'up'", "'down'"]),
        (f"date,down,up\n{T}0:00,1,2\n", MissingColumnError, ["'time'", "'date'"]),
        (parquet(time=pa.array(TIMES), down=[1.0] * 3), MissingColumnError, ["'up'"]),
        (f"time,down,up,up\n{T}0:00,1,2,3\n", DataError, ["'up'", "more than once"]),
        (f"{HEAD}{T}0:00,1,2\n{T}2:00,fast,2\n{T}4:00,slow,2\n", ColumnTypeError, ["'down'", "'fast'", "row 2"]),
        (f"{HEAD}{T}0:00,1,2\n{T}2:00,1,true\n", ColumnTypeError, ["'up'", "'true'", "row 2"]),
        (f"{HEAD}{T}0:00,1,2\n{T}2:00,inf,2\n", ColumnTypeError, ["'down'", "inf", "row 2"]),
        (f"{HEAD}{T}0:00,1,-inf\n", ColumnTypeError, ["'up'", "-inf", "row 1"]),
        (parquet(time=pa.array(TIMES), down=["1", "2", "3"], up=[1.0] * 3), ColumnTypeError, ["'down'", "'1'"]),
        (parquet(time=pa.array(TIMES), down=[None, True, None], up=[1.0] * 3), ColumnTypeError, ["True", "row 2"]),
        (f"{HEAD}{T}0:00,1,2\n{T}2:00,1,2\n{T}2:00,1,2\n", TimeOrderError, ["row 3", "repeats", "row 2"]),
        (f"{HEAD}{T}2:00,1,2\n{T}4:00,1,2\n{T}0:00,1,2\n", TimeOrderError, ["row 3", "earlier", "23:40:00"]),
        (f"{HEAD}{T}0:00,1,2\n,1,2\n", TimeOrderError, ["row 2", "no timestamp"]),
        (f"{HEAD}{T}0:00,1,2\nyesterday,1,2\n", TimeOrderError, ["'yesterday'", "row 2"]),
        (f"{HEAD}{T}0:00,1,2\n{T}2:00Z,1,2\n", TimeOrderError, ["23:42:00Z", "row 2", "zone"]),
        (f"{HEAD}1517875200,1,2\n", TimeOrderError, ["1517875200", "not a timestamp"]),
        (f"{HEAD}{T}0:00,1,2\n{T}2:00,1,2,3\n", DataError, ["Expected 3 columns, got 4"]),
        (b"PAR1 but no more", DataError, ["Parquet"]),
    ],
)
def test_what_breaks_the_contract_is_refused_in_one_sentence(
    content: str | bytes, error: type[FltsError], words: list[str]
) -> None:
    with pytest.raises(error) as caught:
        read(content)
    message = str(caught.value)
    assert type(caught.value) is error
    assert "\n" not in message
    for word in ["in/site.csv", *words]:
        assert word in message


def test_a_parquet_name_with_other_content_is_refused() -> None:
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read("time,down,up\n", name="site.parquet")


@given(st.integers(0, 199), st.integers(2, 200))
def test_the_first_bad_value_is_found_wherever_it_is(bad: int, rows: int) -> None:
    bad = min(bad, rows - 1)
    times = np.datetime64("2018-01-01T00:00:00") + np.arange(rows) * np.timedelta64(120, "s")
    cells = ["7"] * rows
    cells[bad] = "x"
    cells[-1] = "y" if bad < rows - 1 else "x"
    lines = [f"{time},{cell},1" for time, cell in zip(times, cells, strict=True)]
    with pytest.raises(ColumnTypeError, match=rf"'x' in row {bad + 1},"):
        read("\n".join(["time,down,up", *lines]))


def test_a_column_tells_stations_apart() -> None:
    lines = [f"{T}0:00,b,1,2", f"{T}0:00,a,3,4", f"{T}2:00,a,5,6", f"{T}2:00,b,7,8"]
    rows = read("\n".join(["time,series,down,up", *lines]), BY_COLUMN)
    assert {frame.series: frame.values[:, 0].tolist() for frame in rows.frames} == {"b": [1, 7], "a": [3, 5]}


def test_order_is_checked_within_each_station_and_rows_are_those_of_the_file() -> None:
    lines = [f"{T}4:00,b,1,2", f"{T}0:00,a,3,4", f"{T}2:00,b,5,6"]
    with pytest.raises(TimeOrderError, match=r"station 'b': row 3 .* row 1"):
        read("\n".join(["time,series,down,up", *lines]), BY_COLUMN)


def test_a_row_without_station_is_refused() -> None:
    with pytest.raises(DataError, match="row 2 names no station in column 'series'"):
        read(f"time,series,down,up\n{T}0:00,a,1,2\n{T}2:00,,1,2\n", BY_COLUMN)


def test_files_of_one_station_are_joined_in_time_order() -> None:
    early, late = raw_frame([[1, 1], [2, 2]]), raw_frame([[3, 3]], start="2018-02-06")
    joined = concatenate([("late", late), ("early", early)])
    assert joined.values[:, 0].tolist() == [1, 2, 3]
    assert np.all(np.diff(joined.time) > np.timedelta64(0))


def test_files_that_overlap_are_refused() -> None:
    with pytest.raises(TimeOrderError, match=r"second starts at .* before first ends"):
        concatenate([("first", raw_frame([[1], [2]])), ("second", raw_frame([[1], [2]]))])


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("/x/PobleSec.csv", "PobleSec"),
        ("s3://b/x/PobleSec_test.parquet", "PobleSec"),
        ("El_Born-train.csv", "El_Born"),
        ("site_test_2.csv", "site_test_2"),
        ("_test.csv", "_test"),
    ],
)
def test_stations_are_named_by_their_files(uri: str, name: str) -> None:
    assert station_name(uri) == name
