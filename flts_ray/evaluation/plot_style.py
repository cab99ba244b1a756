"""How every plot looks, and the small helpers that plots share: units, thinning, SVG and PNG."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from flts_ray.data.frame import FloatArray, TimeArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#1e293b", "#64748b", "#e2e8f0"
ACTUAL, FORECAST, MISS = "#3b4a61", "#f07d1a", "#be123c"
WIDE, HALF = 10.2, 5.0
"""Widths of plots in inches: across the page, and two side by side."""
BLANK = "\N{EN DASH}"
"""Stands where there is no number."""
_MODELS = {
    "gru": "#1d4ed8",
    "lstm": "#d97706",
    "prophet": "#0f766e",
    "tuned": "#0369a1",
    "ridge": "#7c3aed",
    "persistence": "#6b7280",
    "moving_average": "#be185d",
    "seasonal_naive": "#65a30d",
}
_SPARE = ("#9d174d", "#4d7c0f", "#92400e")
BASELINES = frozenset({"persistence", "moving_average", "seasonal_naive", "ridge"})
"""Kinds drawn dashed: they are the yardstick, not the contenders."""

# In an inline SVG these colours become CSS variables, so that a page can restyle the plot for a dark screen.
_VARIABLES = {
    INK: "plot-ink",
    MUTED: "plot-muted",
    GRID: "plot-grid",
    ACTUAL: "plot-actual",
    FORECAST: "plot-forecast",
    MISS: "plot-miss",
    **{colour: f"plot-{kind.replace('_', '-')}" for kind, colour in _MODELS.items()},
}
_RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "path.simplify": True,
    "path.simplify_threshold": 0.2,
}


def model_colour(name: str) -> str:
    """A model's colour: fixed for the known kinds, stable for any other name."""
    return _MODELS.get(name) or _SPARE[sum(name.encode()) % len(_SPARE)]


def plain_label(name: str) -> str:
    """A name that the bundled font can draw, cut to 40 characters, and not dropped by a legend for its underscore."""
    return name.encode("ascii", "replace").decode().lstrip("_")[:40] or "model"


@dataclass(frozen=True, slots=True)
class UnitScale:
    """Divide values by ``factor`` and call the result ``label`` (per ``every``)."""

    factor: float
    prefixed: str
    every: str

    @property
    def label(self) -> str:
        """The unit for an axis, such as ``Mbit per 2 min``."""
        return f"{self.prefixed} per {self.every}" if self.every else self.prefixed

    def text(self, value: float) -> str:
        """A value with its unit, three significant digits."""
        return f"{number(value / self.factor)} {self.prefixed}" if np.isfinite(value) else BLANK


def number(value: float, digits: int = 3) -> str:
    """A number with ``digits`` significant digits and never in exponent notation between 1e-4 and 1e6."""
    if not np.isfinite(value):
        return BLANK
    if value != 0 and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    if abs(value) >= 10 ** (digits - 1) or value == 0:
        return f"{value:,.0f}"
    decimals = digits - 1 - int(np.floor(np.log10(abs(value))))
    return f"{value:.{decimals}f}"


def duration(seconds: float) -> str:
    """A span in the unit one would say it in: ``45 s``, ``2 min``, ``1 h 5 min``."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    if seconds < 3600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"


def unit_scale(values: FloatArray, unit: str, step_s: float) -> UnitScale:
    """Choose a readable unit from the magnitude of the values.

    Args:
        values: What will be drawn, any shape; NaN ignored. The 95th percentile of the sizes decides.
        unit: Unit of the values. Only ``bits`` takes a prefix (bit, kbit, Mbit, Gbit, Tbit).
        step_s: Seconds that one value covers; 0: the label names no span.
    """
    every = duration(step_s) if step_s > 0 else ""
    if unit not in ("bits", "bit"):
        return UnitScale(1.0, unit, every)
    finite = np.abs(values[np.isfinite(values)])
    size = float(np.percentile(finite, 95)) if finite.size else 0.0
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= factor:
            return UnitScale(factor, f"{prefix}bit", every)
    return UnitScale(1.0, "bit", every)


def envelope(time: TimeArray, values: FloatArray, points: int) -> tuple[TimeArray, FloatArray]:
    """Thin a series without losing its peaks: each bin keeps its smallest and its largest value, in time order.

    Args:
        time: ``(n,)`` datetime64.
        values: ``(n,)``; a bin of only NaN stays one NaN.
        points: Largest number of points wanted.

    Returns:
        Times and values, at most ``points`` of them (all ``n`` if that is no more).
    """
    n = len(values)
    if n <= points:
        return time, values
    edges = np.linspace(0, n, max(1, points // 2) + 1).astype(np.int64)
    keep: list[int] = []
    for start, stop in pairwise(edges):
        part = values[start:stop]
        if np.isnan(part).all():
            keep.append(int(start))
            continue
        keep.extend(sorted({int(start + np.nanargmin(part)), int(start + np.nanargmax(part))}))
    index = np.array(keep, dtype=np.int64)
    return time[index], values[index]


@contextmanager
def figure(width: float, height: float, *, columns: int = 1) -> Iterator[tuple[Figure, list[Axes]]]:
    """An empty figure in the house style, made with the object interface (no pyplot, no global figure).

    Args:
        width: Inches.
        height: Inches.
        columns: Panels side by side.

    Yields:
        The figure and its axes; draw inside the ``with``, where the style holds.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_RC):
        fig = Figure(figsize=(width, height), layout="constrained", facecolor="none")
        axes = [fig.add_subplot(1, columns, i + 1) for i in range(columns)]
        for ax in axes:
            _style(ax)
        yield fig, axes


def _style(ax: Axes) -> None:
    ax.set_facecolor("none")
    ax.grid(visible=True, axis="y", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color(MUTED)
    ax.tick_params(colors=MUTED, labelcolor=INK, length=3, width=0.8)
    ax.tick_params(axis="y", length=0)
    for label in (ax.xaxis.label, ax.yaxis.label):
        label.set_color(INK)


def legend(ax: Axes, *, columns: int = 4) -> None:
    """A frameless legend above the axes, where it hides nothing."""
    ax.legend(
        loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=columns, frameon=False, labelcolor=INK, handlelength=1.6,
        columnspacing=1.4, borderaxespad=0.2,
    )  # fmt: skip


def to_svg(fig: Figure, label: str) -> str:
    """The figure as an ``<svg>`` element for inlining in HTML.

    Text stays text, the house colours become CSS variables with the light colour as fallback, and ids that nothing
    refers to are dropped.

    Args:
        fig: The figure.
        label: What a screen reader says; escaped here.
    """
    import matplotlib as mpl

    buffer = io.StringIO()
    # The salt keeps the ids of two plots on one page apart, and the same plot identical from run to run.
    with mpl.rc_context({**_RC, "svg.hashsalt": label}):
        fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[A-Za-z0-9]+_\d+"', "", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable}, {colour})")
    opening = f'<svg role="img" aria-label="{escape(label)}"'
    text = text.replace("<svg", opening, 1)
    return re.sub(r"\n\s*", "\n", text)


def to_png(fig: Figure, *, dpi: int = 120) -> bytes:
    """The figure as PNG bytes on white."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context(_RC):
        fig.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
