"""The backtest as Ray tasks and without Ray: the same table, and rows with a reason where something broke."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from flts_ray.config import Settings
from flts_ray.errors import TooFewRowsError
from flts_ray.evaluation.backtest_table import BacktestResult
from flts_ray.telemetry.heartbeat import Beat, Pulse
from flts_ray.training import backtest_tasks
from flts_ray.training.backtest_fits import Fit, Rows, fit_and_score
from flts_ray.training.backtest_tasks import BACKTESTS, run_backtest, run_backtest_local
from tests.stages import Bench, make_bench
from tests.training.fits import Event

FIT_AND_SCORE = fit_and_score


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(
        tmp_path_factory.mktemp("backtest"),
        ("alpha", "beta"),
        candidates=("gru", "prophet"),
        training={"epochs": 2, "batch_size": 32},
        backtest={"windows": 2, "test_rows": 40},
    )


def without_clocks(result: BacktestResult) -> dict[str, Any]:
    document = result.model_dump(mode="json")
    for row in document["rows"]:
        row.pop("fit_s")
    return document


def never() -> None:
    raise AssertionError("Ray was started for nothing")


class Broken:
    """Stands in for a fit: ridge fails in the first window on purpose, the moving average by accident."""

    def __call__(self, fit: Fit, rows: Rows, **rest: Any) -> Any:
        if (fit.model.kind, fit.windows) == ("ridge", (1,)):
            raise TooFewRowsError("ridge has too few rows")
        if fit.model.kind == "moving_average":
            raise ZeroDivisionError("nobody foresaw this")
        return FIT_AND_SCORE(fit, rows, **rest)


class Mortal:
    """Stands in for a fit: for ridge, its process dies once; for the seasonal naive, every time; the GRU hangs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, fit: Fit, rows: Rows, **rest: Any) -> Any:
        if fit.model.kind == "gru":
            time.sleep(600)
        first = self.folder / fit.model.kind
        if fit.model.kind == "seasonal_naive" or (fit.model.kind == "ridge" and not first.exists()):
            first.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return FIT_AND_SCORE(fit, rows, **rest)


def baselines(bench: Bench, *models: str, **sections: Any) -> Settings:
    return bench.with_settings(backtest={"models": models, "windows": 1}, **sections)


@pytest.mark.unit
def test_progress_is_told_from_nothing_to_all(bench: Bench) -> None:
    beats: list[Beat] = []
    settings = bench.with_settings(backtest={"models": ("ridge",)})
    run_backtest_local(bench.dataset, settings, pulse=Pulse([beats.append]))
    assert beats == [{"candidate": "backtest", "stage": "windows", "done": n, "total": 4} for n in range(5)]


@pytest.mark.unit
def test_a_model_that_fails_is_a_row_with_its_reason_and_an_event(
    bench: Bench, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backtest_tasks, "fit_and_score", Broken())
    models = ("ridge", "moving_average", "seasonal_naive")
    result = run_backtest_local(bench.dataset, bench.with_settings(backtest={"models": models}))
    notes = {(r.model, r.window): r.note for r in result.rows if r.series == "*" and r.note}
    assert notes == {
        ("ridge", 0): "TooFewRowsError: ridge has too few rows",
        ("ridge", 1): "TooFewRowsError: ridge has too few rows",
        **{("moving_average", w): "ZeroDivisionError: nobody foresaw this" for w in (0, 1, 2)},
    }
    told = [fields for name, fields in events if name == "backtest_fit_failed"]
    assert [(f["model"], f["windows"]) for f in told] == [
        ("moving_average", [1]), ("moving_average", [2]), ("ridge", [1]),
    ]  # fmt: skip


@pytest.mark.unit
def test_a_table_that_is_known_is_not_made_again(bench: Bench, events: list[Event]) -> None:
    settings = baselines(bench, "ridge")
    made = run_backtest_local(bench.dataset, settings)
    path = f"{BACKTESTS}/{made.backtest_id}.json"
    bench.store.write_bytes(path, made.model_dump_json().encode())
    assert run_backtest(bench.dataset, settings, store=bench.store, ensure=never, pulse=Pulse()) == made
    assert [name for name, _ in events if name == "backtest_reused"] == ["backtest_reused"]
    for content, changes in ((b"{}", {}), (made.model_dump_json().encode(), {"run": {"force": True}})):
        bench.store.write_bytes(path, content)
        again = baselines(bench, "ridge", **changes)
        with pytest.raises(AssertionError, match="Ray was started"):
            run_backtest(bench.dataset, again, store=bench.store, ensure=never, pulse=Pulse())
    bench.store.delete(path)


@pytest.mark.ray
def test_ray_gives_the_table_that_one_process_gives(
    bench: Bench, local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (scratch := tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    models = ("gru", "tuned", "prophet", "ridge")
    settings, tuned = bench.with_settings(backtest={"models": models}), bench.with_settings(windows={"lookback": 6})
    beats: list[Beat] = []
    result = run_backtest(
        bench.dataset,
        settings,
        store=bench.store,
        ensure=lambda: None,
        pulse=Pulse([beats.append]),
        tuned=("lstm", tuned),
    )
    assert without_clocks(result) == without_clocks(run_backtest_local(bench.dataset, settings, tuned=("lstm", tuned)))
    assert {r.n for r in result.rows if r.window and r.series != "*"} == {40}
    assert set(result.models) == {*models, "persistence"}
    counts = [beat for beat in beats if beat["stage"] == "windows"]
    assert counts[-1] == {"candidate": "backtest", "stage": "windows", "done": 10, "total": 10}
    assert {beat["model"] for beat in beats if beat["stage"] == "fitting" and "model" in beat} == set(result.models)
    assert list(scratch.glob("flts-prophet-*")) == []
    known = run_backtest(bench.dataset, settings, store=bench.store, ensure=never, pulse=Pulse(), tuned=("lstm", tuned))
    assert known == result


@pytest.mark.ray
def test_lost_processes_are_replaced_and_what_hangs_or_dies_for_good_is_a_row(
    bench: Bench, local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backtest_tasks, "NODE_LOSSES", 1)
    mortal = Mortal(tmp_path)

    def task(*arguments: Any) -> Any:
        from flts_ray.training import backtest_tasks as there

        there.fit_and_score = mortal  # type: ignore[assignment]  # in the worker, whose module is whole
        return there._task(*arguments)

    monkeypatch.setattr(backtest_tasks, "_task", task)
    settings = baselines(bench, "gru", "ridge", "seasonal_naive", watchdog={"stall_timeout_s": 15.0})
    result = run_backtest(bench.dataset, settings, store=bench.store, ensure=lambda: None, pulse=Pulse())
    notes = {row.model: row.note for row in result.rows if (row.window, row.series) == (0, "*")}
    assert notes["ridge"] == notes["persistence"] == ""
    assert notes["gru"] == "StalledError: it made no progress for 15 s"
    assert notes["seasonal_naive"].startswith("WorkerCrashedError")
    assert (tmp_path / "ridge").exists()
    assert not bench.store.exists(f"{BACKTESTS}/{result.backtest_id}.json")
