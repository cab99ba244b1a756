"""A real registry on SQLite with small fitted models, and a recorder of figures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flts_ray.config import Settings, canonical_json
from flts_ray.models.manifest import digest_of
from flts_ray.runs import open_run
from flts_ray.tracking.client import Gateway
from flts_ray.tracking.registry import ModelRegistry
from flts_ray.tracking.run import Tracker
from serve.instruments import NullInstruments
from tests.stages import Bench


class Recorder(NullInstruments):
    """Remembers versions and swaps."""

    def __init__(self) -> None:
        self.versions: list[tuple[str, str]] = []
        self.swaps: list[str] = []

    def model(self, *, wanted: str, loaded: str) -> None:
        self.versions.append((wanted, loaded))

    def swap(self, *, outcome: str, lag_s: float) -> None:
        assert lag_s >= 0
        self.swaps.append(outcome)


@dataclass
class Shelf:
    """Versions of one registered model."""

    bench: Bench
    tracker: Tracker
    identifier: str
    registry: ModelRegistry = field(init=False)

    def __post_init__(self) -> None:
        self.registry = ModelRegistry(self.tracker.gateway, self.identifier)

    @property
    def settings(self) -> Settings:
        """Those of a service of these models."""
        return self.bench.with_settings(serve={"poll_s": 0.05})

    def add(self, folder: Path) -> str:
        """Register the bundle in ``folder`` and promote it."""
        name = f"{self.identifier}-{len(list(self.versions()))}"
        with self.tracker.run(name) as run:
            run.log_bundle(folder)
            run.log_metrics({"test_rmse_bits": 2.0, "val_loss": 1.0})
        assert self.tracker.flush()
        version = self.registry.register(run.run_id, name, tags={"kind": "gru"})
        self.registry.promote(version)
        return version

    def versions(self) -> Iterator[Any]:
        """Every version there is."""
        yield from self.tracker.gateway.call("list", "search_model_versions", f"name = '{self.registry.name}'")

    def withdraw(self) -> None:
        """Leave the model without a champion."""
        self.tracker.gateway.call("unset", "delete_registered_model_alias", self.registry.name, "champion")


@contextmanager
def open_tracker(bench: Bench) -> Iterator[Tracker]:
    """The tracking store of a bench."""
    with (
        open_run(bench.home, "digest", "shelf") as run,
        Tracker(bench.settings.tracking, bench.home, run.folder) as made,
    ):
        yield made


def away(port: int, home: Path, identifier: str) -> ModelRegistry:
    """A registry that nobody answers for."""
    settings = Settings.model_validate({"tracking": {"uri": f"http://127.0.0.1:{port}"}}).tracking
    return ModelRegistry(Gateway(settings, home), identifier, wait_s=0)


def copy_with(source: Path, target: Path, damage: Callable[[Path], None]) -> Path:
    """A copy of a bundle to which something happened."""
    shutil.copytree(source, target)
    damage(target)
    return target


def flip_a_byte(folder: Path) -> None:
    """In the middle of the weights."""
    file = folder / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def lose_the_weights(folder: Path) -> None:
    """Only ``bundle.json`` is left."""
    (folder / "weights.safetensors").unlink()


def age_the_format(folder: Path) -> None:
    """A whole bundle, of a format that this program does not read."""
    file = folder / "bundle.json"
    content = json.loads(file.read_text()) | {"schema_version": 99}
    file.write_text(canonical_json(content | {"digest": digest_of(content)}))
