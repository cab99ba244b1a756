from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flts_ray.config import TrackingSettings
from flts_ray.tracking.run import Tracker


@pytest.fixture(scope="session", autouse=True)
def restored_environment() -> Iterator[None]:
    """Put back what configure_process sets for the process."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    """One embedded store for all tests: a fresh schema takes seconds. The home has a space in its name."""
    return Tracker(TrackingSettings(), tmp_path_factory.mktemp("flts home") / "home")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle-source"
    (folder / "arrays").mkdir(parents=True)
    (folder / "manifest.json").write_text('{"kind": "gru"}')
    (folder / "arrays" / "weights.bin").write_bytes(b"\x00\x01\x02")
    return folder
