"""Each cause that people once had to find by hand is found, named, and given the right consequences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flts_ray.reconcile import Comparison, Side, compare
from tests.reconcile import deployments
from tests.reconcile.runs import Lab

pytestmark = pytest.mark.unit


def rules(comparison: Comparison) -> list[str]:
    assert comparison.unexplained == ()
    return [cause.rule for cause in comparison.causes]


def claimed(comparison: Comparison, rule: str) -> dict[str, tuple[Any, Any]]:
    cause = next(cause for cause in comparison.causes if cause.rule == rule)
    return {one.name: (one.a, one.b) for one in cause.differences}


def follows(comparison: Comparison, rule: str) -> set[str]:
    cause = next(cause for cause in comparison.causes if cause.rule == rule)
    return {one.key for one in cause.consequences}


def with_record(side: Side, **changes: Any) -> Side:
    assert side.record is not None
    return replace(side, record=side.record.model_copy(update=changes))


def with_claim(side: Side, **changes: Any) -> Side:
    """The same with a dataset that is not what its settings ask for."""
    assert side.claim is not None
    return replace(side, claim=side.claim.model_copy(update=changes))


def scored_otherwise(side: Side) -> Side:
    assert side.record is not None
    scores = [
        row.model_copy(update={"metrics": {**row.metrics, "rmse_bits": (row.metrics["rmse_bits"] or 0) * 1.1}})
        if row.model == "gru"
        else row
        for row in side.record.scores
    ]
    return with_record(side, scores=tuple(scores))


def test_a_run_against_itself(base: Side) -> None:
    comparison = compare(base, base)
    assert (comparison.differences, comparison.causes, comparison.exit_code) == ((), (), 0)
    assert comparison.verdict == "No difference that matters."
    assert comparison.equal["metrics"] > 40


def test_names_places_and_durations_do_not_matter(lab: Lab, base: Side) -> None:
    again = lab.run("again", lab.resolve(storage__timeout_s=5, tracking__experiment="other", run__num_cpus=1))
    comparison = compare(base, again)
    assert (comparison.exit_code, comparison.causes) == (0, ())
    assert {one.key for one in comparison.ignored} == {"storage.timeout_s", "tracking.experiment", "run.num_cpus"}


def test_sampling_in_two_places_of_a_deployment(lab: Lab) -> None:
    """The pair that had to be reconciled by hand: Compose without sampling, Helm with it in every service."""
    comparison = compare(lab.file("compose.yaml", deployments.COMPOSE), lab.file("helm.yaml", deployments.HELM))
    assert rules(comparison) == ["sampling_in_several_places", "sampling", "epochs"]
    assert (
        "B sets sampling in 4 places (preprocess, train.gru, train.lstm, nonml.prophet)" in comparison.causes[0].title
    )
    assert claimed(comparison, "sampling_in_several_places") == {
        "SAMPLE_TRAIN_ROWS (gru, lstm, prophet)": (None, "50"),
        "SAMPLE_TEST_ROWS (gru, lstm, prophet)": (None, "30"),
        "SAMPLE_STRATEGY (gru, lstm, prophet)": (None, "head"),
        "SAMPLE_SEED (gru, lstm, prophet)": (None, "45"),
    }
    assert claimed(comparison, "sampling")["sampling.train_rows (preprocess)"] == (None, 50)
    assert claimed(comparison, "epochs") == {"training.epochs (gru, lstm)": (10, 5)}


def test_the_same_deployment_after_the_correction(lab: Lab) -> None:
    fixed = lab.file("fixed.yaml", deployments.HELM_FIXED)
    assert rules(compare(lab.file("helm.yaml", deployments.HELM), fixed)) == ["sampling_in_several_places"]
    assert rules(compare(lab.file("compose.yaml", deployments.COMPOSE), fixed)) == ["sampling", "epochs"]


def test_sampling_in_the_environment_over_that_of_a_file(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "flts.yaml"
    file.write_text("sampling.train_rows: 120\n")
    one = lab.run("filed", lab.resolve(file=file))
    environ = {"SAMPLE_TRAIN_ROWS": "100"}
    two = lab.run("fought", lab.resolve(file=file, environ=environ), environ=environ)
    comparison = compare(one, two)
    assert rules(comparison) == ["sampling_in_several_places"]
    assert "B sets sampling in 2 places" in comparison.causes[0].title
    (difference,) = comparison.causes[0].differences
    assert (difference.key, difference.a, difference.b) == ("sampling.train_rows", 120, 100)
    assert difference.origin_b == f"environment SAMPLE_TRAIN_ROWS, over 120 of file {file}"
    assert {"dataset_id", "kept rows", "scaler", "candidate_id", "rmse_bits"} <= follows(
        comparison, rules(comparison)[0]
    )


def test_sampling_that_lost_and_changes_nothing_is_a_note(lab: Lab, sampled: Side) -> None:
    environ = {"SAMPLE_TRAIN_ROWS": "7"}
    other = lab.run("lost", lab.resolve(sampling__train_rows=120, environ=environ), environ=environ)
    comparison = compare(sampled, other)
    assert (comparison.exit_code, comparison.causes) == (0, ())
    assert [one.key for one in comparison.ignored] == ["SAMPLE_TRAIN_ROWS"]
    assert any("B sets sampling in several places" in note for note in comparison.notes)


def test_sampling_configured_but_not_applied(base: Side, sampled: Side) -> None:
    """Two runs of the same settings; the dataset of the second has every row."""
    assert base.claim and sampled.record
    unapplied = replace(with_record(sampled, dataset_id=base.claim.dataset_id), claim=base.claim)
    comparison = compare(sampled, unapplied)
    assert "sampling_not_applied" in rules(comparison)
    assert comparison.causes[0].title.startswith(
        "Sampling is configured but was not applied: B asks for 120 train rows, and the dataset of B keeps 240 of 240"
    )
    assert {"kept rows (alpha train)", "requested rows (alpha train)"} <= claimed(
        comparison, "sampling_not_applied"
    ).keys()
    assert {"dataset_id", "scaler"} <= follows(comparison, "sampling_not_applied")


def test_a_configuration_that_asks_for_sampling_and_a_dataset_without(lab: Lab, base: Side) -> None:
    assert base.claim
    claim = lab.side(base.claim.dataset_id)
    lines = [f"{key}: {record.value}" for key, record in claim.settings.items() if key.startswith("features.")]
    comparison = compare(lab.file("asks.yaml", "\n".join([*lines, "sampling.train_rows: 50"])), claim)
    assert rules(comparison) == ["sampling_not_applied"]
    assert claimed(comparison, "sampling_not_applied") == {
        "sampling.train_rows": (50, 0),
        "kept rows (alpha train)": (50, 240),
    }
    assert follows(comparison, "sampling_not_applied") == {"config_hash"}


def test_a_deployment_that_asks_for_sampling_and_a_run_without(lab: Lab, base: Side) -> None:
    comparison = compare(lab.file("job.env", "SAMPLE_TRAIN_ROWS=50\nSAMPLE_SEED=45\n"), base)
    assert rules(comparison) == ["sampling_not_applied"]
    assert "A asks for 50 train rows, and the dataset of B keeps 240 of 240" in comparison.causes[0].title


def test_a_deployment_that_asks_for_other_rows_than_a_run_was_told(lab: Lab, sampled: Side) -> None:
    comparison = compare(lab.file("fewer.env", "SAMPLE_TRAIN_ROWS=50\n"), sampled)
    assert rules(comparison) == ["sampling"]
    assert claimed(comparison, "sampling") == {"sampling.train_rows (all)": (50, 120)}
    assert follows(comparison, "sampling") == {"kept rows"}


def test_two_datasets_that_each_follow_their_own_settings(base: Side, sampled: Side) -> None:
    comparison = compare(base, sampled)
    assert rules(comparison) == ["sampling"]
    assert follows(comparison, "sampling") >= {
        "dataset_id",
        "config_hash",
        "kept rows",
        "scaler",
        "candidate_id",
        "mae_bits",
    }


def test_a_dataset_of_older_code(lab: Lab, base: Side) -> None:
    """A later version finds the dataset of an earlier one and uses it."""
    later = lab.run("later", lab.resolve(), version="1.1+bbbb")
    comparison = compare(base, scored_otherwise(later))
    assert rules(comparison) == ["code_version"]
    assert "B used a dataset made by 1.0+aaaa in a run of 1.1+bbbb" in comparison.causes[0].title
    assert claimed(comparison, "code_version") == {"code_version": ("1.0+aaaa", "1.1+bbbb")}
    assert follows(comparison, "code_version") == {"rmse_bits"}
    assert base.claim
    alone = compare(later, lab.side(base.claim.dataset_id))
    assert rules(alone) == ["code_version"]
    assert alone.causes[0].title.startswith("Stale code version: ")


def test_another_version_of_the_transform(base: Side) -> None:
    assert base.claim and base.record
    older = with_claim(base, transform_version=0, dataset_id="0" * 16, code_version="0.9+cccc", feature_names=("down",))
    comparison = compare(with_record(older, dataset_id="0" * 16), base)
    assert rules(comparison) == ["code_version"]
    assert claimed(comparison, "code_version")["transform_version"] == (0, base.claim.transform_version)
    assert follows(comparison, "code_version") == {"dataset_id", "features only here"}


def test_another_image_is_another_code_version(lab: Lab) -> None:
    newer = deployments.COMPOSE.replace("preprocess:latest", "preprocess:1.4")
    comparison = compare(lab.file("old.yaml", deployments.COMPOSE), lab.file("new.yaml", newer))
    assert claimed(comparison, "code_version") == {"image (preprocess)": ("preprocess:latest", "preprocess:1.4")}
    assert rules(comparison) == ["code_version"]
    assert any("'latest' does not say which code runs" in note for note in comparison.notes)


def test_ten_epochs_against_five(lab: Lab, base: Side) -> None:
    longer = lab.run("longer", lab.resolve(training__epochs=10, training__early_stopping="true"))
    comparison = compare(longer, base)
    assert rules(comparison) == ["epochs"]
    assert claimed(comparison, "epochs") == {"training.epochs": (10, 5)}
    ran = next(one for one in comparison.differences if one.key == "epochs run")
    assert (ran.a, ran.b, ran.note) == (10, 5, "")
    assert follows(comparison, "epochs") >= {"candidate_id", "epochs run", "rmse_bits"}
    touched = {one.where for one in comparison.causes[0].consequences if one.area == "metrics"}
    assert touched == {"gru"}, "baselines have no epochs"


def test_stopping_early_is_told_apart(base: Side) -> None:
    assert base.record
    one = base.record.candidates[0]
    stopped = one.model_copy(update={"epochs": 3, "facts": {**one.facts, "stopped_early": True}})
    comparison = compare(base, with_record(base, candidates=(stopped,)))
    ran = next(one for one in comparison.differences if one.key == "epochs run")
    assert (ran.a, ran.b, ran.note) == (5, 3, "stopped early on B")
    assert rules(comparison) == ["chance"]


def test_another_seed_of_training(lab: Lab, base: Side) -> None:
    comparison = compare(base, lab.run("seed", lab.resolve(seed=7)))
    assert rules(comparison) == ["seed"]
    assert follows(comparison, "seed") >= {"candidate_id", "rmse_bits"}
    assert not {"dataset_id", "scaler", "kept rows"} & follows(comparison, "seed")


def test_another_seed_of_sampling(lab: Lab) -> None:
    claims = [
        lab.preprocess(lab.resolve(sampling__train_rows=50, sampling__strategy="random", sampling__seed=seed))
        for seed in (42, 45)
    ]
    comparison = compare(*(lab.side(claim.dataset_id) for claim in claims))
    assert rules(comparison) == ["seed"]
    assert follows(comparison, "seed") >= {"dataset_id", "first_row", "seed", "time range", "scaler"}


def test_a_seed_that_draws_nothing_changes_a_name_only(lab: Lab, base: Side) -> None:
    assert base.claim
    other = lab.preprocess(lab.resolve(sampling__seed=45))
    comparison = compare(lab.side(base.claim.dataset_id), lab.side(other.dataset_id))
    assert rules(comparison) == ["seed"]
    assert "nothing is drawn with it" in comparison.causes[0].title
    assert follows(comparison, "seed") == {"config_hash", "dataset_id"}


def test_other_source_bytes(lab: Lab, base: Side, tmp_path: Path) -> None:
    lines = (Path(lab.train) / "alpha.csv").read_text().splitlines()
    (tmp_path / "alpha.csv").write_text("\n".join(lines[:-5]) + "\n")
    claim = lab.preprocess(lab.resolve(data__train=tmp_path))
    assert base.claim
    comparison = compare(lab.side(base.claim.dataset_id), lab.side(claim.dataset_id))
    assert rules(comparison) == ["source"]
    assert list(claimed(comparison, "source")) == ["file (alpha train)"]
    assert follows(comparison, "source") == {
        "data_digest", "dataset_id", "kept rows", "source rows", "time range", "scaler", "cleaner",
    } & {one.key for one in comparison.differences}  # fmt: skip


def test_another_scaler(lab: Lab, base: Side) -> None:
    claim = lab.preprocess(lab.resolve(scaling__scaler="minmax"))
    assert base.claim
    comparison = compare(lab.side(base.claim.dataset_id), lab.side(claim.dataset_id))
    assert rules(comparison) == ["shaping"]
    assert follows(comparison, "shaping") == {"config_hash", "dataset_id", "scaler"}


def test_a_recipe_explains_what_it_sets(lab: Lab) -> None:
    comparison = compare(lab.file("a.yaml", "{}"), lab.file("b.yaml", "recipe: classic\nseed: 1\n"))
    assert rules(comparison) == ["recipe", "seed"]
    assert {"recipe", "scaling.scaler", "training.epochs"} <= claimed(comparison, "recipe").keys()


def test_other_libraries_threads_and_machines(base: Side) -> None:
    assert base.record
    other = with_record(scored_otherwise(base), versions={**base.record.versions, "torch": "2.0.0"})
    assert rules(compare(base, other)) == ["libraries"]
    assert follows(compare(base, other), "libraries") == {"rmse_bits"}
    other = with_record(scored_otherwise(base), environment={"OMP_NUM_THREADS": "7"})
    assert rules(compare(base, other)) == ["environment"]
    other = with_record(base, host=base.record.host.model_copy(update={"name": "elsewhere", "cpus": 999}))
    assert compare(base, other).exit_code == 0


def test_libraries_and_threads_that_changed_no_score_do_not_matter(base: Side) -> None:
    assert base.record
    versions = {**base.record.versions, "torch": "2.0.0"}
    other = with_record(base, versions=versions, environment={"OMP_NUM_THREADS": "7"})
    comparison = compare(base, other)
    assert comparison.exit_code == 0
    assert {one.key for one in comparison.ignored} >= {"torch", "OMP_NUM_THREADS"}
    assert any("every score is the same" in note and "torch" in note for note in comparison.notes)
    without_scores = with_record(other, scores=())
    assert rules(compare(base, without_scores)) == ["libraries", "environment"], "nothing proves it"


def test_the_same_inputs_and_another_result(base: Side) -> None:
    comparison = compare(base, scored_otherwise(base))
    assert rules(comparison) == ["chance"]
    (difference,) = comparison.differences
    assert difference.change == pytest.approx(0.1)


def test_a_candidate_that_failed(base: Side) -> None:
    assert base.record
    failed = base.record.candidates[0].model_copy(update={"failure": "worker died", "candidate_id": ""})
    comparison = compare(base, with_record(base, candidates=(failed,), verdict="missing_candidate", champion=""))
    assert rules(comparison) == ["failure"]
    assert "worker died" in comparison.causes[0].title


def test_two_causes_at_once_share_what_follows(lab: Lab, base: Side) -> None:
    comparison = compare(base, lab.run("both", lab.resolve(seed=3, training__epochs=4)))
    assert rules(comparison) == ["seed", "epochs"]
    assert "rmse_bits" in follows(comparison, "seed") & follows(comparison, "epochs")
    assert "epochs run" in follows(comparison, "epochs") - follows(comparison, "seed")


def test_a_dataset_written_anew_since_the_run(base: Side) -> None:
    changed = with_claim(base, feature_names=("down",))
    comparison = compare(base, changed)
    assert any("B: its dataset" in note and "written anew" in note for note in comparison.notes)
    assert "claim_digest" in {one.key for one in comparison.differences}
