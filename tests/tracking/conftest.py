from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from flts_ray.config import TrackingSettings
from flts_ray.runs import open_run
from flts_ray.tracking.run import Tracker


@pytest.fixture(scope="session", autouse=True)
def restored_environment() -> Iterator[None]:
    """Put back what configure_process sets for the process."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


_FIRST_USE = """
import sys
from pathlib import Path
from flts_ray.config import TrackingSettings
from flts_ray.tracking.run import Tracker
home = Path(sys.argv[1])
with Tracker(TrackingSettings(), home, home / "runs" / "first-use") as tracker, tracker.run("first-use") as run:
    run.log_metrics({"rmse_bits": 1.0})
"""


class FreshStore(NamedTuple):
    """A new embedded store and what its making wrote to the terminal."""

    home: Path
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def fresh_store(tmp_path_factory: pytest.TempPathFactory) -> FreshStore:
    """Made once, by a process of its own: a fresh schema takes seconds. The home has a space in its name."""
    home = tmp_path_factory.mktemp("flts home") / "home"
    made = subprocess.run([sys.executable, "-c", _FIRST_USE, str(home)], capture_output=True, text=True, check=False)
    return FreshStore(home, made.stdout, made.stderr)


@pytest.fixture(scope="session")
def tracker(fresh_store: FreshStore) -> Iterator[Tracker]:
    home = fresh_store.home
    with open_run(home, "digest", "session") as run, Tracker(TrackingSettings(), home, run.folder) as tracker:
        yield tracker


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle-source"
    (folder / "arrays").mkdir(parents=True)
    (folder / "manifest.json").write_text('{"kind": "gru"}')
    (folder / "arrays" / "weights.bin").write_bytes(b"\x00\x01\x02")
    return folder
