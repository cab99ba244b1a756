"""What may be searched, and how combinations are laid over the settings, named and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flts_ray.config import Settings
from flts_ray.data.storage import Store
from flts_ray.errors import ConfigError, IntegrityError, TrainingError
from flts_ray.recipes import recipe_settings
from flts_ray.training.sweep_ledger import Ledger, SweepResult, Trial, sweep_id
from flts_ray.training.sweep_space import applied, check_space, distributions, first_params, params_key

pytestmark = pytest.mark.unit


def settings_of(**tune: Any) -> Settings:
    return Settings.model_validate({"tune": tune})


def trial(number: int, scores: tuple[float, ...] = (), **fields: Any) -> Trial:
    params = {"cell": "gru", "training.learning_rate": number / 1000}
    history = tuple({"epoch": i + 1.0, "val_composite": score} for i, score in enumerate(scores))
    known = {"number": number, "key": params_key(params), "params": params, "history": history, "state": "finished"}
    return Trial.model_validate({**known, **fields})


def test_the_default_space_can_be_searched() -> None:
    check_space(Settings())
    assert set(distributions(Settings())) == {"cell", *Settings().tune.space}


@pytest.mark.parametrize(
    ("name", "because"),
    [
        ("features.lags", "trials have to read the same rows"),
        ("windows.horizon", "trials have to read the same rows"),
        ("evaluation.coverage", "trials have to read the same rows"),
        ("seed", "trials have to read the same rows"),
        ("training.validation_fraction", "it chooses the rows that trials are scored on"),
        ("training.epochs", "it is the budget"),
        ("training.workers", "it changes no score"),
        ("training.learnig_rate", "there is no such setting"),
    ],
)
def test_what_shapes_data_or_scores_is_refused(name: str, because: str) -> None:
    with pytest.raises(ConfigError, match=because) as refused:
        check_space(settings_of(space={name: {"values": [1]}}))
    assert name in str(refused.value)


@pytest.mark.parametrize(
    ("name", "tried"),
    [
        ("recurrent.hidden_size", {"values": [32, 0]}),
        ("recurrent.target", {"values": ["delta", "slope"]}),
        ("training.learning_rate", {"low": -1.0, "high": 1.0}),
        ("training.batch_size", {"low": 16.5, "high": 32}),
    ],
)
def test_a_value_that_the_setting_does_not_take_is_found_before_anything_starts(
    name: str, tried: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=f"tune.space offers {name}="):
        check_space(settings_of(space={name: tried}))


def test_a_range_of_a_whole_setting_draws_whole_numbers() -> None:
    space = settings_of(space={"recurrent.hidden_size": {"low": 16, "high": 64, "log": True}})
    check_space(space)
    assert str(distributions(space)["recurrent.hidden_size"]).startswith("IntDistribution(high=64, log=True, low=16")


def test_a_combination_changes_its_settings_and_no_other() -> None:
    before = Settings()
    after = applied(before, {"cell": "lstm", "windows.lookback": 30, "training.learning_rate": 0.01})
    assert (after.windows.lookback, after.training.learning_rate) == (30, 0.01)
    same = {"windows": before.windows, "training": before.training}
    assert after.model_copy(update=same) == before


@pytest.mark.parametrize("recipe", ["default", "classic"])
def test_the_settings_as_they_are_come_first_once_a_network(recipe: str) -> None:
    values: dict[str, dict[str, Any]] = {}
    for name, value in recipe_settings(recipe).items():
        section, _, field = name.partition(".")
        values.setdefault(section, {})[field] = value
    settings = Settings.model_validate(values)
    first = first_params(settings)
    assert [params["cell"] for params in first] == ["gru", "lstm"]
    assert [applied(settings, params) for params in first] == [settings, settings]
    assert first_params(settings.model_copy(update={"tune": settings.tune.model_copy(
        update={"start_from_settings": False})})) == []  # fmt: skip


def test_a_sweep_is_named_by_what_shapes_its_trials() -> None:
    base = Settings()
    same = [{"tune": {"trials": 99}}, {"tune": {"concurrent": 1}}, {"training": {"workers": 2}}, {"run": {"home": "x"}}]
    other = [{"seed": 1}, {"tune": {"cells": ["gru"]}}, {"training": {"epochs": 9}}, {"windows": {"horizon": 2}}]
    assert {sweep_id("d", Settings.model_validate(change)) for change in same} == {sweep_id("d", base)}
    names = {sweep_id("d", Settings.model_validate(change)) for change in other}
    assert len(names | {sweep_id("d", base), sweep_id("e", base)}) == len(other) + 2


def test_the_ledger_gives_back_what_was_kept(tmp_path: Path) -> None:
    ledger = Ledger(Store(str(tmp_path)), "s")
    kept = [trial(2, (0.3, 0.2)), trial(1, state="running"), trial(3, state="failed", reason="no", again=True)]
    for one in kept:
        ledger.keep(one)
    again = Ledger.open(Store(str(tmp_path)), "s")
    assert again.in_order() == (kept[1], kept[0], kept[2])
    assert list(again.ended()) == [kept[0]]
    ledger.forget()
    assert Ledger.open(Store(str(tmp_path)), "s").in_order() == ()


def test_a_damaged_document_is_named(tmp_path: Path) -> None:
    ledger = Ledger(Store(str(tmp_path)), "s")
    ledger.keep(trial(1, (0.3,)))
    (tmp_path / "sweeps" / "s" / f"{trial(1).key}.json").write_text("{")
    with pytest.raises(IntegrityError, match=f"{trial(1).key}.json is damaged"):
        Ledger.open(Store(str(tmp_path)), "s")


def test_the_best_trial_has_the_lowest_score_of_any_epoch() -> None:
    trials = (trial(1, (0.3, 0.2, 0.25)), trial(2, (0.22, 0.21)), trial(3, state="failed", reason="it diverged"))
    result = SweepResult(sweep_id="s", dataset_id="d", settings=Settings(), trials=trials)
    assert (result.best.number, result.best.best_epoch) == (1, 2)
    assert result.best_settings.training.learning_rate == 0.001
    document = result.document()
    assert [row["number"] for row in document["trials"]] == [1, 2, 3]
    assert document["best"] == 1


def test_if_every_trial_failed_the_first_reason_is_told() -> None:
    failed = tuple(trial(n, state="failed", reason=f"reason {n}") for n in (1, 2))
    with pytest.raises(TrainingError, match="none of 2 trials of sweep s could be trained; the first reason: reason 1"):
        _ = SweepResult(sweep_id="s", dataset_id="d", settings=Settings(), trials=failed).best
