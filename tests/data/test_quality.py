from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from flts_ray.config import DataSettings
from flts_ray.data.frame import RawFrame
from flts_ray.data.quality import most_frequent_step, regime_shifts, split_quality
from flts_ray.data.source import read_rows
from tests.data.reports import raw_frame

pytestmark = pytest.mark.unit

DAY_ROWS = 720


def with_minutes(minutes: list[float], values: object = None) -> RawFrame:
    frame = raw_frame(np.arange(len(minutes)) + 1.0 if values is None else values)
    time = np.datetime64("2018-02-05", "ns") + (np.array(minutes) * 60e9).astype("timedelta64[ns]")
    return RawFrame(series="s", time=time, columns=frame.columns, values=frame.values)


def test_gaps_are_counted_with_the_rows_they_lack() -> None:
    found = split_quality(with_minutes([0, 2, 4, 10, 12, 14, 24]))
    assert (found.rows, found.step_s, found.gaps, found.rows_missing, found.longest_gap_s) == (7, 120.0, 2, 6, 600.0)
    assert found.irregular_fraction == pytest.approx(2 / 6)
    assert (found.time_start, found.time_end) == ("2018-02-05T00:00:00", "2018-02-05T00:24:00")
    assert (found.duplicates, found.out_of_order) == (0, 0)


def test_repeated_and_unsorted_rows_would_be_counted() -> None:
    found = split_quality(with_minutes([0, 2, 2, 4, 6, 3, 5]))
    assert (found.duplicates, found.out_of_order) == (1, 1)


def test_cells_are_counted_per_column() -> None:
    values = [[1, 0], [np.nan, 0], [3, 0], [np.nan, np.nan]]
    found = split_quality(raw_frame(values))
    assert found.missing_cells == 3
    assert found.missing == {"down": 2, "up": 1}
    assert found.zeros == {"up": 3}
    assert found.constant_columns == ("up",)
    json.loads(found.model_dump_json())


@pytest.mark.parametrize(("minutes", "step"), [([0], None), ([0, 5], 300.0), ([0, 2, 4, 10, 16], 120.0)])
def test_the_step_is_the_most_frequent_distance(minutes: list[float], step: float | None) -> None:
    assert most_frequent_step(with_minutes(minutes).time) == step
    assert split_quality(with_minutes(minutes)).step_s == step


def noisy(days: float, level: float, seed: int, bursts: float = 0.0) -> RawFrame:
    rng = np.random.default_rng(seed)
    rows = round(days * DAY_ROWS)
    values = level * rng.lognormal(0, 0.5, rows)
    values[rng.random(rows) < bursts] *= 30
    return raw_frame(values, columns=("rb_up",))


def broken(train: RawFrame, test: RawFrame) -> list[bool]:
    return [shift.broken for shift in regime_shifts(train, test)]


def test_an_uplink_that_all_but_stops_is_a_break() -> None:
    """The published LesCorts uplink: mean rb_up .00578 in train, .00033 in test, the difference being bursts."""
    train, test = noisy(7, 0.0008, 0, bursts=0.2), noisy(2, 0.0003, 1)
    shift = regime_shifts(train, test)[0]
    assert shift.broken and shift.mean_ratio is not None and shift.mean_ratio < 0.1


def test_a_lower_level_with_as_many_bursts_is_a_break() -> None:
    assert broken(noisy(7, 0.00578, 0, bursts=0.05), noisy(2, 0.00033, 1, bursts=0.05)) == [True]


@pytest.mark.parametrize("seed", range(5))
def test_noise_bursts_and_ordinary_growth_are_no_break(seed: int) -> None:
    assert broken(noisy(7, 1.0, seed, bursts=0.02), noisy(2, 1.2, seed + 50, bursts=0.03)) == [False]


def test_one_huge_value_is_no_break() -> None:
    train, test = noisy(7, 1.0, 0), noisy(2, 1.0, 1)
    train.values[100] = 1e6
    assert broken(train, test) == [False]


def test_a_level_shift_of_a_signed_column_is_a_break() -> None:
    rng = np.random.default_rng(0)
    before = raw_frame(rng.normal(0, 1, 2 * DAY_ROWS + 1))
    after = raw_frame(rng.normal(3, 1, 2 * DAY_ROWS + 1))
    shift = regime_shifts(before, after)[0]
    assert shift.broken and shift.mean_ratio is None


def test_less_than_a_day_says_nothing() -> None:
    assert regime_shifts(noisy(7, 1.0, 0), noisy(0.5, 100.0, 1)) == ()


def test_columns_without_values_are_left_out() -> None:
    train, test = noisy(2, 1.0, 0), noisy(2, 1.0, 1)
    test.values[:] = np.nan
    assert regime_shifts(train, test) == ()


def test_the_distance_is_that_of_scipy() -> None:
    from scipy.stats import ks_2samp

    train, test = noisy(3, 1.0, 0), noisy(2, 1.3, 1)
    expected = ks_2samp(train.values[:, 0], test.values[:, 0]).statistic
    assert regime_shifts(train, test)[0].ks == pytest.approx(expected)


@pytest.mark.parametrize(("station", "missing", "test_missing"), [("PobleSec", 22, 0), ("ElBorn", 78, 6)])
def test_the_published_stations_are_unbroken(real_data: Path, station: str, missing: int, test_missing: int) -> None:
    train, test = (
        read_rows((real_data / f"{station}{suffix}.csv").read_bytes(), "x.csv", DataSettings()).frames[0]
        for suffix in ("", "_test")
    )
    found = split_quality(train)
    assert (found.missing_cells, split_quality(test).missing_cells) == (missing, test_missing)
    assert (found.step_s, found.gaps, found.irregular_fraction) == (120.0, 0, 0.0)
    assert not any(broken(train, test))
    uplink = train.columns.index("rb_up")
    test.values[:, uplink] *= 0.00033 / 0.00578
    assert [s.column for s in regime_shifts(train, test) if s.broken] == ["rb_up"]
