"""Missing values and outliers are handled by what the train rows taught, and never by the future."""

from __future__ import annotations

import numpy as np
import pytest

from flts_ray.config import CleaningSettings
from flts_ray.data.cleaning import Cleaner
from flts_ray.errors import AllMissingError

pytestmark = pytest.mark.unit

NAN = np.nan
TRAIN = np.array([[NAN, 1.0], [2.0, NAN], [4.0, 3.0], [12.0, 5.0]])


def cleaner(**settings: object) -> Cleaner:
    return Cleaner.fit(TRAIN, ("a", "b"), CleaningSettings.model_validate(settings))


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("mean", [[6.0, 1.0], [2.0, 3.0]]),
        ("median", [[4.0, 1.0], [2.0, 3.0]]),
        ("zero", [[0.0, 1.0], [2.0, 0.0]]),
        ("ffill", [[6.0, 1.0], [2.0, 1.0]]),
    ],
)
def test_fill(missing: str, expected: list[list[float]]) -> None:
    np.testing.assert_allclose(cleaner(missing=missing).apply(TRAIN[:2]), expected)


def test_input_is_left_alone() -> None:
    before = TRAIN.copy()
    cleaner(missing="ffill", clip="iqr").apply(TRAIN)
    np.testing.assert_array_equal(TRAIN, before)


def test_bounds_come_from_train() -> None:
    later = np.array([[1000.0, -1000.0]])
    np.testing.assert_allclose(cleaner(clip="percentile", clip_factor=0.25).apply(later), [[8.0, 2.0]])
    np.testing.assert_allclose(cleaner(clip="iqr", clip_factor=1.0).apply(later), [[13.0, 0.0]])
    np.testing.assert_allclose(cleaner().apply(later), later)


def test_column_without_any_value_is_refused() -> None:
    with pytest.raises(AllMissingError, match="column 'b' has no value"):
        Cleaner.fit(np.array([[1.0, NAN], [2.0, NAN]]), ("a", "b"), CleaningSettings())
