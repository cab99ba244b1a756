"""Errors cross processes by name."""

from __future__ import annotations

import pytest

from flts_ray.data.storage import NoBucketError
from flts_ray.errors import FltsError, StorageError, TimeOrderError, error_named

pytestmark = pytest.mark.unit


def test_an_error_is_raised_again_by_its_nearest_name() -> None:
    assert error_named(TimeOrderError("x").name) is TimeOrderError
    assert error_named(NoBucketError("x").name) is StorageError
    assert error_named("nothing") is FltsError
    assert error_named("ClassVar") is FltsError
