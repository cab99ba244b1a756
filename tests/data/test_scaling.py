"""Scalers are inverted exactly, on whatever a column may hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flts_ray.config import ScalerKind, ScalingSettings
from flts_ray.data.scaling import ColumnScaler
from flts_ray.errors import NegativeValueError

pytestmark = pytest.mark.unit

KINDS: tuple[ScalerKind, ...] = ("log", "standard", "minmax", "robust", "maxabs", "none")


def fit(values: np.ndarray, kind: ScalerKind, add: float = 0.0) -> ColumnScaler:
    return ColumnScaler.fit(values, ScalingSettings(scaler=kind, add=add), name="down")


@pytest.mark.parametrize("kind", KINDS)
@given(
    values=hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(0, 1e12)),
    add=st.sampled_from([0.0, 3.5]),
)
def test_round_trip(kind: ScalerKind, values: np.ndarray, add: float) -> None:
    scaler = fit(values, kind, add)
    z = scaler.forward(values)
    assert np.isfinite(z).all()
    scale = max(1.0, float(np.abs(values).max()))
    np.testing.assert_allclose(scaler.inverse(z), values, rtol=1e-7, atol=1e-7 * scale)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "log"])
def test_negative_values_round_trip(kind: ScalerKind) -> None:
    values = np.array([-5.0, -1.0, 0.0, 2.0])
    scaler = fit(values, kind)
    np.testing.assert_allclose(scaler.inverse(scaler.forward(values)), values, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("constant", [0.0, 7.0, 0.1 + 0.2])
def test_constant_column_maps_to_one_finite_value_and_back(kind: ScalerKind, constant: float) -> None:
    scaler = fit(np.full(9, constant), kind)
    assert scaler.forward(np.array([constant + 1.0])) < 1e3
    np.testing.assert_allclose(scaler.inverse(scaler.forward(np.array([constant]))), constant, atol=1e-12)


def test_known_numbers() -> None:
    values = np.array([2.0, 4.0, 10.0])
    np.testing.assert_allclose(fit(values, "minmax").forward(values), [0, 0.25, 1])
    np.testing.assert_allclose(fit(values, "maxabs").forward(values), [0.2, 0.4, 1])
    np.testing.assert_allclose(fit(values, "robust").forward(values), [-0.5, 0, 1.5])
    np.testing.assert_allclose(fit(values, "standard").forward(values).std(), 1)
    assert fit(values, "log").offset == pytest.approx(0.03 * values.mean())


def test_log_refuses_negative_values_by_name() -> None:
    with pytest.raises(NegativeValueError, match=r"'down' holds negative values \(lowest -3\)"):
        fit(np.array([1.0, -3.0]), "log")
