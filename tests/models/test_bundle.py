"""A bundle is whole or refused, forecasts what the fitted model forecasts, and checks the history it is given."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flts_ray.config import DataSettings, FeatureSettings, ProphetSettings, Settings, WindowSettings, canonical_json
from flts_ray.data.frame import RawFrame, SeriesFrame
from flts_ray.data.transform import Transform
from flts_ray.errors import BundleError, DataError, MissingColumnError, StorageError, TimeOrderError, TooFewRowsError
from flts_ray.models import bundle as bundle_module
from flts_ray.models.base import Forecaster
from flts_ray.models.baselines import Persistence
from flts_ray.models.bundle import Bundle, BundleIdentity, smoke_test
from flts_ray.models.manifest import digest_of
from flts_ray.models.prophet import ProphetForecaster, fit_series
from flts_ray.models.recurrent import GRUForecaster, RecurrentNet, RecurrentShape
from flts_ray.models.registry import forecaster_class, forecaster_paths
from flts_ray.models.ridge import Ridge
from flts_ray.training.prophet_tasks import fit_jobs

pytestmark = pytest.mark.unit

STEP_S = 600.0
COLUMNS = ("down", "up")
SETTINGS = Settings(
    data=DataSettings(columns=COLUMNS, targets=("down",)),
    features=FeatureSettings(ema_spans=(3, 6), rolling_std=(10,), profile=False),
    windows=WindowSettings(lookback=10, horizon=3),
    prophet=ProphetSettings(growth="flat", residual_lags=5),
)
IDENTITY = BundleIdentity(candidate_id="c1", dataset_id="d1", config_hash="h1", claim_digest="x1", sampled=False)
TRAIN_ROWS = 240


def station(name: str = "north", rows: int = 300) -> RawFrame:
    rng = np.random.default_rng(len(name))
    time = np.datetime64("2026-01-05T00:00", "ns") + np.arange(rows) * np.timedelta64(600, "s")
    values = rng.gamma(2.0, 1e6, (rows, 2))
    values[rng.random(values.shape) < 0.02] = np.nan
    return RawFrame(series=name, time=time, columns=COLUMNS, values=values)


def rows_of(raw: RawFrame, rows: slice) -> RawFrame:
    return replace(raw, time=raw.time[rows], values=raw.values[rows])


RAW = station()
TRANSFORM = Transform.fit(rows_of(RAW, slice(0, TRAIN_ROWS)), SETTINGS, STEP_S)
FRAME = TRANSFORM.apply(RAW, TRAIN_ROWS)
SCALERS = {"north": TRANSFORM.target_scalers}


def ridge() -> Forecaster:
    return Ridge.fit([FRAME], {"north": TRANSFORM}, SETTINGS)


def gru() -> Forecaster:
    shape = RecurrentShape(
        cell="gru",
        n_features=len(TRANSFORM.feature_names),
        n_targets=1,
        lookback=10,
        horizon=3,
        hidden_size=4,
        num_layers=1,
        target="delta",
    )
    return GRUForecaster(RecurrentNet(shape, seed=1), SCALERS)


def prophet() -> Forecaster:
    (job,) = fit_jobs([FRAME], SCALERS, SETTINGS)
    fit = fit_series(job, SETTINGS.prophet, horizon=3, seed=1)
    return ProphetForecaster({"north": [fit]}, SCALERS, step_s=STEP_S)


def bundled(forecaster: Forecaster, **changes: object) -> Bundle:
    intervals = ({"north": {"alpha": 0.1}}, {"scores": np.arange(5.0)})
    return Bundle.create(forecaster, {"north": TRANSFORM}, IDENTITY, target_unit="bits", intervals=intervals, **changes)


@pytest.fixture(scope="module", params=[ridge, gru, prophet], ids=lambda make: make.__name__)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Forecaster, Path]:
    make: Callable[[], Forecaster] = request.param
    forecaster = make()
    folder = tmp_path_factory.mktemp("bundles") / "b"
    bundled(forecaster).save(folder)
    return forecaster, folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    bundled(ridge()).save(tmp_path / "b")
    return tmp_path / "b"


def test_a_round_trip_forecasts_bit_for_bit_the_same(saved: tuple[Forecaster, Path]) -> None:
    forecaster, folder = saved
    loaded = Bundle.load(folder)
    origins = np.arange(20, 299)
    np.testing.assert_array_equal(loaded.forecaster.predict(FRAME, origins), forecaster.predict(FRAME, origins))
    smoke_test(loaded, FRAME, forecaster)
    assert loaded.manifest.identity == IDENTITY
    assert loaded.manifest.transforms == {"north": TRANSFORM}
    assert loaded.manifest.feature_names == TRANSFORM.feature_names
    assert loaded.manifest.intervals == {"north": {"alpha": 0.1}}
    np.testing.assert_array_equal(loaded.interval_arrays["scores"], np.arange(5.0))


def test_only_a_bundle_with_a_snapshot_says_so_in_its_manifest(folder: Path) -> None:
    """Bundles from before there were snapshots have no such field, and their digest was made without it."""
    assert "snapshot" not in json.loads((folder / "bundle.json").read_text())
    bundled(ridge(), snapshot={"north": {"rows": 3}}).save(folder)
    assert Bundle.load(folder).manifest.snapshot == {"north": {"rows": 3}}


def test_a_loaded_bundle_saves_to_the_same_bytes(saved: tuple[Forecaster, Path], tmp_path: Path) -> None:
    _, folder = saved
    Bundle.load(folder).save(tmp_path / "again")
    for name in ("bundle.json", "weights.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_a_raw_history_gives_what_the_stored_frame_gives(saved: tuple[Forecaster, Path]) -> None:
    forecaster, folder = saved
    loaded = Bundle.load(folder)
    for origin in (loaded.context_rows + 5, 250, 299):
        history = rows_of(RAW, slice(origin + 1 - loaded.context_rows, origin + 1))
        found = loaded.forecast(history)
        wanted = forecaster.predict(FRAME, np.array([origin]))[0]
        np.testing.assert_allclose(found.values, wanted, rtol=1e-5)
        assert found.time[0] == RAW.time[origin] + np.timedelta64(600, "s")
        assert np.diff(found.time).tolist() == [600 * 10**9] * 2
        assert (found.targets, found.unit, found.step_s) == (("down",), "bits", STEP_S)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_changed_byte_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("t") / "b"
    GOOD.save(folder)
    path = folder / data.draw(st.sampled_from(["bundle.json", "weights.safetensors"]))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with pytest.raises(BundleError):
        Bundle.load(folder)


GOOD = bundled(ridge())


@pytest.mark.parametrize("name", ["bundle.json", "weights.safetensors"])
def test_a_missing_or_shortened_file_is_found(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    for shorter in (content[:-1], b""):
        (folder / name).write_bytes(shorter)
        with pytest.raises(BundleError):
            Bundle.load(folder)
    (folder / name).unlink()
    with pytest.raises(BundleError, match="not a whole model bundle"):
        Bundle.load(folder)


def resealed(folder: Path, **changes: object) -> None:
    """Change the manifest the way another program could: with a digest that fits."""
    content = json.loads((folder / "bundle.json").read_text()) | changes
    content["digest"] = digest_of(content)
    (folder / "bundle.json").write_text(canonical_json(content))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema_version": 99}, "has the format 99, this program reads 1"),
        ({"kind": "oracle"}, "no forecaster of kind 'oracle'"),
        ({"horizon": 7}, "forecasts 3, but bundle.json says 10 and 7"),
        ({"feature_names": ["down"]}, "transform of series 'north' gives other features"),
        ({"arrays": {}}, "holds other arrays"),
        ({"forecaster": {}}, "cannot be read"),
        ({"lookback": "ten"}, "not what this program writes: lookback"),
    ],
)
def test_a_bundle_that_contradicts_itself_is_refused(folder: Path, changes: dict[str, object], reason: str) -> None:
    resealed(folder, **changes)
    with pytest.raises(BundleError, match=reason):
        Bundle.load(folder)


def test_saving_replaces_what_was_there_and_leaves_nothing_beside_it(folder: Path) -> None:
    bundled(gru()).save(folder)
    assert Bundle.load(folder).manifest.kind == "gru"
    assert list(folder.parent.iterdir()) == [folder]


def test_a_save_that_fails_keeps_what_was_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(path: Path, content: bytes) -> None:
        if path.name == "bundle.json":
            raise OSError("no space left on device")
        path.write_bytes(content)

    monkeypatch.setattr(bundle_module, "_write", full_disk)
    with pytest.raises(StorageError, match="no space left"):
        bundled(gru()).save(folder)
    assert Bundle.load(folder).manifest.kind == "ridge"
    assert list(folder.parent.iterdir()) == [folder]


def test_only_two_plain_files_are_written(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["bundle.json", "weights.safetensors"]


def test_numbers_that_json_cannot_hold_are_refused_on_creation() -> None:
    class Broken(Persistence):
        def state(self):  # type: ignore[no-untyped-def]
            return {"mean": float("nan")}, {}

    with pytest.raises(BundleError, match="not a finite number"):
        bundled(Broken.fit(SETTINGS))


def test_one_station_answers_to_any_name_but_two_do_not(folder: Path) -> None:
    history = rows_of(RAW, slice(0, 100))
    one = Bundle.load(folder)
    other = one.forecast(replace(history, series="elsewhere"))
    np.testing.assert_array_equal(other.values, one.forecast(history).values)
    assert other.series == "elsewhere"
    both = {"north": TRANSFORM, "south": TRANSFORM}
    two = Bundle.create(Persistence.fit(SETTINGS), both, IDENTITY, target_unit="bits")
    with pytest.raises(DataError, match="'elsewhere' is unknown to this model: it knows north, south"):
        two.forecast(replace(history, series="elsewhere"))


def test_a_history_that_cannot_be_used_is_refused_with_the_reason() -> None:
    with pytest.raises(TooFewRowsError, match="has 9 rows, the model reads 10"):
        GOOD.forecast(rows_of(RAW, slice(0, 9)))
    with pytest.raises(TooFewRowsError, match="has 0 rows"):
        GOOD.forecast(rows_of(RAW, slice(0, 0)))
    with pytest.raises(MissingColumnError, match="'up'"):
        GOOD.forecast(replace(RAW, columns=("down",), values=RAW.values[:, :1]))
    gap = RAW.time.copy()
    gap[-5:] += np.timedelta64(600, "s")
    with pytest.raises(TimeOrderError, match=r"last 10 rows .* 600 s apart"):
        GOOD.forecast(replace(RAW, time=gap))
    early = RAW.time.copy()
    early[:-20] -= np.timedelta64(1, "h")
    assert np.isfinite(GOOD.forecast(replace(RAW, time=early)).values).all()


def test_the_smoke_test_finds_a_model_that_differs() -> None:
    with pytest.raises(BundleError, match="differs from the fitted one by up to"):
        smoke_test(GOOD, FRAME, gru())
    with pytest.raises(TooFewRowsError, match="no gap-free 10 rows"):
        smoke_test(GOOD, FRAME.head(5), ridge())


def test_the_smoke_test_finds_forecasts_that_are_not_finite() -> None:
    class Silent(Persistence):
        def predict(self, frame: SeriesFrame, origins: np.ndarray) -> np.ndarray:
            return np.full((len(origins), 3, 1), np.nan)

    silent = Silent.fit(SETTINGS)
    with pytest.raises(BundleError, match="not finite"):
        smoke_test(bundled(silent), FRAME, silent)


def test_a_bundle_can_be_copied(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    assert Bundle.load(tmp_path / "copy").manifest == Bundle.load(folder).manifest


def test_the_registry_knows_each_kind_by_the_name_its_class_bears() -> None:
    assert {kind: forecaster_class(kind).kind for kind in forecaster_paths()} == {
        kind: kind for kind in forecaster_paths()
    }
