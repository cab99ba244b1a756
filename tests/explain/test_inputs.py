"""Windows are spread over stations and time; columns are grouped without losing one."""

from __future__ import annotations

import numpy as np
import pytest

from flts_ray.config import RAW_COLUMNS, FeatureSettings
from flts_ray.data import features as feature_columns
from flts_ray.explain.inputs import LEAST_WINDOWS, chosen_windows, feature_groups
from tests.evaluation.stations import make_frame

pytestmark = pytest.mark.unit


def origins_of(*names: str, rows: int = 100) -> dict[str, np.ndarray]:
    return {name: np.arange(99, 99 + rows) for name in names}


def test_windows_are_spread_from_the_first_to_the_last() -> None:
    frame = make_frame(np.arange(200.0), 100)
    (rows,) = chosen_windows([frame], origins_of("a"), 10, 1).values()
    assert (len(rows), rows[0], rows[-1]) == (10, 99, 198)
    assert set(np.diff(rows)) <= {10, 11, 12}


def test_all_windows_are_taken_where_there_are_no_more() -> None:
    frame = make_frame(np.arange(200.0), 100)
    np.testing.assert_array_equal(chosen_windows([frame], origins_of("a"), 10_000, 1)["a"], np.arange(99, 199))


def test_a_window_whose_outcome_is_missing_is_not_taken() -> None:
    values = np.arange(200.0)
    values[150] = np.nan
    frame = make_frame(np.arange(200.0), 100, observed=values)
    assert 149 not in chosen_windows([frame], origins_of("a"), 10_000, 1)["a"]
    assert 149 in chosen_windows([frame], origins_of("a"), 10_000, 2)["a"]  # its second step was reported


def test_of_many_stations_some_are_looked_at_with_enough_windows_each() -> None:
    names = [f"s{i:02}" for i in range(40)]
    frames = [make_frame(np.arange(200.0), 100, series=name) for name in names]
    found = chosen_windows(frames, origins_of(*names), 4 * LEAST_WINDOWS, 1)
    assert {len(rows) for rows in found.values()} == {LEAST_WINDOWS}
    assert list(found) == ["s00", "s13", "s26", "s39"]


def test_a_station_without_outcomes_is_left_out() -> None:
    frames = [make_frame(np.arange(200.0), 100, series="a"), make_frame(np.arange(100.0), 100, series="b")]
    found = chosen_windows(frames, {"a": np.arange(99, 199), "b": np.arange(0)}, 64, 1)
    assert set(found) == {"a"}
    assert chosen_windows(frames[1:], {"b": np.arange(0)}, 64, 1) == {}


@pytest.mark.parametrize(
    "settings",
    [
        FeatureSettings(),
        FeatureSettings(calendar="none", ema_spans=(), rolling_std=(), profile=False),
        FeatureSettings(calendar="cyclic", lags=2, lag_step=3),
    ],
)
def test_every_column_is_in_one_group_of_its_own_kind(settings: FeatureSettings) -> None:
    targets = ("down", "up")
    names = np.array(
        [
            *RAW_COLUMNS,
            *feature_columns.calendar_names(settings.calendar),
            *feature_columns.derived_names(RAW_COLUMNS, targets, settings),
        ]
    )
    groups = feature_groups(RAW_COLUMNS, targets, settings)
    assert sorted(np.concatenate(list(groups.values()))) == list(range(len(names)))
    for column in RAW_COLUMNS:
        lagged = [f"{column}_lag_{settings.lag_step * (i + 1)}" for i in range(settings.lags)]
        assert list(names[groups[column]]) == [column, *lagged]
    if settings.calendar != "none":
        assert tuple(names[groups["calendar"]]) == feature_columns.calendar_names(settings.calendar)
    if settings.ema_spans:
        assert list(names[groups["up, moving averages"]]) == [f"up_ema_{span}" for span in settings.ema_spans]
        assert list(names[groups["up, deviations"]]) == [f"up_std_{rows}" for rows in settings.rolling_std]
        assert list(names[groups["down, yesterday"]]) == ["down_yesterday_level", "down_yesterday_slope"]
