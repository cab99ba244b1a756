from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from flts_ray.config import canonical_json
from flts_ray.data.frame import FloatArray
from flts_ray.data.scaling import ColumnScaler
from flts_ray.drift.psi import DAY_PARTS
from flts_ray.drift.snapshot import MARGIN, ColumnSnapshot, Snapshot, take_snapshot
from flts_ray.errors import BundleError
from flts_ray.evaluation.stage import validate
from flts_ray.models.bundle import Bundle
from flts_ray.models.manifest import digest_of
from tests.stages import Bench

pytestmark = pytest.mark.unit

PLAIN = ColumnScaler(kind="none")
STEP_S = 600.0


def column(values: FloatArray, scaler: ColumnScaler = PLAIN) -> ColumnSnapshot:
    time = np.datetime64("2018-03-01", "ns") + np.timedelta64(600, "s") * np.arange(len(values))
    return ColumnSnapshot.of(values, time, scaler, STEP_S)


def test_a_bundle_carries_it(bench: Bench, bundle: Bundle) -> None:
    snapshot = Snapshot.read(json.loads(bundle.manifest.to_json())["snapshot"])
    found, raw = snapshot.series["alpha"], bench.dataset.raws[0]
    assert found.rows == 240
    assert found.time_start == "2018-02-05T00:00:00"
    assert set(found.columns) == set(raw.columns)
    for name, described in found.columns.items():
        counts = np.asarray(described.counts)
        assert counts.shape == (DAY_PARTS, len(described.edges) + 2)
        assert counts.sum() == 240, name
        live = described.histogram(raw.column(name)[:240], raw.time[:240])
        assert live.tolist() == counts.tolist(), "the rows of training, counted again"
        assert described.psi(live) == pytest.approx(0, abs=1e-12)


def test_errors_are_those_of_the_validation_rows(bench: Bench, bundle: Bundle) -> None:
    test = validate(bundle.forecaster, bench.dataset.frames, bench.settings)["alpha"]
    scaler = bundle.manifest.transforms["alpha"].target_scalers[0]
    errors = (scaler.forward(test.observed) - scaler.forward(test.predictions))[:, 0, 0]
    (found,) = Snapshot.read(bundle.manifest.snapshot).series["alpha"].residuals["down"]
    assert found is not None
    assert found.rows == len(errors)
    assert found.mean == pytest.approx(errors.mean())
    assert found.std == pytest.approx(errors.std())
    assert (found.quantiles[0], found.quantiles[-1]) == pytest.approx((errors.min(), errors.max()))


def test_no_test_row_is_in_it(bench: Bench, bundle: Bundle) -> None:
    (raw,) = bench.dataset.raws
    raws = [replace(raw, values=np.where(np.arange(len(raw))[:, None] < 240, raw.values, 1e9))]
    validation = validate(bundle.forecaster, bench.dataset.frames, bench.settings)
    taken = take_snapshot(raws, bench.dataset.frames, bench.dataset.transforms, validation)
    assert canonical_json(taken) == canonical_json(bundle.manifest.snapshot)


def test_a_bundle_without_one_is_read(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> None:
    """As they were saved before there were snapshots."""
    folder = tmp_path_factory.mktemp("old") / "bundle"
    bundle.save(folder)
    content = json.loads((folder / "bundle.json").read_text())
    del content["snapshot"]
    content["digest"] = digest_of(content)
    (folder / "bundle.json").write_text(canonical_json(content))
    assert Snapshot.read(Bundle.load(folder).manifest.snapshot).series == {}


def test_a_snapshot_of_another_kind_is_refused() -> None:
    with pytest.raises(BundleError, match=r"series\.alpha\.rows: Field required"):
        Snapshot.read({"series": {"alpha": {"time_start": "", "time_end": "", "columns": {}, "residuals": {}}}})


def test_missing_values_have_a_bin() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    described = column(values)
    time = np.datetime64("2018-03-20", "ns") + np.timedelta64(600, "s") * np.arange(200)
    silent = described.histogram(np.full(200, math.nan), time)
    assert silent.sum(axis=0).tolist() == [0] * 10 + [200]
    assert described.psi(silent) > 3


def test_a_log_scale_takes_zeros() -> None:
    scaler = ColumnScaler(kind="log", offset=1.0)
    values = np.concatenate([np.zeros(500), np.geomspace(1, 1e8, 500)])
    described = column(np.random.default_rng(0).permutation(values), scaler)
    assert np.asarray(described.counts).sum(axis=0).max() == 500
    assert np.isfinite(described.edges).all()


def test_what_is_usual_falls_with_the_rows_and_ends_where_it_is_known() -> None:
    described = column(np.random.default_rng(0).normal(size=4320))
    rows, usual = described.usual_rows, np.asarray(described.usual_psi)
    assert rows == (18, 36, 72, 144, 288, 576, 1008)
    assert (np.diff(usual) < 0).all()
    assert [described.limit(n) for n in rows] == pytest.approx(MARGIN * usual)
    assert usual[3] > described.limit(200) / MARGIN > usual[4]
    assert described.limit(1) == described.limit(18)
    assert described.limit(10**6) == described.limit(1008)


def test_few_rows_of_training_say_nothing_of_what_is_usual() -> None:
    described = column(np.random.default_rng(0).normal(size=50))
    assert described.usual_rows == ()
    assert described.limit(1000) == 0.0


def test_a_week_that_differs_within_training_is_usual() -> None:
    quiet, loud = np.random.default_rng(0).normal(size=(2, 2880))
    steady, moved = column(quiet), column(np.concatenate([quiet[:1440], loud[:1440] + 3]))
    assert moved.limit(1008) > 10 * steady.limit(1008)
