from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from flts_ray.config import Settings
from flts_ray.config_serving import PredictionLogSettings
from flts_ray.data.frame import RawFrame
from flts_ray.data.storage import Store
from flts_ray.drift.live import Live, read_live, read_truth
from flts_ray.inference.prediction_log import PredictionLog
from flts_ray.inference.queries import Forecast, Query
from flts_ray.models.bundle import Bundle
from tests.drift.replay import answers
from tests.helpers import write_csv

pytestmark = pytest.mark.unit


def logged(
    folder: Path, given: Iterable[tuple[Query, Forecast]], *, version: str = "1", replica: str = "one", name: str = "r"
) -> Store:
    store = Store(str(folder))
    log = PredictionLog(store, PredictionLogSettings(flush_s=3600.0), identifier="alpha", replica=replica)
    for i, (query, forecast) in enumerate(given):
        log.record(f"{name}{i}", "flts-alpha", version, query, forecast)
    log.close(20)
    assert log.lost == 0
    return store


def read(store: Store, *, since: datetime | None = None, truth: tuple[RawFrame, ...] = ()) -> Live:
    return read_live(store, "alpha", "1", since=since, truth=truth)


def test_later_histories_tell_what_came(tmp_path: Path, bundle: Bundle, live: RawFrame) -> None:
    rows = live.head(30)
    found = read(logged(tmp_path, answers(bundle, rows)))
    assert found.rows == 27, "the first three rows have no history"
    (inputs,) = found.inputs
    assert inputs.columns == rows.columns
    assert inputs.time.tolist() == rows.time[3:].tolist()
    assert inputs.values.tolist() == rows.values[3:].tolist()
    (outcomes,) = found.outcomes
    assert (outcomes.series, outcomes.target, outcomes.step, outcomes.level) == ("alpha", "down", 1, 0.9)
    assert outcomes.time.tolist() == rows.time[4:].tolist(), "what the last one forecast is not known yet"
    assert outcomes.actual.tolist() == rows.column("down")[4:].tolist()
    forecasts = [forecast for _, forecast in answers(bundle, rows)][:-1]
    assert outcomes.forecast.tolist() == [f.values[0, 0] for f in forecasts]
    inside = [f.lower[0, 0, 0] <= a <= f.upper[0, 0, 0] for f, a in zip(forecasts, outcomes.actual, strict=True)]
    assert outcomes.inside.tolist() == inside


def test_files_tell_what_came_and_are_believed(tmp_path: Path, bundle: Bundle, live: RawFrame) -> None:
    store = logged(tmp_path / "log", list(answers(bundle, live.head(10)))[::3])
    assert read(store).outcomes == ()
    file = write_csv(tmp_path / "alpha_truth.csv", live.values[:12] * 2)
    frames = read_truth((str(file),), ("down",), Settings.model_validate({"data": {"series_by": "none"}}))
    (frame,) = frames
    assert (frame.series, frame.columns, len(frame)) == ("alpha_truth", ("down",), 12)
    moved = replace(frame, series="alpha", time=live.time[:12])
    (outcomes,) = read(store, truth=(moved,)).outcomes
    assert outcomes.actual.tolist() == (2 * live.column("down")[[4, 7, 10]]).tolist()


def test_a_file_is_believed_more_than_the_log(tmp_path: Path, bundle: Bundle, live: RawFrame) -> None:
    rows = live.head(10)
    truth = RawFrame(series="alpha", time=rows.time[5:6], columns=("down",), values=np.array([[42.0]]))
    (outcomes,) = read(logged(tmp_path, answers(bundle, rows)), truth=(truth,)).outcomes
    wanted = rows.column("down")[4:].copy()
    wanted[1] = 42
    assert outcomes.actual.tolist() == wanted.tolist()


def test_a_value_that_is_missing_is_no_outcome(tmp_path: Path, bundle: Bundle, live: RawFrame) -> None:
    rows = live.head(10)
    rows.values.setflags(write=True)
    gap = replace(rows, values=rows.values.copy())
    gap.values[6, 0] = np.nan
    (outcomes,) = read(logged(tmp_path, answers(bundle, gap))).outcomes
    assert rows.time[6] not in outcomes.time
    assert len(outcomes.time) == 5


def test_a_question_asked_again_counts_once(tmp_path: Path, bundle: Bundle, live: RawFrame) -> None:
    rows = live.head(12)
    once = read(logged(tmp_path, answers(bundle, rows)))
    twice = read(logged(tmp_path, answers(bundle, rows), replica="two", name="again"))
    assert twice.rows == 2 * once.rows
    assert [len(frame) for frame in twice.inputs] == [len(frame) for frame in once.inputs]
    assert twice.outcomes[0].time.tolist() == once.outcomes[0].time.tolist()


def test_forecasts_of_other_versions_are_left_out(tmp_path: Path, bundle: Bundle, live: RawFrame) -> None:
    given = list(answers(bundle, live.head(20)))
    logged(tmp_path, given[:10], version="0")
    found = read(logged(tmp_path, given[10:]))
    assert (found.rows, found.other_versions) == (17, 10)
    assert len(found.inputs[0]) == 17
    assert found.outcomes[0].time.tolist() == live.time[14:20].tolist()


def test_recursive_steps_are_left_out(tmp_path: Path, bundle: Bundle, live: RawFrame) -> None:
    given = [(query, replace(forecast, direct_steps=0)) for query, forecast in answers(bundle, live.head(20))]
    assert read(logged(tmp_path, given)).outcomes == ()


def test_only_what_was_logged_since_then(tmp_path: Path, bundle: Bundle, live: RawFrame) -> None:
    store = logged(tmp_path, answers(bundle, live.head(10)))
    now = datetime.now(UTC)
    assert read(store, since=now - timedelta(hours=1)).rows == 7
    assert read(store, since=now + timedelta(seconds=1)) == Live(rows=0, other_versions=0, inputs=(), outcomes=())


def test_an_empty_log(tmp_path: Path) -> None:
    assert read(Store(str(tmp_path))).rows == 0
