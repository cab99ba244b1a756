from __future__ import annotations

from pathlib import Path

import pytest

from flts_ray.data.plan import make_plan
from flts_ray.errors import ConfigError, DataError, SourceNotFoundError
from tests.data.reports import small_settings, write_report, write_station

pytestmark = pytest.mark.unit


def test_files_are_matched_by_station(tmp_path: Path) -> None:
    trains, tests = zip(*(write_station(tmp_path, name) for name in ("b", "a")), strict=True)
    plan = make_plan(small_settings(trains, reversed(tests)))
    assert [item.series for item in plan.items] == ["a", "b"]
    assert [(Path(i.train[0].uri).name, Path(i.test[0].uri).name) for i in plan.items] == [
        ("a.csv", "a_test.csv"),
        ("b.csv", "b_test.csv"),
    ]


def test_one_train_and_one_test_file_match_whatever_their_names(tmp_path: Path) -> None:
    train, test = write_report(tmp_path / "site.csv", 5), write_report(tmp_path / "later.csv", 5, start=5)
    (item,) = make_plan(small_settings(str(train), str(test))).items
    assert item.series == "site" and item.test[0].uri == str(test)


def test_test_files_of_a_folder_are_not_train_files(tmp_path: Path) -> None:
    write_station(tmp_path, "a")
    write_station(tmp_path, "b")
    plan = make_plan(small_settings(str(tmp_path), f"{tmp_path}/*_test.csv"))
    assert [item.series for item in plan.items] == ["a", "b"]
    assert all(len(item.train) == len(item.test) == 1 for item in plan.items)


def test_a_station_without_partner_is_named(tmp_path: Path) -> None:
    trains = [write_station(tmp_path, name)[0] for name in ("a", "b", "c")]
    tests = [str(tmp_path / "a_test.csv"), str(tmp_path / "c_test.csv")]
    with pytest.raises(DataError, match="station 'b' has no test rows"):
        make_plan(small_settings(trains, tests))


def test_two_files_for_one_station_are_refused(tmp_path: Path) -> None:
    write_station(tmp_path, "a")
    with pytest.raises(DataError, match="both name the station 'a'"):
        make_plan(small_settings(str(tmp_path)))


def test_identity_follows_content_settings_and_station_but_not_place(tmp_path: Path) -> None:
    def identity(folder: str, name: str = "a", seed: int = 0, **sections: dict[str, object]) -> str:
        return make_plan(small_settings(*write_station(tmp_path / folder, name, seed=seed), **sections)).dataset_id

    base = identity("x")
    assert len(base) == 16 and base == identity("y")
    assert base == identity("x", training={"epochs": 3}), "how a model is trained does not shape the data"
    others = {
        identity("z", seed=5),
        identity("z", name="b"),
        identity("x", cleaning={"missing": "zero"}),
        identity("x", sampling={"seed": 1}),
    }
    assert base not in others and len(others) == 4


def test_without_stations_only_the_bytes_count(tmp_path: Path) -> None:
    first, second = write_station(tmp_path, "a"), write_station(tmp_path, "b")
    plans = [make_plan(small_settings(*pair, data={"series_by": "none"})) for pair in (first, second)]
    assert plans[0].dataset_id == plans[1].dataset_id


def test_no_source_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.train"):
        make_plan(small_settings(()))
    with pytest.raises(SourceNotFoundError, match=r"nothing\.csv"):
        make_plan(small_settings(str(tmp_path / "nothing.csv")))
    train, _ = write_station(tmp_path, "a")
    with pytest.raises(DataError, match=r"also in data\.test"):
        make_plan(small_settings(train, train))
