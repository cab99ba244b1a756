"""The whole job from a shell: what it prints, stores, reuses, promotes, rolls back, and survives."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.desk import NETWORK, Desk, scores
from tests.helpers import Answer, flts, sets

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROW_FIELDS = {
    "series",
    "target",
    "model",
    "n",
    "rmse_bits",
    "mae_bits",
    "rmse_scaled",
    "mae_scaled",
    "skill_vs_persistence",
    "dm_p_vs_persistence",
    "dm_p_vs_ridge",
    "coverage_90",
    "fit_s",
    "predict_s",
}
BASELINES = {"persistence", "moving_average", "seasonal_naive", "ridge"}
EXIT_CODES = {"promoted": 0, "kept": 0, "no_winner": 30, "sampled": 31, "missing_candidate": 32}


def assert_whole(answer: Answer) -> dict[str, Any]:
    """One JSON document on stdout, nothing else there, every promised field, and the verdict's exit code."""
    document = answer.document
    assert answer.out.startswith("{\n")
    assert answer.out.endswith("}\n")
    for name in ("run_id", "dataset_id", "config_hash"):
        assert isinstance(document[name], str)
        assert document[name]
    state = document["verdict"]["state"]
    assert answer.code == document["verdict"]["exit_code"] == EXIT_CODES[state]
    assert all(isinstance(reason, str) and reason for reason in document["verdict"]["reasons"])
    assert document["verdict"]["reasons"]
    assert (document["champion"] is not None) == (state in ("promoted", "kept"))
    report = Path(document["report"]).read_text(encoding="utf-8")
    assert document["run_id"] in report
    assert "<script src" not in report
    assert document["leaderboard"]
    for row in document["leaderboard"]:
        assert row.keys() >= ROW_FIELDS
    return document


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("desk"))


@pytest.fixture(scope="module")
def first(desk: Desk) -> Answer:
    """All candidates on one station, from nothing."""
    return desk.run()


@pytest.fixture(scope="module")
def after_first(desk: Desk, first: Answer) -> dict[str, list[str]]:
    return desk.statuses()


@pytest.fixture(scope="module")
def again(desk: Desk, after_first: dict[str, list[str]]) -> Answer:
    """The same command once more."""
    return desk.run()


@pytest.fixture(scope="module")
def rival(desk: Desk, again: Answer) -> Answer:
    """Other settings on the same data: a network that learns for longer."""
    return desk.run(candidates="gru", training__epochs=60)


@pytest.fixture(scope="module")
def weaker(desk: Desk, rival: Answer) -> Answer:
    """The first command again, now that there is a better champion."""
    return desk.run()


def test_a_run_prints_one_document_and_nothing_else(first: Answer) -> None:
    assert first.code == 0, first.err
    document = assert_whole(first)
    assert document["verdict"]["state"] == "promoted"
    assert document["champion"] in ("gru", "lstm")
    pooled = [row for row in document["leaderboard"] if (row["series"], row["target"]) == ("alpha", "down")]
    assert {row["model"] for row in pooled} == {"gru", "lstm", "prophet"} | BASELINES
    assert {row["n"] for row in pooled} == {200}
    by_model = {row["model"]: row for row in pooled}
    best = by_model[document["champion"]]
    assert all(best["rmse_scaled"] < by_model[name]["rmse_scaled"] for name in BASELINES)
    assert best["dm_p_vs_ridge"] < 0.05
    assert best["skill_vs_persistence"] == pytest.approx(
        1 - best["rmse_bits"] / by_model["persistence"]["rmse_bits"], rel=1e-6
    )
    assert all(0 <= row["coverage_90"] <= 1 for row in pooled)
    assert all(row["fit_s"] > 0 for row in pooled if row["role"] == "candidate")


def test_everything_on_stderr_is_an_event(first: Answer) -> None:
    names = [found["event"] for found in first.events]
    assert [line for line in first.err.splitlines() if line and not line.startswith('{"ts"')] == []
    for name in ("preprocess_done", "run_started", "ray_started", "fit_done", "promotion_decided", "run_done"):
        assert name in names
    stages = [found["stage"] for found in first.named("stage_done")]
    assert stages == ["preprocess", "train", "evaluate", "track", "promote", "report"]


def test_the_events_of_a_run_are_kept_with_it(desk: Desk, first: Answer) -> None:
    kept = (desk.home / "runs" / first.document["run_id"] / "events.jsonl").read_text().splitlines()
    # Fits log from threads of their own: file and stderr hold the same lines, two neighbours may stand exchanged.
    assert Counter(kept) == Counter(line for line in first.err.splitlines() if line)


