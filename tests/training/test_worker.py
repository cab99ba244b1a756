"""What the workers of a training are told, and who else sees it."""

from __future__ import annotations

import pytest

from flts_ray.training.worker import Sealed

pytestmark = pytest.mark.unit


def test_what_ray_tells_of_a_training_holds_no_setting() -> None:
    sealed = Sealed('{"tracking": {"uri": "postgresql://flts:planted-secret@db"}}')
    assert "planted-secret" not in f"{sealed} {sealed!r} {[sealed]}"
    assert "planted-secret" in sealed.text
