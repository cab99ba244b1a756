"""Prophet fits, in this process and as Ray tasks: same numbers, failures as rows, nothing left behind."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flts_ray.config import DataSettings, ProphetSettings, Settings, WindowSettings
from flts_ray.data.frame import SeriesFrame, segment_ids
from flts_ray.data.scaling import ColumnScaler
from flts_ray.errors import StalledError, TrainingError
from flts_ray.models.prophet import TargetFit
from flts_ray.training import prophet_tasks
from flts_ray.training.prophet_tasks import ProphetProgress, chunks, fit_jobs, fit_prophet, fit_prophet_local

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
@given(sizes=st.lists(st.integers(1, 50), max_size=30), limit=st.integers(1, 60))
def test_chunks_cut_all_jobs_in_order_and_stay_within_the_limit(sizes: list[int], limit: int) -> None:
    found = list(chunks(sizes, limit))
    assert [i for chunk in found for i in chunk] == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in chunk) <= limit or len(chunk) == 1 for chunk in found)


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


FIT = TargetFit(model_json="{}", coefficients=np.zeros((2, 4)), rows=1, converged=True)


@pytest.mark.unit
def test_what_hangs_again_in_a_fresh_process_has_stalled_and_spoils_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "wait", lambda refs, timeout: (refs[:1], refs[1:]))
    monkeypatch.setattr(ray, "get", lambda ref: [FIT])
    cancelled: list[object] = []
    monkeypatch.setattr(ray, "cancel", lambda ref, force: cancelled.append((ref, force)))
    monkeypatch.setattr(prophet_tasks, "chunks", lambda sizes: iter([range(2), range(2, 3)]))
    jobs, sent = fit_jobs([FRAMES[0]], SCALERS, SETTINGS), list[tuple[int, ...]]()

    def submit(chunk: prophet_tasks._Chunk) -> str:
        sent.append(chunk.jobs)
        return f"task-{chunk.rank}"

    work = prophet_tasks._Work([*jobs, jobs[0]], submit, [prophet_tasks.HUNG] * 3)
    work.send(1)
    assert work.running() == [0]
    work.give_up([0])
    work.collect(0)
    assert (work.done, work.failed) == (0, 0)
    work.send(1)
    work.collect(0)
    work.send(1)
    assert work.running() == [2]
    work.give_up([2])
    work.collect(0)
    assert not work.unfinished
    assert sent == [(0, 1), (2,), (0, 1)], "the chunk that hung waits for its second try behind the others"
    assert cancelled == [("task-0", True), ("task-2", True)]
    assert (work.done, work.failed) == (3, 2)
    assert work.outcomes == [prophet_tasks.HUNG, prophet_tasks.HUNG, FIT]
    with pytest.raises(StalledError, match="fresh process"):
        prophet_tasks._collect(jobs, work.outcomes[:2], SCALERS, step_s=STEP_S, started=0.0)


def scratch_folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("flts-prophet-*"))


@pytest.mark.ray
def test_tasks_give_what_this_process_gives(local_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prophet_tasks, "HEARTBEAT_S", 0.2)
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
    monkeypatch.setattr(prophet_tasks, "HEARTBEAT_S", 0.05)
    before = scratch_folders()
    with pytest.raises(TrainingError, match=r"not fitted within 0\.01 s"):
        fit_prophet(FRAMES, SCALERS, SETTINGS, step_s=STEP_S, timeout_s=0.01)
    assert scratch_folders() == before
