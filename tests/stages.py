"""Small datasets and fitted candidates, made in this process: for tests of stages that come after them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flts_ray.candidates import CandidateStore, FitSummary, FittedCandidate, candidate_id
from flts_ray.config import Settings
from flts_ray.data import preprocess as preprocessing
from flts_ray.data.dataset import Dataset, load_dataset
from flts_ray.data.storage import Store
from flts_ray.training.fit import fit_recurrent
from flts_ray.training.stage import bundle_of
from tests.helpers import write_stations


@dataclass(frozen=True)
class Bench:
    """One home with one dataset."""

    home: Path
    store: Store
    settings: Settings
    dataset: Dataset

    @property
    def candidates(self) -> CandidateStore:
        return CandidateStore(self.home, self.store)

    def with_settings(self, **sections: dict[str, Any] | Any) -> Settings:
        """The settings with some changed."""
        values = self.settings.model_dump()
        for name, change in sections.items():
            values[name] = {**values[name], **change} if isinstance(change, dict) else change
        return Settings.model_validate(values)

    def fit(self, kind: str = "gru", settings: Settings | None = None) -> FittedCandidate:
        """A network trained by the plain loop, saved as the training stage saves it."""
        chosen = settings or self.settings
        name = candidate_id(kind, self.dataset.dataset_id, chosen)
        fitted = fit_recurrent("gru" if kind == "gru" else "lstm", self.dataset.frames, self.dataset.transforms, chosen)
        bundle = bundle_of(fitted.forecaster, name, self.dataset, chosen)
        return self.candidates.save(bundle, FitSummary(kind=kind, candidate_id=name, fit_s=fitted.result.fit_s))


def in_this_process(function: Any, items: Sequence[Any], job: Any, outcome: Any) -> Iterator[Any]:
    """What Ray Data does in preprocessing, without Ray."""
    return (function(item, job) for item in items)


def make_bench(
    folder: Path,
    stations: tuple[str, ...] = ("alpha",),
    *,
    gap: int = 0,
    late: Mapping[str, int] | None = None,
    **sections: Any,
) -> Bench:
    """Preprocess small stations without Ray; those in ``late`` have so few train rows."""
    train, test = write_stations(folder, stations, train=240, test=60, gap=gap, late=late)
    settings = Settings.model_validate(
        {
            "candidates": ("gru",),
            "features": {"ema_spans": (6,), "rolling_std": (), "profile": False},
            "windows": {"lookback": 4},
            "recurrent": {"hidden_size": 8},
            "training": {"epochs": 12, "batch_size": 32, "learning_rate": 0.02},
            **sections,
            "data": {"train": train, "test": test, **sections.get("data", {})},
            "run": {"home": str(folder / "home"), "num_cpus": 2},
        }
    )
    store = Store(str(folder / "home"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocessing, "_run", in_this_process)
        claim = preprocessing.preprocess(settings, store, code_version="test").claim
    return Bench(folder / "home", store, settings, load_dataset(store, claim.dataset_id))
