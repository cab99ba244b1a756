from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from starlette.testclient import TestClient

from flts_ray.config import Settings
from flts_ray.data.frame import RawFrame
from flts_ray.models.bundle import Bundle
from tests.serve.here import as_columns, client, here
from tests.stages import make_bench


@dataclass(frozen=True)
class Served:
    """Two stations' model, and rows that it has not seen."""

    settings: Settings
    bundle: Bundle
    rows: dict[str, RawFrame]

    def columns(self, series: str = "alpha", rows: int = 30, **how: Any) -> dict[str, Any]:
        """The latest rows of a station."""
        frame = self.rows[series]
        last = replace(frame, time=frame.time[-rows:], values=frame.values[-rows:])
        return as_columns(last, **how)

    def history(self, series: str = "alpha", rows: int = 30, **how: Any) -> dict[str, Any]:
        """A history as it is sent."""
        return {"series": series, "columns": self.columns(series, rows, **how)}

    def client(self, **how: Any) -> TestClient:
        return client(here(self.settings, self.bundle), **how)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A small network for two stations, fitted once."""
    bench = make_bench(tmp_path_factory.mktemp("served"), ("alpha", "beta"))
    raws = {raw.series: raw for raw in bench.dataset.raws}
    return Served(bench.settings, bench.fit().bundle, raws)
