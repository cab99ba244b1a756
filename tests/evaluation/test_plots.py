"""Plots: what is drawn, how long series are thinned, and that the pictures are valid and small."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from flts_ray.evaluation.plot_style import duration, envelope, number, to_png, to_svg, unit_scale
from flts_ray.evaluation.plots import (
    Forecast,
    LossCurve,
    forecast_figure,
    horizon_figure,
    hourly_figure,
    last_day,
    loss_figure,
    residual_figure,
    worst_day,
)

pytestmark = pytest.mark.unit

SVG = "{http://www.w3.org/2000/svg}"


def forecast(rows: int = 4000, *, step_s: float = 120.0, intervals: bool = True, seed: int = 0) -> Forecast:
    rng = np.random.default_rng(seed)
    start = np.datetime64("2018-03-01T00:00:00", "ns")
    time = start + np.arange(rows) * np.timedelta64(round(step_s * 1e9), "ns")
    actual = rng.gamma(2.0, 6e7, rows)
    guess = np.full(rows, 1.2e8)
    return Forecast(
        time=time,
        actual=actual,
        forecast=guess,
        lower=guess - 1e8 if intervals else None,
        upper=guess + 1e8 if intervals else None,
        step_s=step_s,
    )


def texts(svg: str) -> str:
    return " ".join("".join(element.itertext()) for element in ET.fromstring(svg).iter(f"{SVG}text"))


FIGURES: dict[str, Callable[[], Figure]] = {
    "forecast": lambda: forecast_figure(forecast(), label="gru", coverage=0.9),
    "forecast of 60,000 rows": lambda: forecast_figure(forecast(60_000)),
    "forecast of one day": lambda: forecast_figure(last_day(forecast())),
    "forecast of one row": lambda: forecast_figure(forecast(1)),
    "forecast without intervals": lambda: forecast_figure(forecast(intervals=False)),
    "loss": lambda: loss_figure([LossCurve(model="gru", epoch=[1, 2], train_loss=[2.0, 1.0], val_rmse=[1.0, 0.5])]),
    "loss without validation": lambda: loss_figure([LossCurve(model="lstm", epoch=[1], train_loss=[2.0])]),
    "hours": lambda: hourly_figure({"gru": np.full(24, 4e7), "ridge": np.full(24, np.nan)}, unit="bits", step_s=120),
    "horizon": lambda: horizon_figure({"gru": np.linspace(1e7, 2e7, 30)}, unit="bits", step_s=120),
    "horizon of one step": lambda: horizon_figure({"gru": np.array([1e7])}, unit="bits", step_s=120),
    "residuals": lambda: residual_figure(forecast()),
    "residuals that are all the same": lambda: residual_figure(forecast(1)),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_plot_is_a_small_valid_svg_and_a_png(name: str) -> None:
    figure = FIGURES[name]()
    svg, png = to_svg(figure, name), to_png(figure)
    root = ET.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert root.attrib["aria-label"] == name
    assert len(svg) < 300_000
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(png) > 1000


def test_svg_is_the_same_every_time() -> None:
    assert to_svg(FIGURES["forecast"](), "x") == to_svg(FIGURES["forecast"](), "x")


def test_svg_escapes_its_label_and_can_be_restyled() -> None:
    svg = to_svg(FIGURES["horizon"](), '"><script>alert(1)</script>')
    assert "<script" not in svg
    assert "var(--plot-gru, #" in svg
    assert "var(--plot-ink, #" in svg


@pytest.mark.parametrize("name", ["$\\frac{", "_hidden", "\u0433\u0440\u0443", "<b>&", "a" * 300])
def test_hostile_model_names_are_drawn_as_text(name: str) -> None:
    figure = hourly_figure({name: np.full(24, 1.0)}, unit="requests", step_s=60)
    ET.fromstring(to_svg(figure, "x"))
    assert to_png(forecast_figure(forecast(50), label=name, title=name))


def test_axes_and_legend_tell_what_is_drawn() -> None:
    drawn = texts(to_svg(FIGURES["forecast of one day"](), "x"))
    assert "Mbit per 2 min" in drawn
    for entry in ("actual", "forecast", "interval", "outside the interval"):
        assert entry in drawn
    assert "90% interval" in texts(to_svg(FIGURES["forecast"](), "x"))
    assert "MAE, Mbit per 2 min" in texts(to_svg(FIGURES["hours"](), "x"))


def test_missing_values_and_gaps_do_not_break_a_plot() -> None:
    whole = forecast(2000)
    keep = np.ones(2000, dtype=bool)
    keep[500:900] = False
    actual = whole.actual.copy()
    actual[100:140] = np.nan
    assert whole.lower is not None
    assert whole.upper is not None
    torn = Forecast(
        time=whole.time[keep], actual=actual[keep], forecast=whole.forecast[keep],
        lower=whole.lower[keep], upper=whole.upper[keep], step_s=120.0,
    )  # fmt: skip
    line = forecast_figure(torn).axes[0].lines[0]
    assert np.isnan(np.asarray(line.get_ydata(), dtype=float)).any(), "no line may be drawn across a gap"
    nothing = Forecast(time=whole.time, actual=np.full(2000, np.nan), forecast=whole.forecast, step_s=120.0)
    assert to_png(forecast_figure(nothing))
    assert worst_day(nothing) is None


def test_the_worst_day_is_the_one_with_the_largest_error() -> None:
    data = forecast(720 * 4)
    data.actual[:] = data.forecast
    data.actual[720 * 2 : 720 * 2 + 30] += 5e8
    found = worst_day(data)
    assert found is not None
    assert str(found[0]) == "2018-03-03"
    assert len(found[1].time) == 720
    assert found[1].time[0] == np.datetime64("2018-03-03")


def test_a_stub_of_a_day_is_not_the_worst_day() -> None:
    data = forecast(720 + 100)
    data.actual[:] = data.forecast
    data.actual[720:] += 5e8
    found = worst_day(data)
    assert found is not None
    assert str(found[0]) == "2018-03-01"


def test_the_last_day_has_24_hours() -> None:
    part = last_day(forecast(3000))
    assert len(part.time) == 720
    assert part.lower is not None
    assert len(part.lower) == 720


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(-1e9, 1e9) | st.just(float("nan")), min_size=1, max_size=400),
    points=st.integers(2, 100),
)
def test_the_envelope_keeps_extremes_and_order(values: list[float], points: int) -> None:
    array = np.array(values)
    time = np.datetime64("2020-01-01", "ns") + np.arange(len(array)) * np.timedelta64(1, "s")
    thin_time, thin = envelope(time, array, points)
    assert len(thin) == len(thin_time) <= max(points, 2)
    assert (np.diff(thin_time).astype(np.int64) > 0).all()
    if np.isfinite(array).any():
        assert (np.nanmin(thin), np.nanmax(thin)) == (np.nanmin(array), np.nanmax(array))
    lookup = dict(zip(time.tolist(), values, strict=True))
    for at, value in zip(thin_time.tolist(), thin.tolist(), strict=True):
        assert lookup[at] == value or (np.isnan(lookup[at]) and np.isnan(value))


@pytest.mark.parametrize(
    ("size", "unit", "step_s", "label"),
    [
        (5e7, "bits", 120, "Mbit per 2 min"),
        (5e10, "bits", 3600, "Gbit per 1 h"),
        (500, "bits", 30, "bit per 30 s"),
        (5e3, "bits", 0, "kbit"),
        (5e7, "requests", 60, "requests per 1 min"),
    ],
)
def test_units_follow_the_magnitude(size: float, unit: str, step_s: float, label: str) -> None:
    scale = unit_scale(np.array([size, np.nan]), unit, step_s)
    assert scale.label == label
    assert 1 <= size / scale.factor < 1000 or unit != "bits"


def test_numbers_and_spans_read_well() -> None:
    assert [number(x) for x in (78.614, 1234.5, 0.0123, 0.0, 3e-7, float("nan"))] == [
        "78.6", "1,234", "0.0123", "0", "3.00e-07", "\N{EN DASH}",
    ]  # fmt: skip
    assert [duration(x) for x in (0.05, 45, 120, 130, 3900)] == ["0.05 s", "45 s", "2 min", "2 min 10 s", "1 h 5 min"]