def test_training_never_goes_silent(first: Answer) -> None:
    beats = first.named("heartbeat")
    for kind in ("gru", "lstm"):
        stages = [beat["stage"] for beat in beats if beat["candidate"] == kind]
        assert stages[0] == "starting"
        assert "fitted" in stages  # the workers' last beats may come after the driver's
        assert stages.count("epoch") == NETWORK["training.epochs"]
        assert {"loading", "loaded"} <= set(stages)
    assert "fitted" in [beat["stage"] for beat in beats if beat["candidate"] == "prophet"]


def test_mlflow_holds_one_finished_parent_and_a_finished_child_a_candidate(
    desk: Desk, first: Answer, after_first: dict[str, list[str]]
) -> None:
    assert after_first == {name: ["FINISHED"] for name in ("parent", "gru", "lstm", "prophet")}


def test_mlflow_holds_parameters_metrics_data_bundles_and_plots(desk: Desk, first: Answer) -> None:
    ((parent,),) = desk.query("SELECT run_uuid FROM runs WHERE name = ?", first.document["run_id"])
    assert dict(desk.query("SELECT key, value FROM params WHERE run_uuid = ?", parent))["recurrent.hidden_size"] == "16"
    assert {"report.html", "leaderboard.json", "verdict.json"} <= artifacts(desk, parent)
    children = desk.query("SELECT run_uuid FROM tags WHERE key = 'mlflow.parentRunId' AND value = ?", parent)
    assert len(children) == 3
    for (run_id,) in children:
        tags = dict(desk.query("SELECT key, value FROM tags WHERE run_uuid = ?", run_id))
        network = tags["kind"] != "prophet"
        assert {"bundle/weights.safetensors", "bundle/bundle.json", "forecast.png"} <= artifacts(desk, run_id)
        assert ("loss_curve.png" in artifacts(desk, run_id)) == network
        metrics = [name for (name,) in desk.query("SELECT key FROM metrics WHERE run_uuid = ?", run_id)]
        assert {"test_rmse_bits", "test_rmse_scaled"} <= set(metrics)
        assert metrics.count("val_rmse_bits") == (NETWORK["training.epochs"] if network else 0)
        used = "SELECT digest FROM inputs JOIN datasets ON dataset_uuid = source_id WHERE destination_id = ?"
        assert desk.query(used, run_id) == [(first.document["dataset_id"][:36],)]


def artifacts(desk: Desk, run_id: str) -> set[str]:
    (root,) = (desk.home / "mlartifacts").glob(f"**/{run_id}/artifacts")
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_the_same_command_again_reuses_all_of_it_and_keeps_the_champion(first: Answer, again: Answer) -> None:
    before, after = assert_whole(first), assert_whole(again)
    assert again.code == 0
    assert after["verdict"]["state"] == "kept"
    assert after["champion"] == before["champion"]
    assert after["run_id"] != before["run_id"]
    assert after["dataset_id"] == before["dataset_id"]
    assert scores(after) == scores(before)
    assert again.named("preprocess_skipped")
    assert [found["candidate"] for found in again.named("candidate_reused")] == ["gru", "lstm", "prophet"]
    assert again.named("ray_started") == []
    assert again.named("fit_started") == []


def test_a_better_rival_takes_over(rival: Answer) -> None:
    document = assert_whole(rival)
    assert rival.named("preprocess_skipped")
    assert document["verdict"]["state"] == "promoted", document["verdict"]["reasons"]
    assert any("beats the champion so far" in reason for reason in document["verdict"]["reasons"])


def test_a_weaker_rival_is_measured_against_the_champion_on_the_same_rows(rival: Answer, weaker: Answer) -> None:
    document = assert_whole(weaker)
    assert document["verdict"]["state"] == "kept", document["verdict"]["reasons"]
    (reason,) = [r for r in document["verdict"]["reasons"] if "does not beat the champion (gru)" in r]
    mine = [
        row["composite"] for row in rival.document["leaderboard"] if (row["series"], row["model"]) == ("alpha", "gru")
    ]
    assert f"against {mine[0]:.6f} on the same rows" in reason


