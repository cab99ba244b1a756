"""Prophet fits, in this process and as Ray tasks: same numbers, failures as rows, nothing left behind."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

from flts_ray.config import DataSettings, ProphetSettings, Settings, WindowSettings
from flts_ray.data.frame import SeriesFrame, segment_ids
from flts_ray.data.scaling import ColumnScaler
from flts_ray.errors import TrainingError
from flts_ray.training import prophet_tasks, series_tasks
from flts_ray.training.prophet_tasks import ProphetProgress, fit_jobs, fit_prophet, fit_prophet_local

STEP_S = 600.0
SETTINGS = Settings(
    data=DataSettings(targets=("down", "up")),
    windows=WindowSettings(horizon=2),
    prophet=ProphetSettings(growth="flat", residual_lags=3),
)
SCALER = ColumnScaler(kind="log", offset=1.0)


def station(name: str, rows: int, seed: int = 0) -> SeriesFrame:
    rng = np.random.default_rng(seed)
    time = np.datetime64("2026-01-05T00:00", "ns") + np.arange(rows) * np.timedelta64(600, "s")
    bits = rng.gamma(2.0, 100.0, (rows, 2))
    return SeriesFrame(
        series=name,
        time=time,
        features=np.zeros((rows, 1), dtype=np.float32),
        targets=bits,
        observed=bits,
        segment=segment_ids(time, STEP_S),
        train_rows=rows,
    )


FRAMES = [station("a", 200, 1), station("tiny", 12, 2), station("b", 240, 3)]
SCALERS = {frame.series: (SCALER, SCALER) for frame in FRAMES}


@pytest.mark.unit
def test_jobs_hold_the_train_rows_before_the_validation_tail() -> None:
    frame = station("a", 200)
    jobs = fit_jobs([frame], SCALERS, SETTINGS)
    assert [(job.target, len(job.z)) for job in jobs] == [("down", 160), ("up", 160)]
    np.testing.assert_array_equal(jobs[1].z, SCALER.forward(frame.targets[:160, 1]))
    assert len(fit_jobs([frame], SCALERS, SETTINGS, rows=200)[0].z) == 200


@pytest.mark.unit
def test_a_series_that_fails_is_a_row_with_its_reason() -> None:
    seen: list[ProphetProgress] = []
    result = fit_prophet_local(FRAMES, SCALERS, SETTINGS, step_s=STEP_S, on_progress=seen.append)
    assert result.forecaster.series == ("a", "b")
    assert set(result.failures) == {("tiny", "down"), ("tiny", "up")}
    assert result.failures["tiny", "down"].startswith("TooFewRowsError: series 'tiny'")
    assert seen[-1] == ProphetProgress(done=6, failed=2, total=6)
    assert result.forecaster.forecast(FRAMES[0]).shape == (2, 2)


@pytest.mark.unit
def test_a_series_with_one_failed_target_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    fit_series = prophet_tasks.fit_series

    tries: list[tuple[str, str]] = []

    def sometimes(job, settings, *, horizon, seed):  # type: ignore[no-untyped-def]
        tries.append((job.series, job.target))
        if (job.series, job.target) == ("a", "up"):
            raise RuntimeError("Stan said no")
        return fit_series(job, settings, horizon=horizon, seed=seed)

    monkeypatch.setattr(prophet_tasks, "fit_series", sometimes)
    result = fit_prophet_local([FRAMES[0], FRAMES[2]], SCALERS, SETTINGS, step_s=STEP_S)
    assert result.failures == {("a", "up"): "RuntimeError: Stan said no"}
    assert result.forecaster.series == ("b",)
    assert tries == [("a", "down"), ("a", "up"), ("a", "up"), ("b", "down"), ("b", "up")]


@pytest.mark.unit
def test_nothing_fitted_is_an_error() -> None:
    with pytest.raises(TrainingError, match=r"none of 2 .* series 'tiny' target 'down', failed with TooFewRowsError"):
        fit_prophet_local([FRAMES[1]], SCALERS, SETTINGS, step_s=STEP_S)


def scratch_folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("flts-prophet-*"))


@pytest.mark.ray
def test_tasks_give_what_this_process_gives(local_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series_tasks, "HEARTBEAT_S", 0.2)
    before = scratch_folders()
    seen: list[ProphetProgress] = []
    local = fit_prophet_local(FRAMES, SCALERS, SETTINGS, step_s=STEP_S)
    result = fit_prophet(FRAMES, SCALERS, SETTINGS, step_s=STEP_S, on_progress=seen.append)
    assert result.failures == local.failures
    assert result.forecaster.state()[0] == local.forecaster.state()[0]
    np.testing.assert_array_equal(
        result.forecaster.state()[1]["coefficients"], local.forecaster.state()[1]["coefficients"]
    )
    assert seen[0].done < seen[-1].done, "no heartbeat came while the tasks ran"
    assert seen[-1] == ProphetProgress(done=6, failed=2, total=6)
    assert scratch_folders() == before


@pytest.mark.ray
def test_what_is_not_done_in_time_is_cancelled_and_says_so(local_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series_tasks, "HEARTBEAT_S", 0.05)
    before = scratch_folders()
    with pytest.raises(TrainingError, match=r"not done within 0\.01 s"):
        fit_prophet(FRAMES, SCALERS, SETTINGS, step_s=STEP_S, timeout_s=0.01)
    assert scratch_folders() == before
