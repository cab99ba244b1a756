"""The stages of a run as commands of their own, and what a run does beyond fitting its candidates once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.desk import NETWORK, Desk, scores
from tests.helpers import Answer, flts, sets, write_stations

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

GRU = {**NETWORK, "candidates": "gru", "training.epochs": 3}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("stages"), ("alpha", "beta"))


@pytest.fixture(scope="module")
def dataset(desk: Desk) -> str:
    answer = flts("preprocess", "--json", *desk.sources, "--home", str(desk.home), cwd=desk.folder)
    return str(answer.document["dataset_id"])


def stage(desk: Desk, name: str, *more: str, env: dict[str, str] | None = None, **settings: Any) -> Answer:
    values = {**GRU, **{key.replace("__", "."): value for key, value in settings.items()}}
    return flts(name, "--json", "--home", str(desk.home), *sets(values), *more, cwd=desk.folder, env=env)


def test_one_by_one_they_give_what_a_run_gives(desk: Desk, dataset: str) -> None:
    unknown = stage(desk, "train", "--dataset", "0" * 16)
    assert (unknown.code, unknown.out) == (2, "")
    assert dataset in unknown.err
    sampling = stage(desk, "train", "--dataset", dataset, env={"SAMPLE_TRAIN_ROWS": "50"})
    assert sampling.code == 2
    assert "sampling has one owner" in sampling.err

    early = stage(desk, "evaluate", "--dataset", dataset)
    assert early.code == 32
    assert f"flts train --dataset {dataset}" in early.document["verdict"]["reasons"][0]

    trained = stage(desk, "train", "--dataset", dataset)
    assert (trained.code, trained.document["dataset_id"]) == (0, dataset)
    assert trained.document["failures"] == {}
    assert trained.document["candidates"]["gru"]["reused"] is False
    evaluated = stage(desk, "evaluate", "--dataset", dataset)
    assert not evaluated.named("ray_started"), "scoring needs no Ray"

    again = stage(desk, "train", *desk.sources)  # finds done what the sources are worth
    assert (again.code, again.document["dataset_id"]) == (0, dataset)
    assert again.document["candidates"]["gru"]["reused"] is True
    assert not again.named("ray_started")

    whole = desk.run("--home", str(desk.folder / "whole"), **{k.replace(".", "__"): v for k, v in GRU.items()})
    assert evaluated.code == whole.code
    assert scores(evaluated.document) == scores(whole.document)
    assert {status for found in desk.statuses().values() for status in found} == {"FINISHED", "FAILED"}
    latest = desk.ask("leaderboard", "--json").document
    assert latest["command"] == "evaluate"


@pytest.mark.long
def test_a_tuned_candidate_stands_beside_the_others(desk: Desk, dataset: str) -> None:
    space = {"recurrent.hidden_size": {"values": [4, 8]}, "training.learning_rate": {"low": 0.003, "high": 0.03}}
    answer = stage(
        desk,
        "tune",
        "--dataset",
        dataset,
        tune__trials=3,
        tune__cells="gru",
        tune__space=json.dumps(space),
        backtest__enabled="true",
        backtest__test_rows=20,
        backtest__windows=2,
        explain__enabled="true",
        explain__windows=16,
    )
    assert answer.code in (0, 30), answer.err[-3000:]
    models = {row["model"]: row for row in answer.document["leaderboard"] if row["series"] == "*"}
    assert models["tuned"]["role"] == models["gru"]["role"] == "candidate"
    assert models["tuned"]["n"] == models["gru"]["n"]
    folder = Path(answer.document["report"]).parent
    sweep = json.loads((folder / "sweep.json").read_text())
    assert [trial["state"] in ("finished", "stopped") for trial in sweep["trials"]] == [True] * 3
    report = (folder / "report.html").read_text(encoding="utf-8")
    for heading in ("Sweep", "Backtest", "What the models look at"):
        assert heading in report
    assert {row["model"] for row in json.loads((folder / "backtest.json").read_text())["rows"]} >= {"gru", "tuned"}
    assert json.loads((folder / "explanations.json").read_text())["failures"] == {}
    kinds = desk.statuses()
    assert kinds["trial"] == ["FINISHED"] * 3
    assert kinds["tuned"] == ["FINISHED"]

    again = stage(desk, "backtest", "--dataset", dataset, backtest__windows=2, backtest__test_rows=20)
    assert again.code == 0
    assert {row["model"] for row in again.document["rows"]} >= {"gru", "ridge", "persistence"}


@pytest.mark.long
def test_a_station_that_is_too_new_is_rows_with_reasons_and_others_get_their_champions(tmp_path: Path) -> None:
    train, test = write_stations(tmp_path, ("alpha", "beta", "new"), late={"new": 3})
    settings = {**NETWORK, "candidates": "gru,prophet", "promotion.scope": "series"}
    home = ("--home", str(tmp_path / "home"))
    answer = flts("run", "--json", "--train", train, "--test", test, *home, *sets(settings), cwd=tmp_path)
    rows = {(row["series"], row["model"]): row for row in answer.document["leaderboard"]}
    assert rows["alpha", "gru"]["n"] == rows["alpha", "prophet"]["n"] > 0
    assert rows["new", "prophet"]["n"] == 0
    assert rows["new", "prophet"]["note"]
    assert rows["*", "prophet"]["rmse_scaled"] is None, "a pooled score of fewer rows than its peers' was shown"
    (left_out,) = answer.named("series_left_out")
    assert left_out["series"] == "new"

    verdicts = answer.document["verdict"]["series"]
    assert set(verdicts) == {"alpha", "beta", "new"}
    promoted = [series for series, verdict in verdicts.items() if verdict["state"] == "promoted"]
    assert promoted, "the test needs a station with a winner"
    for series in promoted:
        found = flts("champion", series, "--json", *home, cwd=tmp_path).document
        assert found["champion"]["kind"] == verdicts[series]["champion"]
    assert answer.code == (0 if len(promoted) == 3 else answer.document["verdict"]["exit_code"])
