"""The rows that benchmarks run on: the published PobleSec files where they are at hand, else generated ones."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flts_ray.config import Settings
from flts_ray.config_layers import load_settings
from flts_ray.data.dataset import Dataset, load_dataset
from flts_ray.data.preprocess import preprocess
from flts_ray.data.storage import Store


@dataclass(frozen=True, slots=True)
class Source:
    """A pair of files, or several, of one station or several."""

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]

    def settings(self, **options: Any) -> Settings:
        """Settings for this source, untouched by the environment; dotted keys written with ``__``."""
        given = {key.replace("__", "."): value for key, value in options.items()}
        return load_settings(
            options={"data.train": self.train, "data.test": self.test or None, **given}, environ={}
        ).settings


def station(scratch: Path) -> Source:
    """PobleSec from ``<repository>/../shared/data`` or ``$FLTS_DATA_DIR``; else sample data, written to ``scratch``."""
    folder = Path(os.environ.get("FLTS_DATA_DIR", Path(__file__).resolve().parents[2] / "shared" / "data"))
    train, test = folder / "PobleSec.csv", folder / "PobleSec_test.csv"
    if train.exists() and test.exists():
        return Source("PobleSec", (str(train),), (str(test),))
    from flts_ray.data.sample_data import write_sample_data

    files = write_sample_data(scratch / "sample", stations=("Harbour",), days=28)
    return Source("sample data", (str(files[0]),), (str(files[1]),))


def prepare(source: Source, store: Store, options: Mapping[str, Any]) -> tuple[Settings, Dataset]:
    """Preprocess a source and load what came out. Ray must run."""
    settings = source.settings(**options)
    claim = preprocess(settings, store, code_version="benchmark").claim
    return settings, load_dataset(store, claim.dataset_id)
