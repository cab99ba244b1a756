"""The page of faults is the table, whole: each row as it is expected, with something observed."""

from __future__ import annotations

import pytest

from tests.faults.table import PAGE, ROWS

pytestmark = pytest.mark.unit


def test_the_page_holds_every_row_of_the_table() -> None:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [tuple(row[:3]) for row in cells] == list(ROWS.values()), "run: make faults"
    assert all(row[3] for row in cells)
