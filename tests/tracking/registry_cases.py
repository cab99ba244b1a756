"""What a registry must do on any store: run on the embedded one and on a real server."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flts_ray.errors import TrackingError
from flts_ray.tracking.client import Gateway
from flts_ray.tracking.registry import ModelRegistry
from flts_ray.tracking.run import Tracker


class RegistryCases:
    """Tests that need a ``store`` (a Tracker), a ``registry`` with a fresh identifier, and a ``bundle`` folder."""

    @staticmethod
    def register(store: Tracker, registry: ModelRegistry, bundle: Path, candidate: str) -> str:
        with store.run(f"{registry.name}/{candidate}") as run:
            run.log_bundle(bundle)
        assert store.flush()
        return registry.register(run.run_id, candidate, tags={"kind": "gru", "dataset_id": "d1"})

    def test_nothing_is_served_before_the_first_promotion(self, registry: ModelRegistry) -> None:
        assert registry.champion() is None
        assert registry.previous() is None
        with pytest.raises(TrackingError, match="has no champion"):
            registry.rollback()

    def test_a_registered_model_without_champion_has_none(
        self, store: Tracker, registry: ModelRegistry, bundle: Path
    ) -> None:
        self.register(store, registry, bundle, "c1")
        assert registry.champion() is None

    def test_one_version_a_candidate(self, store: Tracker, registry: ModelRegistry, bundle: Path) -> None:
        first = self.register(store, registry, bundle, "c1")
        other = self.register(store, registry, bundle, "c2")
        assert self.register(store, registry, bundle, "c1") == first == "1"
        assert other == "2"

    def test_a_run_without_bundle_is_refused(self, store: Tracker, registry: ModelRegistry) -> None:
        with store.run(f"{registry.name}/empty") as run:
            pass
        assert store.flush()
        with pytest.raises(TrackingError, match="holds no artifacts under bundle/"):
            registry.register(run.run_id, "c1")
        assert registry.champion() is None

    def test_promotion_moves_the_aliases_once(self, store: Tracker, registry: ModelRegistry, bundle: Path) -> None:
        one, two, three = (self.register(store, registry, bundle, c) for c in ("c1", "c2", "c3"))
        registry.promote(one)
        assert registry.previous() is None
        registry.promote(two)
        registry.promote(two)
        champion, previous = registry.champion(), registry.previous()
        assert champion is not None
        assert previous is not None
        assert (champion.version, previous.version) == (two, one)
        assert champion.tags == {"candidate_id": "c2", "kind": "gru", "dataset_id": "d1"}
        assert champion.candidate_id == "c2"
        assert registry.version(two) == champion
        registry.promote(three)
        assert [ref.version for ref in (registry.champion(), registry.previous()) if ref] == [three, two]

    def test_a_lost_answer_registers_and_promotes_once(
        self, store: Tracker, registry: ModelRegistry, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with store.run(f"{registry.name}/lost") as run:
            run.log_bundle(bundle)
        assert store.flush()
        real, lost = Gateway.call, []

        def call(self: Gateway, doing: str, method: str, /, *args: Any, **kwargs: Any) -> Any:
            answer = real(self, doing, method, *args, **kwargs)
            if method.startswith(("create_", "set_")) and method not in lost:
                lost.append(method)
                raise TrackingError("no answer") from TimeoutError()
            return answer

        monkeypatch.setattr(Gateway, "call", call)
        registry.promote(registry.register(run.run_id, "c1"))
        assert lost == ["create_registered_model", "create_model_version", "set_registered_model_alias"]
        champion = registry.champion()
        assert champion is not None
        assert (champion.version, champion.candidate_id) == ("1", "c1")
        assert registry.previous() is None

    def test_rollback_swaps_and_swaps_back(self, store: Tracker, registry: ModelRegistry, bundle: Path) -> None:
        one, two = (self.register(store, registry, bundle, c) for c in ("c1", "c2"))
        registry.promote(one)
        with pytest.raises(TrackingError, match="has no previous champion"):
            registry.rollback()
        registry.promote(two)
        assert registry.rollback().version == one
        assert [ref.version for ref in (registry.champion(), registry.previous()) if ref] == [one, two]
        assert registry.rollback().version == two

    def test_an_unknown_version_cannot_be_promoted(self, store: Tracker, registry: ModelRegistry, bundle: Path) -> None:
        one = self.register(store, registry, bundle, "c1")
        registry.promote(one)
        with pytest.raises(TrackingError, match="find version 99"):
            registry.promote("99")
        champion = registry.champion()
        assert champion is not None
        assert champion.version == one

    def test_a_version_says_when_it_was_registered(self, store: Tracker, registry: ModelRegistry, bundle: Path) -> None:
        before = datetime.now(UTC) - timedelta(seconds=1)  # a server's clock counts in whole milliseconds
        registry.promote(self.register(store, registry, bundle, "c1"))
        champion = registry.champion()
        assert champion is not None
        registered = datetime.fromisoformat(champion.registered_at)
        assert before <= registered <= datetime.now(UTC) + timedelta(seconds=1)

    def test_the_metrics_of_a_run_are_its_latest_finite_ones(self, store: Tracker, registry: ModelRegistry) -> None:
        with store.run(f"{registry.name}/metrics") as run:
            run.log_metrics({"test_rmse_bits": 3.0, "test_r2": math.nan})
            run.log_metrics({"test_rmse_bits": 2.5}, step=1)
        assert store.flush()
        assert registry.metrics(run.run_id) == {"test_rmse_bits": 2.5}
        with pytest.raises(TrackingError, match="read the metrics of run"):
            registry.metrics("0" * 32)

    def test_a_bundle_comes_back_whole(
        self, store: Tracker, registry: ModelRegistry, bundle: Path, tmp_path: Path
    ) -> None:
        version = self.register(store, registry, bundle, "c1")
        folder = registry.download(version, tmp_path / "models" / "v1")
        assert {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()} == {
            str(f.relative_to(bundle)): f.read_bytes() for f in bundle.rglob("*") if f.is_file()
        }
        assert [p.name for p in (tmp_path / "models").iterdir()] == ["v1"]
        with pytest.raises(TrackingError, match="not an empty folder"):
            registry.download(version, folder)

    def test_downloading_an_unknown_version_leaves_nothing(self, registry: ModelRegistry, tmp_path: Path) -> None:
        with pytest.raises(TrackingError, match="fetch version 7"):
            registry.download("7", tmp_path / "models" / "v7")
        assert not (tmp_path / "models" / "v7").exists()
