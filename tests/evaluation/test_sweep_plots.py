"""The pictures of a sweep show every trial that has a score, and mark the best."""

from __future__ import annotations

from typing import Any

import pytest

from flts_ray.evaluation.plot_style import to_svg
from flts_ray.evaluation.sweep_plots import SCORE, SHOWN, WINNER, curves_figure, parallel_figure, sweep_section

pytestmark = pytest.mark.unit


def document(count: int = 4) -> dict[str, Any]:
    trials = [
        {
            "number": n,
            "params": {"cell": "gru" if n % 2 else "lstm", "training.learning_rate": 0.001 * n, "windows.lookback": 10},
            "state": "stopped" if n % 2 else "finished",
            "reason": "",
            "epochs": 2,
            "val_composite": 0.01 * n,
            "history": [{"epoch": 1.0, "val_composite": 0.02 * n}, {"epoch": 2.0, "val_composite": 0.01 * n}],
        }
        for n in range(1, count + 1)
    ]
    failed = {**trials[0], "number": 99, "state": "failed", "reason": "it diverged", "val_composite": None}
    space = {"training.learning_rate": {"low": 0.001, "high": 0.1, "log": True}, "windows.lookback": {"values": [10]}}
    return {"best": 1, "space": space, "trials": [*trials, {**failed, "epochs": 0, "history": []}]}


def test_every_scored_trial_is_a_line_from_the_first_axis_to_the_score() -> None:
    (ax,) = parallel_figure(document()).axes
    lines = [line for line in ax.lines if len(line.get_xdata()) == 4]
    assert len(lines) == 4
    assert [label.get_text() for label in ax.get_xticklabels()] == [
        "cell", "training.learning_rate", "windows.lookback", SCORE,
    ]  # fmt: skip
    best = [line for line in lines if line.get_color() == WINNER]
    assert [line.get_label() for line in best] == ["trial 1 (best)"]
    assert best[0].get_ydata()[-1] == 0.0  # the lowest score lies at the bottom
    assert max(line.get_ydata()[-1] for line in lines) == 1.0


def test_stopped_trials_end_in_a_cross() -> None:
    (ax,) = curves_figure(document()).axes
    crosses = [line for line in ax.lines if line.get_marker() == "x"]
    assert sorted(float(line.get_ydata()[0]) for line in crosses) == pytest.approx([0.01, 0.03])
    assert sum(len(line.get_xdata()) == 2 for line in ax.lines) == 4


def test_the_section_ranks_the_trials_and_tells_of_failures() -> None:
    section = sweep_section(document(SHOWN + 5))
    (table,) = section.tables
    assert len(table.rows) == SHOWN
    assert table.best == frozenset({0})
    assert "Trial 99 failed: it diverged" in section.notes
    assert any("more trials" in note for note in section.notes)
    assert "21 trials" in section.text
    assert all(picture.svg.startswith("<svg") for picture in section.figures)


def test_one_trial_can_be_drawn() -> None:
    one = document(1)
    one["trials"] = one["trials"][:1]
    for draw in (parallel_figure, curves_figure):
        assert to_svg(draw(one), "sweep").startswith("<svg")
