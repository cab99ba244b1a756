from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from flts_ray.cli import app
from flts_ray.config_serving import DriftSettings
from flts_ray.data.frame import RawFrame
from flts_ray.drift.findings import Findings, judge
from flts_ray.drift.live import Live, Outcomes, read_live
from flts_ray.errors import DataError
from flts_ray.inference import registered
from flts_ray.inference.batch_plan import Model
from flts_ray.models.bundle import Bundle
from tests.drift.conftest import broken
from tests.drift.replay import answers
from tests.drift.test_live import logged
from tests.stages import Bench

pytestmark = pytest.mark.unit

SETTINGS = DriftSettings()


def judged(folder: Path, bundle: Bundle, rows: RawFrame) -> Findings:
    live = read_live(logged(folder, answers(bundle, rows)), "alpha", "1", since=None)
    return judge(live, bundle.manifest, SETTINGS)


def test_rows_like_those_of_training(tmp_path: Path, bundle: Bundle, live: RawFrame) -> None:
    found = judged(tmp_path, bundle, live)
    assert [c.overall.column for c in found.inputs if c.worst.state == "alarm"] == []
    assert {c.overall.rows for c in found.inputs} == {597}
    assert {c.latest.rows for c in found.inputs} == {200}, "a day has 144: filled up to min_rows"
    (errors,) = found.errors
    assert errors.state == "ok"
    assert [test.name for test in errors.tests] == ["bias", "spread", "coverage"]
    assert (found.verdict, found.headline) == ("ok", "Neither inputs nor errors have drifted from training.")


def test_a_break_of_one_input_is_found_and_named(tmp_path: Path, bundle: Bundle, live: RawFrame) -> None:
    found = judged(tmp_path, bundle, broken(live, "rb_up", 1 / 15))
    assert [c.overall.column for c in found.inputs if c.worst.state == "alarm"] == ["rb_up"]
    assert found.verdict == "drift"
    assert found.headline.startswith("Inputs: rb_up of alpha.")


def test_a_break_in_the_latest_day_is_not_drowned(tmp_path: Path, bundle: Bundle, live: RawFrame) -> None:
    late = broken(live, "rb_up", 1 / 3)
    late = replace(live, values=np.concatenate([live.values[:500], late.values[500:]]))
    column = next(c for c in judged(tmp_path, bundle, late).inputs if c.overall.column == "rb_up")
    assert (column.overall.state, column.latest.state) != ("alarm", "alarm")
    assert column.worst is column.latest


def test_errors_that_grow_are_found(bundle: Bundle, live: RawFrame) -> None:
    found = errors_of(bundle, live, lambda errors: 2 * errors)
    assert found.errors[0].alarms == ("spread", "coverage")
    assert found.headline.startswith("Errors: spread and coverage of down of alpha, step 1.")


def test_errors_that_lean_are_found(bundle: Bundle, live: RawFrame) -> None:
    assert "bias" in errors_of(bundle, live, lambda errors: errors + errors.std()).errors[0].alarms


def errors_of(bundle: Bundle, live: RawFrame, change: Any) -> Findings:
    """Findings of forecasts whose scaled errors were changed."""
    given = list(answers(bundle, live))[:-1]
    scaler = bundle.manifest.transforms["alpha"].target_scalers[0]
    forecast = np.array([f.values[0, 0] for _, f in given])
    errors = scaler.forward(live.column("down")[4:]) - scaler.forward(forecast)
    actual = scaler.inverse(scaler.forward(forecast) + change(errors))
    ends = [(f.lower[0, 0, 0], f.upper[0, 0, 0]) for _, f in given]
    outcomes = Outcomes(
        series="alpha",
        target="down",
        step=1,
        time=live.time[4:],
        forecast=forecast,
        actual=actual,
        inside=np.array([low <= y <= high for y, (low, high) in zip(actual, ends, strict=True)]),
        level=0.9,
    )
    return judge(Live(rows=len(given), other_versions=0, inputs=(), outcomes=(outcomes,)), bundle.manifest, SETTINGS)


def test_too_few_rows(tmp_path: Path, bundle: Bundle, live: RawFrame) -> None:
    found = judged(tmp_path, bundle, broken(live, "up", 1 / 15).head(150))
    assert (found.verdict, found.headline) == ("few", "There are too few rows to tell.")
    assert found.errors[0].tests == ()


def test_nothing_at_all(bundle: Bundle) -> None:
    empty = Live(rows=0, other_versions=0, inputs=(), outcomes=())
    assert judge(empty, bundle.manifest, SETTINGS).verdict == "few"


