"""Sections that a stage adds to a run's report: a title, a few sentences, figures, tables, notes.

A stage that has something to show makes a :class:`ReportSection`; the pipeline hands all of them to
:func:`flts_ray.evaluation.report_view.report_data`, and the report draws them in order, after the training curves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flts_ray.evaluation.plot_style import BLANK, HALF, number, to_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Written:
    """A number as it is to be read, such as ``3.4%``; tables are sorted by the number itself."""

    value: float
    text: str


Cell = str | int | float | Written | None
"""A cell of a table: text to the left, numbers to the right, None (or NaN) a dash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A figure for inlining.

    Attributes:
        title: Drawn above it, and what a screen reader says.
        svg: What :func:`flts_ray.evaluation.plot_style.to_svg` returned; it goes into the page as it is.
        half: Whether two of them stand side by side.
    """

    title: str
    svg: str
    half: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no SVG element.

        Raises:
            ValueError: If the text does not begin with ``<svg``.
        """
        if not self.svg.startswith("<svg"):
            raise ValueError(f"the figure '{self.title}' is no SVG element: make it with plot_style.to_svg")

    @classmethod
    def of(cls, title: str, figure: Figure) -> Picture:
        """A drawn figure; one of the width ``plot_style.HALF`` stands beside another."""
        return cls(title=title, svg=to_svg(figure, title), half=bool(figure.get_figwidth() <= HALF))


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table, sortable by every column.

    Attributes:
        head: Names of the columns.
        rows: As many cells each as there are columns.
        title: Drawn above it; may be empty.
        best: Rows shown in green, by number.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""
    best: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        """Refuse rows of another length.

        Raises:
            ValueError: If a row has more or fewer cells than there are columns.
        """
        for row in self.rows:
            if len(row) != len(self.head):
                raise ValueError(f"a row of {len(row)} cells does not fit the columns {', '.join(self.head)}")

    def left(self, column: int) -> bool:
        """Whether a column holds text."""
        return any(isinstance(row[column], str) for row in self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSection:
    """One section, in the order in which it is shown.

    Attributes:
        title: The heading.
        text: A sentence or two under it: what is shown and how to read it.
        figures: Pictures.
        tables: Tables.
        notes: What was left out or failed, each a sentence.
    """

    title: str
    text: str = ""
    figures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()


def cell_text(cell: Cell) -> str:
    """A cell as it is read."""
    if isinstance(cell, Written):
        return cell.text
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int):
        return f"{cell:,}"
    return number(cell) if cell is not None and np.isfinite(cell) else BLANK


def cell_order(cell: Cell) -> str:
    """A cell as it is sorted: the number in full, nothing where there is none."""
    value = cell.value if isinstance(cell, Written) else cell
    if isinstance(value, str):
        return value
    return repr(float(value)) if value is not None and np.isfinite(value) else ""
