"""What a new champion must share with the one before it, and what it may change."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from flts_ray.config import Settings
from flts_ray.errors import DataError, StorageError
from flts_ray.models.bundle import Bundle, BundleManifest
from flts_ray.tracking.client import Gateway
from flts_ray.tracking.registry import ChampionRef, ModelRegistry
from serve.loading import check_same_contract, load_version
from tests.stages import make_bench

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> BundleManifest:
    return Bundle.load(make_bench(tmp_path_factory.mktemp("contract"), ("alpha", "beta")).fit().folder).manifest


def changed(manifest: BundleManifest, **values: Any) -> BundleManifest:
    return manifest.model_copy(update=values)


def of_stations(manifest: BundleManifest, *names: str) -> BundleManifest:
    some = manifest.transforms["alpha"]
    return changed(manifest, transforms=dict.fromkeys(names, some))


def test_a_model_that_reads_and_says_the_same_is_welcome(manifest: BundleManifest) -> None:
    some = manifest.transforms["alpha"]
    reordered = some.model_copy(update={"columns": some.columns[::-1]})
    check_same_contract(manifest, changed(manifest, transforms={"beta": reordered, "alpha": reordered}))


def test_rows_read_and_steps_trained_may_change(manifest: BundleManifest) -> None:
    check_same_contract(manifest, changed(manifest, lookback=99, horizon=7, kind="prophet", feature_names=("down",)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"targets": ("up",)}, r"targets \['down'\] → \['up'\]"),
        ({"target_unit": "bytes"}, "unit bits → bytes"),
        ({"step_s": 60.0}, "seconds between rows 600.0 → 60.0"),
    ],
)
def test_another_question_or_another_unit_is_refused(
    manifest: BundleManifest, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        check_same_contract(manifest, changed(manifest, **change))


@pytest.mark.parametrize("columns", [("down", "up"), ("down", "noise")])
def test_other_columns_to_send_are_refused(manifest: BundleManifest, columns: tuple[str, ...]) -> None:
    other = manifest.transforms["alpha"].model_copy(update={"columns": columns})
    with pytest.raises(DataError, match="columns to send"):
        check_same_contract(manifest, changed(manifest, transforms=dict.fromkeys(manifest.transforms, other)))


def test_every_difference_is_said(manifest: BundleManifest) -> None:
    with pytest.raises(DataError, match=r"targets .*; unit .*; seconds between rows "):
        check_same_contract(manifest, changed(manifest, targets=("up",), target_unit="bytes", step_s=60.0))


def test_stations_may_be_added_to_several_but_not_taken_away(manifest: BundleManifest) -> None:
    check_same_contract(manifest, of_stations(manifest, "alpha", "beta", "gamma"))
    with pytest.raises(DataError, match=r"stations \['alpha', 'beta'\] → \['alpha'\]"):
        check_same_contract(manifest, of_stations(manifest, "alpha"))


def test_a_second_station_would_make_clients_name_the_first(manifest: BundleManifest) -> None:
    alone = of_stations(manifest, "alpha")
    check_same_contract(alone, of_stations(manifest, "alpha"))
    with pytest.raises(DataError, match=r"stations \['alpha'\] → \['alpha', 'beta'\]"):
        check_same_contract(alone, manifest)


def test_a_bundle_that_cannot_be_written_down_is_an_outage_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    settings = Settings.model_validate({"run": {"home": str(tmp_path)}})
    registry = ModelRegistry(Gateway(settings.tracking, tmp_path), "alpha", wait_s=0)
    ref = ChampionRef(name="flts-alpha", version="3", run_id="r", tags={})
    with pytest.raises(StorageError, match=r"version 3 of flts-alpha cannot be fetched to .*gone"):
        load_version(ref, registry, settings, present=None)


def test_what_models_compute_with_is_imported_beforehand_and_quietly() -> None:
    code = (
        "import sys\n"
        "from flts_ray.config import Settings\n"
        "from serve.loading import warm\n"
        "before = set(sys.modules)\n"
        "warm(Settings())\n"
        "print(*sorted({'torch', 'prophet', 'onnxruntime', 'onnx'} & (set(sys.modules) - before)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout.split(), done.stderr) == (["onnx", "onnxruntime", "prophet", "torch"], "")
