"""``flts forecast`` with a real registry: which model it takes, what it prints, how it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flts_ray.cli import app
from flts_ray.config import TrackingSettings
from flts_ray.errors import ConfigError, DataError, MissingColumnError, TrackingError
from flts_ray.tracking.registry import ModelRegistry
from flts_ray.tracking.run import Tracker
from tests.helpers import write_csv
from tests.stages import Bench, make_bench

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A home with two versions of one model; the first is champion."""
    bench = make_bench(tmp_path_factory.mktemp("bench"))
    folder = bench.fit().folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLTS_RUN__HOME", str(bench.home))
        with Tracker(TrackingSettings(), bench.home, bench.home / "runs" / "test") as tracker:
            registry = ModelRegistry(tracker.gateway, "alpha")
            for candidate in ("c1", "c2"):
                with tracker.run(candidate) as run:
                    run.log_bundle(folder)
                assert tracker.flush()
                registry.register(run.run_id, candidate)
            registry.promote("1")
        yield bench


@pytest.fixture
def rows(bench: Bench, tmp_path: Path) -> Path:
    return write_csv(tmp_path / "alpha.csv", bench.dataset.raws[0].values)


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["forecast", *arguments])


def test_the_champion_forecasts_unless_a_version_is_named(bench: Bench, rows: Path, tmp_path: Path) -> None:
    for version, more in (("1", ()), ("2", ("--version", "2"))):
        output = tmp_path / version
        done = command("alpha", "--input", str(rows), "--output", str(output), "--every", "2", "--json", *more)
        assert done.exit_code == 0, done.stderr
        document = json.loads(done.stdout)
        assert document["manifest"] == json.loads((output / "manifest.json").read_text())
        model = document["manifest"]["model"]
        assert (model["name"], model["version"]) == ("flts-alpha", version)
        assert model["dataset_id"] == bench.dataset.dataset_id and len(model["run_id"]) == 32


def test_a_second_time_says_that_it_was_there(rows: Path, tmp_path: Path) -> None:
    arguments = ("alpha", "--input", str(rows), "--output", str(tmp_path / "out"))
    assert f"{tmp_path / 'out'}: took" in command(*arguments).stdout
    again = command(*arguments)
    assert again.exit_code == 0 and f"{tmp_path / 'out'}: was there already" in again.stdout
    assert "flts-alpha version 1 (gru)" in again.stdout


def test_a_bad_file_is_told_and_decides_the_end(rows: Path, tmp_path: Path) -> None:
    rows.write_text("time,down\n2018-02-05 00:00:00,1\n")
    done = command("alpha", "--input", str(rows), "--output", str(tmp_path / "out"), "--json")
    assert json.loads(done.stdout)["manifest"]["failures"][0]["series"] == "alpha"
    assert isinstance(done.exception, MissingColumnError) and isinstance(done.exception, DataError)
    assert "1 of 1 series could not be forecast" in str(done.exception)


def test_what_cannot_be_is_refused_before_anything_is_written(rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    for arguments, error in (
        (("alpha", "--input", str(rows)), ConfigError),
        (("alpha", "--output", str(output)), ConfigError),
        (("alpha", "--input", str(rows), "--output", str(output), "--since", "2018-02-06"), ConfigError),
        (("alpha", "--input", str(rows), "--output", str(output), "--version", "7"), TrackingError),
        (("beta", "--input", str(rows), "--output", str(output)), TrackingError),
        (("alpha", "--input", str(tmp_path / "none.csv"), "--output", str(output)), DataError),
    ):
        assert isinstance(command(*arguments).exception, error), arguments
    assert not output.exists()
