"""The reference page says what the program does."""

from __future__ import annotations

from pathlib import Path

import pytest

from flts_ray.config_docs import markdown

pytestmark = pytest.mark.unit

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown(), "run: python -m flts_ray.config_docs > docs/configuration.md"
