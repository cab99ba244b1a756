"""The page of faults is the table, whole: each row as it is expected, with something observed."""

from __future__ import annotations

import pytest

from tests.faults.table import PAGE, ROWS, cells

pytestmark = pytest.mark.unit


def test_the_page_holds_every_row_of_the_table() -> None:
    rows = cells(PAGE.read_text(encoding="utf-8"))
    assert [tuple(row[:3]) for row in rows] == list(ROWS.values()), "run: make faults"
    assert all(row[3] for row in rows)