def test_rollback_brings_the_previous_champion_back(desk: Desk, first: Answer, rival: Answer, weaker: Answer) -> None:
    now = desk.ask("champion", "alpha", "--json").document
    assert (now["champion"]["kind"], now["champion"]["version"]) == ("gru", "2")
    assert (now["previous"]["kind"], now["previous"]["version"]) == (first.document["champion"], "1")
    rolled = desk.ask("rollback", "--json")
    assert rolled.code == 0
    assert rolled.document["champion"] == now["previous"]
    assert rolled.document["previous"] == now["champion"]
    assert desk.ask("champion", "alpha").out.splitlines()[0].startswith("flts-alpha champion: version 1")


def test_the_leaderboard_of_any_run_can_be_read_again(desk: Desk, first: Answer, weaker: Answer) -> None:
    assert desk.ask("leaderboard", "--json").document == weaker.document
    assert desk.ask("leaderboard", "--run", first.document["run_id"], "--json").document == first.document
    shown = desk.ask("leaderboard", "--run", first.document["run_id"])
    assert shown.code == 0
    for text in ("lstm", "ridge", "Verdict: promoted", first.document["report"]):
        assert text in shown.out
    unknown = desk.ask("leaderboard", "--run", "nothing", "--json")
    assert (unknown.code, unknown.out) == (2, "")


def test_nothing_runs_on_in_mlflow(desk: Desk, weaker: Answer) -> None:
    assert {status for found in desk.statuses().values() for status in found} == {"FINISHED"}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Desk, Answer]:
    """Two stations, two targets, three steps ahead."""
    desk = Desk(tmp_path_factory.mktemp("two"), ("alpha", "beta"))
    return desk, desk.run(data__targets="[down,up]", windows__horizon=3, candidates="gru,prophet")


def test_stations_targets_and_steps_are_all_on_one_leaderboard(two: tuple[Desk, Answer]) -> None:
    desk, answer = two
    document = assert_whole(answer)
    rows = {(row["series"], row["target"], row["model"]): row for row in document["leaderboard"]}
    models = {"gru", "prophet"} | BASELINES
    for series in ("alpha", "beta"):
        for target in ("down", "up"):
            assert {m for s, t, m in rows if (s, t) == (series, target)} == models
            assert len({rows[series, target, model]["n"] for model in models}) == 1
            assert rows[series, target, "gru"]["n"] == 200 + 200 + 200, "every test row, at every step"
    for target in ("down", "up"):
        pooled = rows["*", target, "gru"]
        assert pooled["n"] == rows["alpha", target, "gru"]["n"] + rows["beta", target, "gru"]["n"]
    assert desk.statuses() == {name: ["FINISHED"] for name in ("parent", "gru", "prophet")}


def test_a_champion_of_several_stations_is_registered_under_one_name(two: tuple[Desk, Answer]) -> None:
    desk, answer = two
    found = desk.ask("champion", "stations", "--json").document["champion"]
    assert (found or {}).get("kind") == answer.document["champion"]


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Desk, Answer]:
    desk = Desk(tmp_path_factory.mktemp("sampled"))
    env = {
        "SAMPLE_TRAIN_ROWS": "250",
        "SAMPLE_TEST_ROWS": "60",
        "SAMPLE_STRATEGY": "random",
        "SAMPLE_SEED": "45",
        "EPOCHS": "3",
    }
    settings = {key: value for key, value in NETWORK.items() if key != "training.epochs"}
    answer = flts(
        "run", "--json", *desk.sources, "--home", str(desk.home), *sets({**settings, "candidates": "gru"}),
        cwd=desk.folder, env=env,
    )  # fmt: skip
    return desk, answer


def test_a_sampled_run_ends_in_its_own_state_and_promotes_nothing(sampled: tuple[Desk, Answer]) -> None:
    desk, answer = sampled
    document = assert_whole(answer)
    assert (answer.code, document["verdict"]["state"], document["champion"]) == (31, "sampled", None)
    assert desk.ask("champion", "alpha", "--json").document["champion"] is None
    claim = desk.ask("claim", document["dataset_id"], "--json").document
    evidence = {split: claim["series"][0][split]["sampling"] for split in ("train", "test")}
    for split, kept, of in (("train", 250, 600), ("test", 60, 200)):
        found = evidence[split]
        assert (found["strategy"], found["requested"], found["kept_rows"]) == ("random", kept, kept)
        assert (found["source_rows"], found["seed"]) == (of, 45)
        assert claim["series"][0][split]["rows"] == kept
    assert desk.statuses() == {"parent": ["FINISHED"], "gru": ["FINISHED"]}
    assert len([b for b in answer.named("heartbeat") if b["stage"] == "epoch"]) == 3, "EPOCHS was not read"
