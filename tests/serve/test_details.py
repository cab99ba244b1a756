"""What /v1/model can tell of a model, and what it says where something is out of reach."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flts_ray.data.storage import Store
from flts_ray.inference.engine import Engine
from flts_ray.models.bundle import Bundle
from serve.details import describe, scaler_digest
from tests.serve.shelf import Shelf, away, open_tracker
from tests.services import free_ports
from tests.stages import make_bench

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module", autouse=True)
def restored_environment() -> Iterator[None]:
    """Put back what the tracking client sets for the process."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    bench = make_bench(tmp_path_factory.mktemp("details"), ("alpha", "beta"))
    with open_tracker(bench) as tracker:
        shelf = Shelf(bench, tracker, "stations")
        shelf.add(bench.fit().folder)
        yield shelf


@pytest.fixture(scope="module")
def engine(shelf: Shelf) -> Engine:
    return Engine(Bundle.load(shelf.bench.fit().folder))


def test_a_model_tells_its_whole_story_as_json(shelf: Shelf, engine: Engine) -> None:
    champion = shelf.registry.champion()
    assert champion is not None
    story = json.loads(json.dumps(describe(champion, engine, shelf.registry, shelf.bench.store), allow_nan=False))
    manifest, dataset = engine.bundle.manifest, shelf.bench.dataset
    assert (story["kind"], story["dataset_id"], story["sampled"]) == ("gru", dataset.dataset_id, False)
    assert story["tags"]["kind"] == "gru"
    assert story["registered_at"] == champion.registered_at
    assert story["stations"] == ["alpha", "beta"]
    assert story["columns"][0] == {"name": "down", "unit": "bits"}
    assert {c["name"]: c["unit"] for c in story["columns"]}["rnti_count"] == "count"
    assert story["features"] == list(dataset.feature_names)
    assert (story["targets"], story["target_unit"], story["step_s"]) == (["down"], "bits", 600.0)
    assert (story["lookback"], story["horizon"]) == (manifest.lookback, manifest.horizon)
    assert story["context_rows"] == engine.context_rows
    assert story["coverage"] == [0.9]
    assert story["scaler_sha256"] == scaler_digest(manifest.transforms)
    assert story["libraries"] == manifest.libraries
    assert set(story["training"]) == {"alpha", "beta"}
    window, raw = story["training"]["alpha"], dataset.raws[0]
    assert window["rows"] == 240
    assert (window["start"][:19], window["end"][:19]) == (str(raw.time[0])[:19], str(raw.time[239])[:19])
    assert story["metrics"] == {"rmse_bits": 2.0}  # what it scored on the test rows, not in training
    assert story["notes"] == []


def test_what_is_out_of_reach_is_said_and_does_not_stop_it(shelf: Shelf, engine: Engine, tmp_path: Path) -> None:
    champion = shelf.registry.champion()
    assert champion is not None
    story = describe(champion, engine, away(free_ports(1)[0], tmp_path, "stations"), Store(str(tmp_path / "empty")))
    assert (story["training"], story["metrics"]) == (None, None)
    assert any("training window is not known: there is no dataset" in note for note in story["notes"])
    assert any("metrics of run" in note for note in story["notes"])
    assert story["stations"] == ["alpha", "beta"]


def test_the_digest_of_scalers_tells_scalers_apart_and_nothing_else(shelf: Shelf) -> None:
    transforms = shelf.bench.dataset.transforms
    digest, some = scaler_digest(transforms), transforms["alpha"]
    first, *others = some.scalers
    moved = some.model_copy(update={"scalers": (first.model_copy(update={"center": first.center + 1e-9}), *others)})
    assert scaler_digest(dict(reversed(transforms.items()))) == digest
    assert scaler_digest(transforms | {"alpha": some.model_copy(update={"target_range": (1.0,)})}) == digest
    assert scaler_digest(transforms | {"alpha": moved}) != digest
