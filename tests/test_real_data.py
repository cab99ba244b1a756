"""The published Barcelona files, from raw rows to a champion: the counts and the accuracy that the project promises."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flts_ray.data.dataset import load_dataset
from flts_ray.data.storage import Store
from flts_ray.data.windows import training_origins
from tests.helpers import Answer, flts

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

RMSE_BAR = {"PobleSec": 0.0348, "ElBorn": 0.0438}
TEST_ROWS = {"PobleSec": 3_982, "ElBorn": 1_049}
MAE_BAR = {"PobleSec": 0.0183, "ElBorn": 0.0220}


@dataclass(frozen=True)
class Done:
    home: Path
    answer: Answer

    @property
    def champion(self) -> dict[str, Any]:
        """The champion's own row."""
        document = self.answer.document
        (row,) = (r for r in document["leaderboard"] if r["model"] == document["champion"] and r["series"] != "*")
        return dict(row)

    @property
    def claim(self) -> dict[str, Any]:
        answer = flts("claim", self.answer.document["dataset_id"], "--home", str(self.home), "--json", cwd=self.home)
        return answer.document


def run(station: str, real_data: Path, folder: Path, env: dict[str, str] | None = None) -> Done:
    sources = ["--train", str(real_data / f"{station}.csv"), "--test", str(real_data / f"{station}_test.csv")]
    answer = flts("run", "--json", *sources, "--home", str(folder / "home"), cwd=folder, env=env, timeout_s=580)
    return Done(folder / "home", answer)


@pytest.fixture(scope="module")
def finished(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Done]:
    """Default runs that were made so far, by station."""
    return {}


@pytest.fixture(params=["PobleSec", "ElBorn"])
def station(
    request: pytest.FixtureRequest,
    real_data: Path,
    finished: dict[str, Done],
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    name = str(request.param)
    if name not in finished:
        finished[name] = run(name, real_data, tmp_path_factory.mktemp(name))
    return name


def test_the_default_recipe_promotes_a_model_within_the_accuracy_bars(station: str, finished: dict[str, Done]) -> None:
    answer = finished[station].answer
    assert answer.code == 0, answer.err[-3000:]
    assert answer.document["verdict"]["state"] == "promoted"
    row = finished[station].champion
    assert row["n"] == TEST_ROWS[station], "every test row is forecast"
    assert row["rmse_scaled"] <= RMSE_BAR[station]
    assert row["mae_scaled"] <= MAE_BAR[station]
    ridge = next(r for r in answer.document["leaderboard"] if (r["series"], r["model"]) == (station, "ridge"))
    assert row["rmse_scaled"] < ridge["rmse_scaled"]
    assert row["dm_p_vs_ridge"] < 0.05


def test_the_champions_intervals_hold_what_they_say_everywhere(station: str, finished: dict[str, Done]) -> None:
    row = finished[station].champion
    assert row["coverage_90"] == pytest.approx(0.90, abs=0.01)
    assert row["coverage_min_250"] >= 0.85


def test_rows_windows_and_holes_are_counted_exactly(
    real_data: Path, finished: dict[str, Done], tmp_path_factory: pytest.TempPathFactory
) -> None:
    if "PobleSec" not in finished:
        finished["PobleSec"] = run("PobleSec", real_data, tmp_path_factory.mktemp("PobleSec"))
    done = finished["PobleSec"]
    (record,) = done.claim["series"]
    assert (record["train"]["rows"], record["test"]["rows"]) == (15_927, 3_982)
    assert sum(record[split]["quality"]["missing_cells"] for split in ("train", "test")) == 22
    (frame,) = load_dataset(Store(str(done.home)), done.answer.document["dataset_id"]).frames
    assert len(training_origins(frame.train().segment, 10, 1)) == 15_917


def test_a_small_sample_goes_end_to_end_and_promotes_nothing(real_data: Path, tmp_path: Path) -> None:
    sampling = {
        "SAMPLE_TRAIN_ROWS": "50",
        "SAMPLE_TEST_ROWS": "30",
        "SAMPLE_STRATEGY": "head",
        "SAMPLE_SEED": "45",
    }
    done = run("PobleSec", real_data, tmp_path, sampling)
    document = done.answer.document
    assert (done.answer.code, document["verdict"]["state"], document["champion"]) == (31, "sampled", None)
    (record,) = done.claim["series"]
    for split, kept, of in (("train", 50, 15_927), ("test", 30, 3_982)):
        sample = record[split]["sampling"]
        assert (record[split]["rows"], sample["kept_rows"], sample["source_rows"]) == (kept, kept, of)
        assert (sample["strategy"], sample["seed"]) == ("head", 45)
    scored = {row["model"]: row["n"] for row in document["leaderboard"] if row["series"] == "PobleSec"}
    models = ("gru", "lstm", "prophet", "persistence", "moving_average", "ridge")
    assert {name: scored[name] for name in models} == dict.fromkeys(models, 20), "ten rows of history come first"
    assert flts("champion", "PobleSec", "--json", "--home", str(done.home), cwd=tmp_path).document["champion"] is None
