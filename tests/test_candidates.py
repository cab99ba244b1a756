"""Candidates are named by what shapes them, kept once, and recognised only when whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flts_ray.candidates import SUMMARY_FILE, CandidateStore, FittedCandidate, candidate_id
from flts_ray.config import Settings
from flts_ray.data.storage import Store
from flts_ray.errors import BundleError
from flts_ray.models.bundle import MANIFEST_FILE, WEIGHTS_FILE
from tests.stages import Bench, make_bench

pytestmark = pytest.mark.unit

DATASET = "0123456789abcdef"


def name_with(kind: str = "gru", dataset_id: str = DATASET, **sections: Any) -> str:
    return candidate_id(kind, dataset_id, Settings.model_validate(sections))


@pytest.mark.parametrize(
    ("kind", "shaping"),
    [
        ("gru", {"seed": 7}),
        ("gru", {"windows": {"lookback": 12}}),
        ("gru", {"windows": {"horizon": 2}}),
        ("gru", {"recurrent": {"hidden_size": 65}}),
        ("gru", {"recurrent": {"series_embedding": 4}}),
        ("gru", {"training": {"epochs": 9}}),
        ("gru", {"evaluation": {"coverage": 0.8}}),
        ("prophet", {"prophet": {"seasonality_mode": "multiplicative"}}),
        ("prophet", {"training": {"validation_fraction": 0.3}}),
    ],
    ids=str,
)
def test_what_shapes_a_candidate_changes_its_name(kind: str, shaping: dict[str, Any]) -> None:
    assert name_with(kind, **shaping) != name_with(kind)


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        ("gru", {"prophet": {"seasonality_mode": "multiplicative"}}),
        ("gru", {"training": {"cpus_per_worker": 0.5, "max_failures": 0}}),
        ("gru", {"run": {"home": "elsewhere", "force": True}}),
        ("gru", {"candidates": ("gru",)}),
        ("prophet", {"training": {"epochs": 9}}),
        ("prophet", {"recurrent": {"hidden_size": 65}}),
    ],
    ids=str,
)
def test_what_does_not_shape_it_does_not(kind: str, other: dict[str, Any]) -> None:
    assert name_with(kind, **other) == name_with(kind)


def test_kind_and_dataset_are_part_of_the_name() -> None:
    assert name_with("gru").startswith("gru-")
    assert name_with("gru").removeprefix("gru-") != name_with("lstm").removeprefix("lstm-")
    assert name_with(dataset_id="f" * 16) != name_with()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("candidates"))


@pytest.fixture
def saved(bench: Bench) -> FittedCandidate:
    return bench.fit()


def test_a_saved_candidate_is_found_and_forecasts_the_same(bench: Bench, saved: FittedCandidate) -> None:
    found = bench.candidates.find(saved.summary.candidate_id)
    assert found is not None
    assert (found.reused, saved.reused) == (True, False)
    assert found.summary == saved.summary
    frame = bench.dataset.frames[0]
    origins = np.arange(10, 60)
    np.testing.assert_array_equal(
        found.bundle.forecaster.predict(frame, origins), saved.bundle.forecaster.predict(frame, origins)
    )


def test_one_that_was_never_saved_is_not_found(bench: Bench) -> None:
    assert bench.candidates.find("gru-000000000000") is None


def test_one_whose_summary_is_missing_was_not_saved_whole(bench: Bench, saved: FittedCandidate) -> None:
    (saved.folder / SUMMARY_FILE).unlink()
    assert bench.candidates.find(saved.summary.candidate_id) is None


@pytest.mark.parametrize("file", [WEIGHTS_FILE, MANIFEST_FILE, SUMMARY_FILE])
def test_a_damaged_file_is_refused_and_can_be_forgotten(bench: Bench, saved: FittedCandidate, file: str) -> None:
    path = saved.folder / file
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BundleError):
        bench.candidates.find(saved.summary.candidate_id)
    bench.candidates.forget(saved.summary.candidate_id)
    assert bench.candidates.find(saved.summary.candidate_id) is None


def test_a_candidate_under_another_ones_name_is_refused(bench: Bench, saved: FittedCandidate) -> None:
    other = saved.folder.with_name("gru-000000000000")
    saved.folder.rename(other)
    with pytest.raises(BundleError, match=saved.summary.candidate_id):
        bench.candidates.find(other.name)
    bench.candidates.forget(other.name)


def test_another_machine_finds_it_in_the_object_store(bench: Bench, saved: FittedCandidate, tmp_path: Path) -> None:
    shared = Store(str(tmp_path / "shared"))
    CandidateStore(tmp_path / "one", shared).save(saved.bundle, saved.summary)
    other = CandidateStore(tmp_path / "two", shared)
    found = other.find(saved.summary.candidate_id)
    assert found is not None
    assert found.folder.is_relative_to(tmp_path / "two")
    assert found.summary == saved.summary
    other.forget(saved.summary.candidate_id)
    assert CandidateStore(tmp_path / "three", shared).find(saved.summary.candidate_id) is None


def test_what_was_saved_can_be_held_against_what_was_fitted(
    bench: Bench, saved: FittedCandidate, tmp_path: Path
) -> None:
    store = CandidateStore(tmp_path, Store(str(tmp_path)))
    again = store.save(saved.bundle, saved.summary)
    assert again.bundle is saved.bundle
    found = store.find(saved.summary.candidate_id)
    assert found is not None
    assert found.bundle.forecaster is not saved.bundle.forecaster
