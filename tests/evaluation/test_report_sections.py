"""What a stage adds to the report is shown in order, escaped, and sorted by its numbers."""

from __future__ import annotations

import re

import numpy as np
import pytest

from flts_ray.evaluation.plot_style import BLANK, HALF, WIDE, figure
from flts_ray.evaluation.report import render_report
from flts_ray.evaluation.report_sections import Picture, ReportSection, Table, Written, cell_order, cell_text
from tests.evaluation.test_report import HOSTILE, Page, report

pytestmark = pytest.mark.unit

SVG = '<svg role="img"><path d="M0 0"/></svg>'


def test_a_section_is_shown_with_all_its_parts_in_order() -> None:
    section = ReportSection(
        title="Backtest",
        text="Three cuts.",
        figures=(Picture(title="By window", svg=SVG),),
        tables=(Table(title="Scores", head=("Model", "RMSE"), rows=(("gru", 78.61), ("ridge", None))),),
        notes=("lstm was left out.",),
    )
    html = render_report(report(sections=(section, ReportSection(title="Sweep"))))
    assert SVG in html
    places = [
        html.index(text) for text in ("<h2>Training", "Backtest", "Three cuts", "By window", "Scores", "lstm was left")
    ]
    assert places == sorted(places)
    assert html.index("lstm was left") < html.index("<h2>Sweep</h2>") < html.index("<h2>Data</h2>")


def test_a_report_without_sections_has_none() -> None:
    assert 'class="stack"' not in render_report(report())


def test_hostile_texts_of_a_section_stay_text() -> None:
    table = Table(title=HOSTILE, head=(HOSTILE,), rows=((HOSTILE,), (Written(1.0, HOSTILE),)))
    section = ReportSection(
        title=HOSTILE, text=HOSTILE, figures=(Picture(title=HOSTILE, svg=SVG),), tables=(table,), notes=(HOSTILE,)
    )
    page = Page(render_report(report(sections=(section,))))
    assert page.tags.count("script") == 1
    assert "img" not in page.tags


def test_wide_pictures_take_the_page_and_narrow_ones_stand_in_pairs() -> None:
    pictures = tuple(Picture(title=f"part {i}", svg=SVG, half=i > 0) for i in range(3))
    html = render_report(report(sections=(ReportSection(title="Parts", figures=pictures),)))
    shown = html[html.index("<h2>Parts</h2>") : html.index("<h2>Data</h2>")]
    assert shown.index("part 0") < shown.index('<div class="pair">') < shown.index("part 1") < shown.index("part 2")


@pytest.mark.parametrize(("width", "half"), [(WIDE, False), (HALF, True)])
def test_a_drawn_figure_knows_its_width(width: float, half: bool) -> None:
    with figure(width, 1.0) as (drawn, _):
        picture = Picture.of("a & b", drawn)
    assert picture.half is half
    assert 'aria-label="a &amp; b"' in picture.svg


def test_what_is_no_svg_is_refused() -> None:
    with pytest.raises(ValueError, match="'x' is no SVG element"):
        Picture(title="x", svg="<img src=y>")


def test_a_row_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="a row of 1 cells does not fit the columns Model, RMSE"):
        Table(head=("Model", "RMSE"), rows=(("gru",),))


def test_cells_are_read_as_text_and_sorted_as_numbers() -> None:
    table = Table(head=("Model", "Gain", "Rows"), rows=(("gru", Written(0.034, "3.4%"), 15927), ("x", None, np.nan)))
    html = render_report(report(sections=(ReportSection(title="T", tables=(table,)),)))
    row = re.search(r"<td[^>]*>gru</td>.*?</tr>", html)
    assert row is not None
    assert row[0].count('data-sort="0.034">3.4%</td>') == row[0].count('data-sort="15927.0">15,927</td>') == 1
    assert [table.left(i) for i in range(3)] == [True, False, False]
    assert (cell_text(np.nan), cell_order(np.nan), cell_order(None)) == (BLANK, "", "")


def test_the_best_row_is_marked() -> None:
    table = Table(head=("Model",), rows=(("gru",), ("ridge",)), best=frozenset({1}))
    html = render_report(report(sections=(ReportSection(title="T", tables=(table,)),), leaderboard=()))
    assert re.findall(r'<tr class="winner"><td[^>]*>(\w+)', html) == ["ridge"]
