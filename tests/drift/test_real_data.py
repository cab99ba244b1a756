"""The published stations: what counts as drift there, and whether a break of one column is found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from flts_ray.config import Settings
from flts_ray.config_serving import DriftSettings
from flts_ray.data.frame import RawFrame
from flts_ray.data.source import read_rows
from flts_ray.data.transform import Transform
from flts_ray.drift.inputs import ColumnDrift, column_drift
from flts_ray.drift.snapshot import ColumnSnapshot
from tests.drift.conftest import broken

pytestmark = pytest.mark.unit

SETTINGS = DriftSettings()
STEP_S = 120.0


@dataclass(frozen=True)
class Station:
    snapshots: dict[str, ColumnSnapshot]
    test: RawFrame

    def drift(self, rows: RawFrame) -> dict[str, ColumnDrift]:
        return {
            name: column_drift(rows.series, name, snapshot, snapshot.histogram(rows.column(name), rows.time), SETTINGS)
            for name, snapshot in self.snapshots.items()
        }

    def alarms(self, rows: RawFrame) -> set[str]:
        return {name for name, found in self.drift(rows).items() if found.state == "alarm"}

    def stretches(self, rows: RawFrame, length: int) -> list[RawFrame]:
        return [
            RawFrame(
                series=rows.series,
                time=rows.time[s : s + length],
                columns=rows.columns,
                values=rows.values[s : s + length],
            )
            for s in range(0, len(rows) - length + 1, length // 4)
        ]


def station(folder: Path, name: str) -> Station:
    settings = Settings()
    train, test = (
        read_rows((folder / file).read_bytes(), file, settings.data, series=name).frames[0]
        for file in (f"{name}.csv", f"{name}_test.csv")
    )
    transform = Transform.fit(train, settings, STEP_S)
    snapshots = {
        column: ColumnSnapshot.of(train.column(column), train.time, scaler, STEP_S)
        for column, scaler in zip(transform.columns, transform.scalers, strict=True)
    }
    return Station(snapshots, test)


@pytest.fixture(scope="module")
def poble_sec(real_data: Path) -> Station:
    return station(real_data, "PobleSec")


@pytest.fixture(scope="module")
def el_born(real_data: Path) -> Station:
    return station(real_data, "ElBorn")


def test_poble_sec_has_not_drifted(poble_sec: Station) -> None:
    """Five days later the load is a little higher: worth watching, no alarm."""
    found = poble_sec.drift(poble_sec.test)
    watched = {name for name, column in found.items() if column.state == "watch"}
    assert poble_sec.alarms(poble_sec.test) == set()
    assert {"down", "up", "rb_down", "rb_up"} <= watched
    assert max(column.psi for column in found.values() if column.psi is not None) < 0.2


def test_el_born_moved_as_far_as_it_did_within_its_training(el_born: Station) -> None:
    """Its six days of training hold Easter: by the common threshold alone the days after it would be an alarm."""
    found = el_born.drift(el_born.test)
    beyond = {n for n, c in found.items() if c.psi is not None and c.psi >= SETTINGS.psi_alarm}
    assert {"down", "up", "rnti_count", "rb_down", "rb_up"} <= beyond
    assert el_born.alarms(el_born.test) == set()


@pytest.mark.parametrize("name", ["poble_sec", "el_born"])
def test_a_break_of_the_uplink_is_found_and_nothing_else(name: str, request: pytest.FixtureRequest) -> None:
    here: Station = request.getfixturevalue(name)
    assert here.alarms(broken(here.test, "up", 1 / 15)) == {"up"}


def test_half_a_day_of_the_break_is_enough(poble_sec: Station) -> None:
    """Half a day of a column that changed is always found."""
    halves = poble_sec.stretches(broken(poble_sec.test, "up", 1 / 15), 360)
    found = [poble_sec.alarms(rows) for rows in halves]
    assert np.mean(["up" in alarms for alarms in found]) > 0.85
    days = poble_sec.stretches(broken(poble_sec.test, "up", 1 / 15), 720)
    assert all("up" in poble_sec.alarms(rows) for rows in days)


@pytest.mark.parametrize("length", [200, 360, 720, 1440])
def test_false_alarms_are_rare(poble_sec: Station, length: int) -> None:
    columns = len(poble_sec.snapshots)
    alarms = [len(poble_sec.alarms(rows)) / columns for rows in poble_sec.stretches(poble_sec.test, length)]
    assert np.mean(alarms) <= 0.03
