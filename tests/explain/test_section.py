"""The report says what was found, how sure it is, and what is not shown."""

from __future__ import annotations

import pytest

from flts_ray.evaluation.plot_style import BLANK
from flts_ray.evaluation.report_sections import Written, cell_text
from flts_ray.explain.document import Attribution, Explanations, Importance, Increase, ProphetParts, Season
from flts_ray.explain.section import MAX_SERIES, explain_sections

pytestmark = pytest.mark.unit


def grown(bits: float, error: float = 1e5) -> Increase:
    return Increase(bits=bits, low_bits=bits - 1e5, high_bits=bits + 1e5, error_bits=error, share=bits / 8e7)


def importance(model: str, stations: int = 1, **features: float) -> Importance:
    return Importance(
        model=model,
        windows=2048,
        rmse_bits=8e7,
        last_value=grown(1.2e8),
        by_lag=(grown(2e7), grown(1e6), grown(0.0)),
        by_feature={name: grown(bits) for name, bits in features.items()},
        by_series={f"s{i}": {"down": 0.3, "up": 0.01} for i in range(stations) if stations > 1},
    )


def attribution(model: str, target: str = "down") -> Attribution:
    return Attribution(
        model=model, target=target, features=("a", "b"), size=((1.0, 0.5), (0.2, 0.0)), output=0.5,
        completeness_error=3e-4,
    )  # fmt: skip


def parts(series: str, *, trend: float = 1.0) -> ProphetParts:
    daily = Season(period_days=1, days=(0.0, 0.5), values=(1.0, -1.0))
    yearly = Season(period_days=365.25, days=(0.0, 180.0), values=(0.1, -0.1))
    return ProphetParts(
        series=series, target="down", mode="additive", trend_time=("2026-01-01T00:00:00", "2026-02-01T00:00:00"),
        trend=(1.0, trend), seasons={"daily": daily, "yearly": yearly}, holidays={"Epiphany": -0.4},
        autoregression={1: (0.6, 0.1)}, spread={"trend": 0.0, "daily": 0.7},
    )  # fmt: skip


def explanations(**changes: object) -> Explanations:
    values = {"dataset_id": "d", "unit": "bits", "step_s": 120.0, "windows": {"s0": 2048}, "stations": 1, "repeats": 3}
    return Explanations.model_validate({**values, "steps": 32, "seed": 42, **changes})


def test_nothing_found_is_nothing_shown() -> None:
    assert explain_sections(explanations()) == ()


def test_features_are_ranked_with_what_each_model_lacks_left_blank() -> None:
    found = explanations(importances=(importance("gru", down=9e6, ema=2e7), importance("ridge", down=4e7, up=1e5)))
    (section,) = explain_sections(found)
    (table,) = section.tables
    assert table.head == ("Shuffled", "gru", "ridge")
    assert [row[0] for row in table.rows] == ["last value", "ema", "down", "up"]  # as to gru
    assert table.rows[2][1] == Written(9e6, "9.00 Mbit (+11.2%)")
    assert [cell_text(cell) for cell in table.rows[3][1:]] == [BLANK, "0.100 Mbit (+0.1%) ?"]
    assert [picture.half for picture in section.figures] == [False, False]
    assert "2,048 test windows" in section.text
    assert section.notes == ()


def test_of_many_stations_it_says_which_are_not_shown() -> None:
    windows = {f"s{i}": 32 for i in range(MAX_SERIES + 4)}
    found = explanations(importances=(importance("gru", MAX_SERIES + 4, down=9e6),), windows=windows, stations=300)
    (section,) = explain_sections(found)
    assert [row[0] for row in section.tables[1].rows] == [f"s{i}" for i in range(MAX_SERIES)]
    assert section.tables[1].rows[0] == ("s0", "gru", "down +30.0%; up +1.0%")
    assert section.notes == (
        f"Looked at were {MAX_SERIES + 4} of 300 stations, evenly spread by name.",
        f"By station, {MAX_SERIES} are shown; explanations.json has all {MAX_SERIES + 4}.",
    )


def test_a_failure_alone_is_told() -> None:
    (section,) = explain_sections(explanations(failures={"gru": "series 'a' is unknown"}))
    assert section.notes == ("gru could not be explained: series 'a' is unknown",)
    assert (section.figures, section.tables) == ((), ())


def test_heat_maps_stand_in_pairs_and_name_the_target_where_there_are_several() -> None:
    (one,) = explain_sections(explanations(attributions=(attribution("gru"), attribution("lstm"))))
    assert [(picture.title, picture.half) for picture in one.figures] == [("gru", True), ("lstm", True)]
    assert "within 0.0003 of its mean size with 32 steps" in one.text
    (two,) = explain_sections(explanations(attributions=(attribution("gru"), attribution("gru", "up"))))
    assert [picture.title for picture in two.figures] == ["gru, down", "gru, up"]


def test_prophet_shows_the_parts_that_there_are() -> None:
    (section,) = explain_sections(explanations(prophet=(parts("s0"), parts("s1")), stations=3))
    titles = ["Daily season", "Yearly season", "Holidays", "Autoregression on the rest"]
    assert [picture.title for picture in section.figures] == titles
    assert section.tables[0].rows == (("s0", "down", 0.0, 0.7), ("s1", "down", 0.0, 0.7))
    assert section.notes == ("Shown are 2 of 3 stations.",)
    (moving,) = explain_sections(explanations(prophet=(parts("s0", trend=2.0),)))
    assert moving.figures[0].title == "Trend"
    assert moving.notes == ()


def test_the_same_findings_give_the_same_pictures() -> None:
    found = explanations(importances=(importance("gru", down=9e6),), attributions=(attribution("gru"),))
    assert explain_sections(found) == explain_sections(found)
