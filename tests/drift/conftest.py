"""A small fitted model, and rows that it could be sent."""

from __future__ import annotations

import numpy as np
import pytest

from flts_ray.config import RAW_COLUMNS
from flts_ray.data.frame import RawFrame
from flts_ray.models.bundle import Bundle
from tests.helpers import station_values
from tests.stages import Bench, make_bench


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Two days of one station, every ten minutes."""
    return make_bench(tmp_path_factory.mktemp("drift"))


@pytest.fixture(scope="session")
def bundle(bench: Bench) -> Bundle:
    return bench.fit(settings=bench.with_settings(training={"epochs": 40})).bundle


@pytest.fixture(scope="session")
def live() -> RawFrame:
    """Rows of the same kind as those of training."""
    time = np.datetime64("2018-03-01T00:00", "ns") + np.timedelta64(600, "s") * np.arange(600)
    return RawFrame(series="alpha", time=time, columns=RAW_COLUMNS, values=station_values(600, seed=7))


def broken(raw: RawFrame, column: str, factor: float) -> RawFrame:
    """The rows with one column scaled."""
    values = raw.values.copy()
    values[:, raw.columns.index(column)] *= factor
    return RawFrame(series=raw.series, time=raw.time, columns=raw.columns, values=values)
