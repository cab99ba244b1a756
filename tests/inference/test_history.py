"""A history is checked completely, and what is wrong is said field by field."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flts_ray.config_serving import ServeSettings
from flts_ray.data.scaling import ColumnScaler
from flts_ray.data.transform import Transform
from flts_ray.errors import HistoryError, Problem
from flts_ray.inference.history import CheckedHistory, read_history
from tests.inference.bundles import CLASSIC, COLUMNS, STEP, make_bundle, station_rows

pytestmark = pytest.mark.unit

MANIFEST = make_bundle(calibrated=False).bundle.manifest
TWO = make_bundle(calibrated=False, series=("north", "south")).bundle.manifest
RAW = station_rows(missing=0.0)
LIMITS = ServeSettings()


def sent(rows: int = 30, *, end: int = 400) -> dict[str, Any]:
    """A history as it comes out of JSON."""
    return {
        "series": "north",
        "time": [str(t)[:19] for t in RAW.time[end - rows : end]],
        "columns": {name: RAW.column(name)[end - rows : end].tolist() for name in COLUMNS},
    }


def read(given: dict[str, Any], **changes: Any) -> CheckedHistory:
    return read_history(changes.pop("manifest", MANIFEST), settings=changes.pop("limits", LIMITS), **given, **changes)


def problems(given: dict[str, Any], **changes: Any) -> tuple[Problem, ...]:
    with pytest.raises(HistoryError) as caught:
        read(given, **changes)
    return caught.value.problems


def notices(checked: CheckedHistory) -> dict[str, str]:
    return {notice.code: notice.message for notice in checked.notices}


def test_columns_come_in_any_order_and_leave_in_the_models() -> None:
    given = sent()
    given["columns"] = dict(reversed(given["columns"].items()))
    checked = read(given)
    assert checked.frame.columns == COLUMNS
    np.testing.assert_array_equal(checked.frame.values, RAW.values[370:400])
    np.testing.assert_array_equal(checked.frame.time, RAW.time[370:400])
    assert (checked.frame.series, checked.offset_s) == ("north", None)
    assert set(notices(checked)) == {"short_history"}


def test_enough_history_needs_no_notice() -> None:
    assert read(sent(rows=160)).notices == ()
    assert "with 160 the forecast would be sharper" in notices(read(sent(rows=159)))["short_history"]


@pytest.mark.parametrize(
    ("write", "offset_s"),
    [
        (lambda t: f"{t}"[:19].replace("T", " "), None),
        (lambda t: f"{t}"[:16], None),
        (lambda t: f"{t}"[:19] + ".000", None),
        (lambda t: f"{t}"[:19] + "Z", 0),
        (lambda t: f"{t + np.timedelta64(5400, 's')}"[:19] + "+01:30", 5400),
        (lambda t: f"{t - np.timedelta64(36000, 's')}"[:19] + "-1000", -36000),
        (lambda t: int(t.astype("datetime64[s]").astype(int)), 0),
        (lambda t: float(t.astype("datetime64[s]").astype(int)), 0),
    ],
)
def test_times_are_understood_and_brought_to_utc(write: Any, offset_s: int | None) -> None:
    given = sent()
    given["time"] = [write(t) for t in RAW.time[370:400]]
    checked = read(given)
    np.testing.assert_array_equal(checked.frame.time, RAW.time[370:400])
    assert checked.frame.time.dtype == "datetime64[ns]"
    assert checked.offset_s == offset_s
    assert ("time_zone" in notices(checked)) == bool(offset_s)


def test_a_change_of_summer_time_is_no_gap() -> None:
    given = sent()
    given["time"] = [
        f"{t + np.timedelta64(hours, 'h')}"[:19] + f"+0{hours}:00"
        for t, hours in zip(RAW.time[370:400], [2] * 15 + [1] * 15, strict=True)
    ]
    checked = read(given)
    np.testing.assert_array_equal(checked.frame.time, RAW.time[370:400])
    assert checked.offset_s == 3600


def test_arrays_are_taken_as_they_are() -> None:
    values = RAW.values[370:400].copy()
    values[3, 1] = np.nan
    checked = read({"series": None, "time": RAW.time[370:400], "columns": dict(zip(COLUMNS, values.T, strict=True))})
    np.testing.assert_array_equal(checked.frame.values, values)
    assert checked.frame.series == "north"


UNREADABLE = (
    *("now", "NaT", "", "2026", "2026-01-08", " 2026-01-08T00:00", "2026-01-08T00:00ZZ", "2026-13-01T00:00"),
    *("2026-01-08T25:00", "2026-01-08T00:00+99:00", "0001-01-01T00:00", "9999-01-01T00:00:00"),
    *("2026-01-08T00:00Z", 5, True, None, float("nan")),  # unlike the other rows
)


@pytest.mark.parametrize("bad", UNREADABLE)
def test_a_time_that_cannot_be_read_is_named(bad: Any) -> None:
    given = sent()
    given["time"][7] = bad
    (found,) = problems(given)
    assert found.field == "history.columns.time[7]"
    assert "cannot be read as a time" in found.reason
    assert "2018-02-05T23:40:00" in found.fix


@pytest.mark.parametrize("bad", [float("inf"), float("nan"), 1e300, -1e11, 10**400])
def test_seconds_out_of_range_are_named(bad: float) -> None:
    given = sent()
    given["time"] = [*range(0, 600 * 29, 600), bad]
    (found,) = problems(given)
    assert found.field == "history.columns.time[29]"


@pytest.mark.parametrize(
    ("place", "steps", "reason"),
    [(5, 0.0, "repeats the time"), (5, -3.0, "is earlier than"), (5, 1.5, "not a whole number of steps")],
)
def test_times_off_order_or_grid_are_refused(place: int, steps: float, reason: str) -> None:
    given = sent()
    shifted = RAW.time[370 + place - 1] + np.timedelta64(round(steps * 600e9), "ns")
    given["time"][place] = str(shifted)[:19]
    found = problems(given)
    assert found[0].field == f"history.columns.time[{place}]"
    assert reason in found[0].reason


def test_everything_that_is_wrong_is_said_at_once() -> None:
    given = sent()
    given["columns"] |= {"down": given["columns"]["down"][:-1], "speed": [1.0] * 30}
    given["columns"]["up"][4] = float("inf")
    del given["columns"]["users"]
    given["time"][3] = given["time"][2]
    found = {problem.field: problem for problem in problems(given, field="histories[2]")}
    assert set(found) == {
        "histories[2].columns.down",
        "histories[2].columns.speed",
        "histories[2].columns.users",
        "histories[2].columns.up[4]",
        "histories[2].columns.time[3]",
    }
    assert "29 values for 30 times" in found["histories[2].columns.down"].reason
    assert all(problem.fix for problem in found.values())


def test_paths_follow_the_form_in_which_rows_were_sent() -> None:
    given = sent()
    given["columns"]["up"][4] = float("nan")
    (found,) = problems(given, form="rows")
    assert found.field == "history.rows[4].up"


def test_unknown_columns_can_be_ignored() -> None:
    given = sent()
    given["columns"]["speed"] = ["fast"] * 30
    assert notices(read(given, unknown="ignore"))["ignored_columns"] == "the model does not read speed"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("nan"), "nan is not a finite number"),
        (float("-inf"), "-inf is not a finite number"),
        ("12", "'12' is not a number"),
        (True, "'True' is not a number"),
        (10**400, "too large"),
        (-1.0, "-1 is negative"),
    ],
)
def test_a_value_that_is_none_is_named(value: Any, reason: str) -> None:
    given = sent()
    given["columns"]["down"][3] = value
    (found,) = problems(given)
    assert found.field == "history.columns.down[3]"
    assert reason in found.reason


def test_negative_values_are_fine_on_other_scales() -> None:
    manifest = make_bundle(calibrated=False, **CLASSIC).bundle.manifest
    given = sent()
    given["columns"]["up"][3] = -1.0
    assert read(given, manifest=manifest).frame.values[3, 1] == -1.0


def test_missing_values_are_told_of() -> None:
    given = sent()
    given["columns"]["down"][-3:] = [None] * 3
    given["columns"]["users"][-10] = None
    given["columns"]["users"][0] = None
    assert "down 3, users 1; the training's mean stands in" in notices(read(given))["missing_values"]
    given["columns"]["down"][-10:] = [None] * 10
    (found,) = problems(given)
    assert found.field == "history.columns.down"
    assert "none of the latest 10 rows" in found.reason


def without(given: dict[str, Any], rows: set[int]) -> dict[str, Any]:
    """The same history, some rows not sent."""
    kept = [i for i in range(len(given["time"])) if i not in rows]
    columns = {name: [column[i] for i in kept] for name, column in given["columns"].items()}
    return {**given, "time": [given["time"][i] for i in kept], "columns": columns}


def test_short_gaps_in_what_the_model_reads_are_filled_with_the_row_before() -> None:
    checked = read(without(sent(rows=40), {33, 34, 37}))
    np.testing.assert_array_equal(checked.frame.time, RAW.time[360:400])
    rows = np.arange(360, 400)
    rows[[33, 34, 37]] = 392, 392, 396
    np.testing.assert_array_equal(checked.frame.values, RAW.values[rows])
    assert notices(checked)["gaps_filled"].count(":") == 2 * 3 + 1
    assert str(RAW.time[393])[:19] in notices(checked)["gaps_filled"]


def test_a_gap_that_begins_before_the_rows_that_are_read_is_filled_whole() -> None:
    checked = read(without(sent(rows=40), {29, 30}))  # the model reads 30 to 39
    np.testing.assert_array_equal(checked.frame.time, RAW.time[360:400])


def test_gaps_further_back_stay() -> None:
    checked = read(without(sent(rows=40), {10, *range(20, 30)}))
    np.testing.assert_array_equal(checked.frame.time, np.delete(RAW.time[360:400], [10, *range(20, 30)]))
    assert "gaps_filled" not in notices(checked)


def test_long_gaps_in_what_the_model_reads_are_refused() -> None:
    given = without(sent(rows=40), {31, *range(33, 37)})
    (found,) = problems(given)
    assert found.field == "history.columns.time[32]"
    assert "4 rows are missing" in found.reason
    assert "up to 3 missing rows" in found.fix
    assert len(read(given, limits=LIMITS.model_copy(update={"max_filled_rows": 4})).frame) == 40


@given(missing=st.sets(st.integers(1, 38), max_size=12))
@hypothesis_settings(max_examples=80, deadline=None)
def test_what_passes_can_be_read_by_the_model(missing: set[int]) -> None:
    given = without(sent(rows=40), missing)
    try:
        checked = read(given)
    except HistoryError as error:
        assert all("rows are missing" in problem.reason for problem in error.problems)
        return
    frame = checked.frame
    assert (np.diff(frame.time)[-9:] == STEP).all()
    assert (np.diff(frame.time) % STEP == np.timedelta64(0)).all()
    was_sent = np.isin(frame.time, np.delete(RAW.time[360:400], sorted(missing)))
    np.testing.assert_array_equal(frame.values[was_sent], np.delete(RAW.values[360:400], sorted(missing), axis=0))


@pytest.mark.parametrize(("rows", "reason"), [(9, "9 rows were sent, the model reads 10"), (0, "0 rows were sent")])
def test_too_few_rows_are_refused(rows: int, reason: str) -> None:
    (found,) = problems(sent(rows=rows))
    assert (found.field, reason in found.reason) == ("history.columns.time", True)


def test_too_many_rows_are_refused() -> None:
    (found,) = problems(sent(rows=31), limits=LIMITS.model_copy(update={"max_rows": 30}))
    assert found.fix == "send the latest 30 at most"


def test_stations() -> None:
    assert read(sent() | {"series": "south"}, manifest=TWO).frame.series == "south"
    (found,) = problems(sent() | {"series": "west"}, manifest=TWO)
    assert (found.field, found.fix) == ("history.series", "choose one of north, south")
    assert "no station is named" in problems(sent() | {"series": None}, manifest=TWO)[0].reason
    one = read(sent() | {"series": "west"})
    assert one.frame.series == "west"
    assert "'west' was forecast as if it were that one" in notices(one)["series"]


@pytest.mark.parametrize(("factor", "times"), [(1e-3, "0.001"), (1e3, "1e+03")])
@pytest.mark.parametrize("cleaning", [{}, {"missing": "zero"}])
def test_another_unit_is_recognised_by_its_size(factor: float, times: str, cleaning: dict[str, str]) -> None:
    manifest = make_bundle(calibrated=False, cleaning=cleaning).bundle.manifest
    given = sent()
    assert read(given, manifest=manifest)
    given["columns"]["down"] = [value * factor for value in given["columns"]["down"]]
    (found,) = problems(given, manifest=manifest)
    assert found.field == "history.columns.down"
    assert found.fix == "send it in bits"


def test_values_far_from_training_are_told_of() -> None:
    given = sent()
    given["columns"]["users"][-1] *= 1e9
    assert notices(read(given))["extrapolation"] == "the latest values of users are far from all that training saw"
    scaled = MANIFEST.transforms["north"].model_dump()
    unscaled = Transform.model_validate(scaled | {"scalers": (ColumnScaler(kind="none"),) * 3})
    manifest = MANIFEST.model_copy(update={"transforms": {"north": unscaled}})
    assert "extrapolation" not in notices(read(given, manifest=manifest))


@pytest.mark.parametrize("station", ["PobleSec", "ElBorn"])
def test_no_ten_real_rows_are_refused(real_data: Any, station: str) -> None:
    from flts_ray.config import Settings
    from flts_ray.data.source import read_rows
    from flts_ray.data.transform import Transform

    settings = Settings()
    (train,), (test,) = (
        read_rows((real_data / f"{station}{part}.csv").read_bytes(), station, settings.data, series=station).frames
        for part in ("", "_test")
    )
    transform = Transform.fit(train, settings, 120.0)
    manifest = MANIFEST.model_copy(update={"transforms": {station: transform}, "step_s": 120.0})
    told = 0
    for start in range(0, len(test) - 10, 5):
        rows = replace(test, time=test.time[start : start + 10], values=test.values[start : start + 10])
        columns = dict(zip(rows.columns, rows.values.T, strict=True))
        checked = read_history(manifest, series=station, time=rows.time, columns=columns, settings=LIMITS)
        told += "extrapolation" in notices(checked)
    assert told == 0
