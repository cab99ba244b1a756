from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flts_ray.config_serving import DriftSettings
from flts_ray.data.frame import RawFrame
from flts_ray.drift.monitor import DriftMonitor
from flts_ray.drift.snapshot import Snapshot
from flts_ray.inference.queries import Query
from flts_ray.models.bundle import Bundle
from tests.drift.conftest import broken

pytestmark = pytest.mark.unit

SETTINGS = DriftSettings()


def query(raw: RawFrame, first: int, end: int) -> Query:
    history = replace(raw, time=raw.time[first:end], values=raw.values[first:end])
    return Query(history=history, horizon=1, levels=(), adapt_rows=0)


def fed(bundle: Bundle, raw: RawFrame, *cuts: tuple[int, int], settings: DriftSettings = SETTINGS) -> DriftMonitor:
    monitor = DriftMonitor(bundle.manifest, settings)
    for first, end in cuts:
        monitor.observe(query(raw, first, end))
    monitor.refresh()
    return monitor


def test_rows_like_those_of_training_raise_no_alarm(bundle: Bundle, live: RawFrame) -> None:
    monitor = fed(bundle, live, (0, 600))
    assert set(monitor.figures()["alpha"]) == set(live.columns)
    assert monitor.notices("alpha") == ()


def test_a_broken_column_raises_an_alarm_that_names_it(bundle: Bundle, live: RawFrame) -> None:
    monitor = fed(bundle, broken(live, "up", 1 / 15), (0, 600))
    (notice,) = monitor.notices("alpha")
    assert notice.code == "drift"
    assert notice.message.startswith("column 'up' has drifted: PSI ")
    assert "over 600 rows" in notice.message
    assert monitor.figures()["alpha"]["up"] > 2


def test_requests_that_overlap_count_each_time_once(bundle: Bundle, live: RawFrame) -> None:
    at_once = fed(bundle, live, (0, 300))
    one_by_one = fed(bundle, live, *((max(0, end - 50), end) for end in range(20, 301)), (0, 300), (100, 200))
    assert one_by_one.figures() == at_once.figures()


def test_only_the_latest_rows_count(bundle: Bundle, live: RawFrame) -> None:
    settings = DriftSettings(window_rows=250)
    rows = broken(live, "up", 1 / 15)
    mended = replace(rows, values=np.concatenate([rows.values[:300], live.values[300:]]))
    assert fed(bundle, mended, (0, 300), settings=settings).notices("alpha")
    assert not fed(bundle, mended, (0, 300), (290, 600), settings=settings).notices("alpha")
    unread = fed(bundle, mended, *((n, n + 2) for n in range(599)), settings=settings)
    assert unread.figures() == fed(bundle, mended, (350, 600), settings=settings).figures()


def test_too_few_rows_say_nothing(bundle: Bundle, live: RawFrame) -> None:
    monitor = fed(bundle, broken(live, "up", 1 / 15), (0, 199))
    assert monitor.figures() == {}
    assert monitor.notices("alpha") == ()


def test_nothing_is_said_before_the_first_refresh(bundle: Bundle, live: RawFrame) -> None:
    monitor = DriftMonitor(bundle.manifest, SETTINGS)
    monitor.observe(query(live, 0, 600))
    assert monitor.figures() == {}
    assert monitor.notices("alpha") == ()


def test_columns_may_stand_in_any_order(bundle: Bundle, live: RawFrame) -> None:
    turned = replace(live, columns=live.columns[::-1], values=live.values[:, ::-1])
    assert fed(bundle, turned, (0, 600)).figures() == fed(bundle, live, (0, 600)).figures()


def test_a_model_of_one_station_answers_for_any_name(bundle: Bundle, live: RawFrame) -> None:
    monitor = fed(bundle, replace(broken(live, "up", 1 / 15), series="Alpha 2"), (0, 600))
    assert len(monitor.notices("Alpha 2")) == 1
    assert set(monitor.figures()) == {"alpha"}


def test_a_clock_that_runs_ahead_hides_nothing(bundle: Bundle, live: RawFrame) -> None:
    monitor = DriftMonitor(bundle.manifest, SETTINGS)
    monitor.observe(query(replace(live, time=live.time + np.timedelta64(200 * 365, "D")), 0, 600))
    monitor.observe(query(live, 0, 300))
    monitor.refresh()
    assert monitor.figures() == fed(bundle, live, (0, 300)).figures()


def test_a_bundle_without_snapshot_watches_nothing(bundle: Bundle, live: RawFrame) -> None:
    old = replace(bundle, manifest=bundle.manifest.model_copy(update={"snapshot": {}}))
    monitor = fed(old, live, (0, 600))
    assert monitor.figures() == {}
    assert monitor.notices("alpha") == ()


def test_an_unknown_station_among_several_is_left_alone(bundle: Bundle, live: RawFrame) -> None:
    known = Snapshot.read(bundle.manifest.snapshot).series["alpha"]
    both = Snapshot(series={"alpha": known, "beta": known}).model_dump(mode="json")
    transforms = dict.fromkeys(("alpha", "beta"), bundle.manifest.transforms["alpha"])
    manifest = bundle.manifest.model_copy(update={"snapshot": both, "transforms": transforms})
    monitor = fed(replace(bundle, manifest=manifest), replace(live, series="gamma"), (0, 600))
    assert monitor.figures() == {}
