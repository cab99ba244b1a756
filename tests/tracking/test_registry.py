"""The registry on the embedded store."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flts_ray.errors import BundleError, ConfigError, TrackingError
from flts_ray.tracking.registry import PREVIOUS, ModelRegistry
from flts_ray.tracking.run import Tracker
from tests.tracking.registry_cases import RegistryCases

pytestmark = pytest.mark.unit


@pytest.fixture
def store(tracker: Tracker) -> Tracker:
    return tracker


@pytest.fixture
def registry(tracker: Tracker, request: pytest.FixtureRequest) -> ModelRegistry:
    return ModelRegistry(tracker.gateway, request.node.name)


class TestEmbedded(RegistryCases):
    """All cases on SQLite."""


def test_a_candidate_whose_files_are_gone_is_registered_again(
    store: Tracker, registry: ModelRegistry, bundle: Path
) -> None:
    first = RegistryCases.register(store, registry, bundle, "c1")
    run_id = store.gateway.call("find", "get_model_version", registry.name, first).run_id
    home = Path(store.uri.removeprefix("sqlite:///")).parent
    (stored,) = home.glob(f"mlartifacts/**/{run_id}/artifacts/bundle")
    shutil.rmtree(stored)
    with pytest.raises(BundleError):
        registry.download(first, home / "download-gone")
    with store.run(f"{registry.name}/again") as run:
        run.log_bundle(bundle)
    assert store.flush()
    assert registry.register(run.run_id, "c1") != first


def test_a_rollback_cut_off_in_the_middle_is_not_repeated(
    store: Tracker, registry: ModelRegistry, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (RegistryCases.register(store, registry, bundle, c) for c in ("c1", "c2"))
    registry.promote(one)
    registry.promote(two)
    real = ModelRegistry._point

    def cut(self: ModelRegistry, alias: str, version: str) -> None:
        if alias == PREVIOUS:
            raise TrackingError("cut off")
        real(self, alias, version)

    with monkeypatch.context() as patch, pytest.raises(TrackingError, match="cut off"):
        patch.setattr(ModelRegistry, "_point", cut)
        registry.rollback()
    champion = registry.champion()
    assert champion is not None
    assert champion.version == one  # the good model is served, and a second rollback does not undo it
    with pytest.raises(TrackingError, match="both as champion and as previous"):
        registry.rollback()


@pytest.mark.parametrize("identifier", ["", "a/b", "a b", "x' OR '1'='1", "ü"])
def test_identifiers_that_cannot_name_a_model_are_refused(tracker: Tracker, identifier: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a model"):
        ModelRegistry(tracker.gateway, identifier)