def test_steps_beyond_those_of_training_and_unknown_stations_are_left_out(bundle: Bundle, live: RawFrame) -> None:
    outcomes = errors_of(bundle, live, lambda errors: errors).errors[0].outcomes
    strange = (replace(outcomes, step=2), replace(outcomes, series="beta"), replace(outcomes, target="up"))
    seen = Live(rows=1, other_versions=0, inputs=(replace(live, series="beta"),), outcomes=strange)
    found = judge(seen, bundle.manifest, SETTINGS)
    assert (found.inputs, found.errors, found.unknown) == ((), (), ("beta",))


def test_the_level_of_a_test_shrinks_with_their_number(bundle: Bundle, live: RawFrame) -> None:
    found = errors_of(bundle, live, lambda errors: errors)
    assert found.significance == pytest.approx(SETTINGS.significance / 3)


def test_a_champion_without_snapshot_is_refused(bundle: Bundle) -> None:
    manifest = bundle.manifest.model_copy(update={"snapshot": {}})
    with pytest.raises(DataError, match="saved without a snapshot of its training"):
        judge(Live(rows=0, other_versions=0, inputs=(), outcomes=()), manifest, SETTINGS)


class Command:
    """``flts drift`` on a home whose champion is the bundle."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self.options = ["--home", str(folder), "--set", f"data.train=[{bench.settings.data.train[0]}]"]
        self.folder = folder

    def run(self, *more: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["drift", "alpha", *self.options, *more])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.stdout


@pytest.fixture
def command(bench: Bench, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    bundle.save(tmp_path / "bundle")
    champion = Model.read(tmp_path / "bundle", name="flts-alpha", version="1", run_id="r")
    monkeypatch.setattr(registered, "registered_model", lambda settings, identifier: champion)
    return Command(bench, tmp_path)


def test_the_command_without_drift(command: Command, bundle: Bundle, live: RawFrame) -> None:
    logged(command.folder, answers(bundle, live))
    code, out = command.run()
    assert code == 0
    assert "Verdict: ok." in out
    assert "flts-alpha version 1: 597 forecasts logged since" in out


def test_the_command_with_drift(command: Command, bundle: Bundle, live: RawFrame) -> None:
    logged(command.folder, answers(bundle, broken(live, "up", 1 / 15)))
    code, out = command.run("--json")
    document = json.loads(out)
    assert code == document["exit_code"] == 35
    states = {c["overall"]["column"]: c["state"] for c in document["inputs"]}
    assert [name for name, state in states.items() if state == "alarm"] == ["up"]
    assert document["model"] == {"name": "flts-alpha", "version": "1", "kind": "gru"}


def test_the_command_with_an_empty_log(command: Command) -> None:
    code, out = command.run()
    assert code == 0
    assert "Verdict: few." in out


def test_the_command_knows_since_when(command: Command, bundle: Bundle, live: RawFrame) -> None:
    logged(command.folder, answers(bundle, live.head(20)))
    assert "0 forecasts logged since 2100-01-01" in command.run("--since", "2100-01-01")[1]


def test_the_page(command: Command, bundle: Bundle, live: RawFrame) -> None:
    logged(command.folder, answers(bundle, broken(live, "up", 1 / 15)))
    code, out = command.run("--out", str(command.folder / "pages" / "drift.html"))
    assert code == 35
    html = (command.folder / "pages" / "drift.html").read_text(encoding="utf-8")
    assert f"Report: {command.folder / 'pages' / 'drift.html'}" in out
    assert "Inputs: up of alpha" in html
    assert html.count("<svg") == 11 + 1
    assert not re.findall(r"(?:src|href)\s*=\s*[\"'](?!data:,|#)", html), "it loads nothing"
    assert "<script" not in html


def test_hostile_names_stay_text(command: Command, bundle: Bundle, live: RawFrame) -> None:
    from flts_ray.drift.page import render
    from flts_ray.drift.report import DriftReport, examine

    logged(command.folder, answers(bundle, live.head(30)))
    settings = _settings(command.folder)
    report: DriftReport = examine(settings, "alpha")
    hostile = replace(report.findings, unknown=("<script>alert(1)</script>",))
    html = render(replace(report, findings=hostile))
    assert "&lt;script&gt;" in html
    assert "<script" not in html


def _settings(folder: Path) -> Any:
    from flts_ray.config import Settings

    return Settings.model_validate({"run": {"home": str(folder)}})
