"""One small dataset for all trainings under Ray."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch

from flts_ray.cluster import Cluster
from flts_ray.config import Settings
from flts_ray.data.dataset import load_dataset
from flts_ray.data.preprocess import preprocess
from flts_ray.data.storage import Store
from flts_ray.telemetry.logging import LOGGER
from flts_ray.training.fit import FittedRecurrent, fit_recurrent
from tests.helpers import write_stations
from tests.training.fits import EPOCHS, Event, Setup


@pytest.fixture(scope="session")
def setup(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Setup:
    folder = tmp_path_factory.mktemp("trainer")
    train, test = write_stations(folder, ("alpha", "beta"), train=150, test=20)
    settings = Settings.model_validate(
        {
            "data": {"train": train, "test": test, "targets": ("down", "up")},
            "features": {"ema_spans": (6,), "rolling_std": (), "profile": False},
            "windows": {"lookback": 4, "horizon": 2},
            "recurrent": {"hidden_size": 8, "series_embedding": 2},
            "training": {"epochs": EPOCHS, "batch_size": 33, "cpus_per_worker": 0.5},
        }
    )
    Cluster(settings.run).ensure()  # prepares the environment; Ray runs already
    store = Store(str(folder / "home"))
    claim = preprocess(settings, store, code_version="test").claim
    return Setup(store, load_dataset(store, claim.dataset_id), settings)


@pytest.fixture(scope="session")
def plain(setup: Setup) -> Iterator[FittedRecurrent]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield fit_recurrent("gru", setup.dataset.frames, setup.dataset.transforms, setup.settings)
    torch.set_num_threads(threads)


@pytest.fixture
def events() -> Iterator[list[Event]]:
    """The name and the fields of every event from here on."""
    found: list[Event] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append((record.getMessage(), dict(getattr(record, "fields", {}))))

    keep, level = Keep(), LOGGER.level
    LOGGER.addHandler(keep)
    LOGGER.setLevel(logging.INFO)
    yield found
    LOGGER.removeHandler(keep)
    LOGGER.setLevel(level)
