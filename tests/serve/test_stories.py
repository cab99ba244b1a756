"""What the page is told of stations, rows and the promotion, and what it is told where that is out of reach."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flts_ray.errors import DataError, HistoryError, IntegrityError, TrackingError
from flts_ray.tracking.story import RunStory
from serve.stories import Stories
from tests.serve.site import RUN_NAME, Champion, make_champion
from tests.services.ports import free_ports

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Champion:
    return make_champion(tmp_path_factory.mktemp("stories"))


@pytest.fixture
def stories(champion: Champion) -> Stories:
    return Stories(champion.bench.settings)


def without_dataset(champion: Champion, folder: Path) -> Stories:
    return Stories(champion.bench.with_settings(storage={"root": str(folder / "empty")}))


def test_stations_come_with_what_a_forecast_needs(champion: Champion, stories: Stories) -> None:
    told = stories.stations(champion.model)
    assert [station.series for station in told.stations] == ["alpha", "beta"]
    assert (told.model.version, told.model.kind) == ("1", "gru")
    assert (told.lookback, told.direct_steps, told.step_s, told.unit) == (4, 1, 600.0, "bits")
    assert told.context_rows == champion.model.engine.context_rows
    assert {c.name: c.unit for c in told.stations[0].columns}["rb_up_var"] == "fraction^2"
    assert [name for names in told.features.values() for name in names] == list(champion.bench.dataset.feature_names)


def test_a_station_says_which_rows_it_was_trained_and_tested_on(champion: Champion, stories: Stories) -> None:
    train, test = stories.stations(champion.model).stations[0].train, stories.stations(champion.model).stations[0].test
    assert train is not None
    assert test is not None
    assert (train.rows, test.rows) == (240, 60)
    assert train.time_start == "2018-02-05T00:00:00"
    assert train.time_end < test.time_start


def test_stations_are_named_without_their_dataset(champion: Champion, tmp_path: Path) -> None:
    told = without_dataset(champion, tmp_path).stations(champion.model)
    assert not told.dataset_found
    assert [(station.series, station.train) for station in told.stations] == [("alpha", None), ("beta", None)]
    assert len(told.stations[0].columns) == 11


def test_history_is_the_end_of_the_test_rows_as_reported(champion: Champion, stories: Stories) -> None:
    told = stories.history(champion.model, "beta", 50)
    raw = champion.bench.dataset.raws[1]
    assert told.time == tuple(np.datetime_as_string(raw.time[-50:], unit="s"))
    assert told.columns["down"] == tuple(raw.column("down")[-50:])
    assert (told.test_from, told.zoned, told.series) == (0, False, "beta")


def test_history_reaches_back_into_the_train_rows_and_says_where_they_end(champion: Champion, stories: Stories) -> None:
    told = stories.history(champion.model, "alpha", 100)
    assert told.test_from == 40
    assert told.time[told.test_from] == stories.stations(champion.model).stations[0].test.time_start  # type: ignore[union-attr]
    assert len(stories.history(champion.model, "alpha", 10_000).time) == 300


def test_a_missing_value_is_null(champion: Champion, stories: Stories, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = champion.bench.dataset.raws[0]
    values = raw.values.copy()
    values[-1, 0] = np.nan
    monkeypatch.setattr(stories, "_rows", lambda *_: (replace(raw, values=values), 60, False))
    told = stories.history(champion.model, "alpha", 2)
    assert told.columns["down"] == (raw.values[-2, 0], None)
    assert "NaN" not in told.model_dump_json()


def test_times_of_a_dataset_with_a_zone_are_utc(
    champion: Champion, stories: Stories, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = champion.bench.dataset.claim
    zoned = claim.model_copy(
        update={"sources": tuple(s.model_copy(update={"time_zone": "+01:00"}) for s in claim.sources)}
    )
    monkeypatch.setattr(stories, "_claim", lambda _: zoned)
    told = stories.history(champion.model, "alpha", 3)
    assert told.zoned
    assert all(time.endswith("Z") for time in told.time)


def test_rows_are_capped_by_the_longest_history(champion: Champion) -> None:
    stories = Stories(champion.bench.with_settings(serve={"max_rows": 70}))
    told = stories.history(champion.model, "alpha", 100)
    assert (len(told.time), told.test_from) == (70, 10)


@pytest.mark.parametrize("series", ["gamma", None])
def test_an_unknown_station_is_a_problem_that_names_the_known(
    champion: Champion, stories: Stories, series: str | None
) -> None:
    with pytest.raises(HistoryError) as raised:
        stories.history(champion.model, series, 10)
    (problem,) = raised.value.problems
    assert problem.field == "series"
    assert "alpha, beta" in problem.fix


def test_no_dataset_and_a_damaged_one_are_told_apart(champion: Champion, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no dataset"):
        without_dataset(champion, tmp_path).history(champion.model, "alpha", 10)
    home = tmp_path / "home"
    shutil.copytree(champion.bench.home / "datasets", home / "datasets")
    for file in home.rglob("*.parquet"):
        file.write_bytes(file.read_bytes()[:-1])
    damaged = Stories(champion.bench.with_settings(run={"home": str(home)}))
    with pytest.raises(IntegrityError):
        damaged.history(champion.model, "alpha", 10)


def test_a_failed_read_is_not_remembered(champion: Champion, tmp_path: Path) -> None:
    stories = without_dataset(champion, tmp_path)
    with pytest.raises(DataError):
        stories.history(champion.model, "alpha", 10)
    shutil.copytree(champion.bench.home / "datasets", tmp_path / "empty" / "datasets")
    assert len(stories.history(champion.model, "alpha", 10).time) == 10


def test_the_story_is_that_of_the_run_that_promoted_the_model(champion: Champion, stories: Stories) -> None:
    told = stories.story(champion.model)
    assert told.run == RUN_NAME
    row = told.leaderboard.overall("gru")
    assert row is not None
    assert row.n == 120
    assert {"persistence", "ridge"} <= set(told.leaderboard.models("baseline"))
    assert told.verdict.state == "promoted"
    assert told.verdict.reasons


def test_a_model_that_no_run_promoted_has_no_story(champion: Champion, stories: Stories) -> None:
    with pytest.raises(DataError, match="left no leaderboard"):
        stories.story(replace(champion.model, run_id="0" * 32))


def test_a_story_of_another_version_is_not_guessed_at(
    champion: Champion, stories: Stories, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = {"leaderboard.json": b'{"protocol": {}, "rows": [], "new": 1}', "verdict.json": b"{}"}
    found = RunStory(run_id="1", name=RUN_NAME, documents=documents)
    monkeypatch.setattr("serve.stories.run_story", lambda *_: found)
    with pytest.raises(IntegrityError, match="serve with the version that made it"):
        stories.story(champion.model)


def test_a_tracking_store_that_is_away_is_no_missing_story(champion: Champion) -> None:
    (port,) = free_ports(1)
    away = {"uri": f"http://127.0.0.1:{port}", "timeout_s": 0.5}
    with pytest.raises(TrackingError):
        Stories(champion.bench.with_settings(tracking=away)).story(champion.model)
