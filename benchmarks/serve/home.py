"""A home with a trained champion to measure on, and the registry's levers that the scenarios pull."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.sources import station
from flts_ray.config import Settings
from flts_ray.config_layers import load_settings
from flts_ray.data.dataset import Dataset, dataset_ids, load_dataset
from flts_ray.data.storage import Store
from flts_ray.models.bundle import Bundle
from flts_ray.tracking.client import BUNDLE, FoundRun, Gateway, now_ms
from flts_ray.tracking.registry import ModelRegistry

DAMAGED = "damaged-for-the-benchmark"


def command() -> list[str]:
    """How ``flts`` is called from this environment."""
    script = Path(sys.executable).with_name("flts")
    return [str(script)] if script.exists() else [sys.executable, "-c", "from flts_ray.cli import main; main()"]


def trained_home(folder: Path) -> Home:
    """The home in this folder, after ``flts run`` if it holds none. The scenarios write to it."""
    if not (folder / "mlflow.db").exists():
        folder.mkdir(parents=True, exist_ok=True)
        source = station(folder)
        files = [f"--train={file}" for file in source.train] + [f"--test={file}" for file in source.test]
        print(f"no champion in {folder}: training one on {source.name} …", file=sys.stderr)
        environ = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([*command(), "run", *files, "--home", str(folder)], check=True, env=environ, stdout=sys.stderr)
    return Home(folder.resolve())


@dataclass(frozen=True)
class Home:
    """A home whose champion is served.

    Attributes:
        folder: The home.
    """

    folder: Path

    @cached_property
    def settings(self) -> Settings:
        """Its settings: the defaults."""
        return load_settings(options={"run.home": str(self.folder)}, environ={}).settings

    @cached_property
    def dataset(self) -> Dataset:
        """The rows that its models were trained and evaluated on."""
        store = Store(str(self.folder))
        (dataset_id,) = dataset_ids(store)
        return load_dataset(store, dataset_id)

    @property
    def identifier(self) -> str:
        """What is served."""
        return self.dataset.frames[0].series

    @cached_property
    def gateway(self) -> Gateway:
        """Its tracking store."""
        return Gateway(self.settings.tracking, self.folder)

    @cached_property
    def registry(self) -> ModelRegistry:
        """Its registered models."""
        return ModelRegistry(self.gateway, self.identifier)

    @property
    def champion(self) -> str:
        """The version that is served."""
        champion = self.registry.champion()
        if champion is None:
            raise RuntimeError(f"{self.folder} has no champion: remove it, it is trained again")
        return champion.version

    def bundle(self, version: str) -> Bundle:
        """The model of a version."""
        with tempfile.TemporaryDirectory(prefix="flts-bench-") as scratch:
            return Bundle.load(self.registry.download(version, Path(scratch, "bundle")))

    def bundle_folder(self, version: str, target: Path) -> Path:
        """The files of a version, copied for a peer."""
        return self.registry.download(version, target)

    def second_version(self) -> str:
        """Another candidate of the same run, registered without becoming champion."""
        champion = self.registry.champion()
        assert champion is not None
        for run in self._runs():
            name = run.tags.get("candidate_id", "")
            if name and name != champion.candidate_id and run.tags.get("kind") in ("gru", "lstm"):
                tags = {"kind": run.tags["kind"], "dataset_id": self.dataset.dataset_id}
                return self.registry.register(run.run_id, name, tags=tags)
        raise RuntimeError(f"{self.folder} holds no second network to swap to")

    def damaged_version(self) -> str:
        """A version whose weights are not those that were saved."""
        gateway = self.gateway
        experiment = gateway.experiment_id()
        with tempfile.TemporaryDirectory(prefix="flts-bench-") as scratch:
            folder = self.registry.download(self.champion, Path(scratch, BUNDLE))
            weights = folder / "weights.safetensors"
            content = bytearray(weights.read_bytes())
            content[-1] ^= 0xFF
            weights.write_bytes(content)
            run_id = gateway.create_run(experiment, DAMAGED, {"kind": "gru"}, now_ms())
            for file in folder.iterdir():
                gateway.log_file(run_id, file, BUNDLE)
            gateway.end_run(run_id, "FINISHED", now_ms())
        return self.registry.register(run_id, f"{DAMAGED}-{run_id[:8]}", tags={"kind": "gru"})

    def _runs(self) -> list[FoundRun]:
        return self.gateway.find_runs(self.gateway.experiment_id(), "attributes.status = 'FINISHED'")
