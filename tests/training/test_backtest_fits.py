"""One model of a backtest: it learns from the rows before its cut and from nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flts_ray.config import Settings
from flts_ray.data.frame import RawFrame, SeriesFrame
from flts_ray.data.transform import Transform
from flts_ray.errors import ConfigError
from flts_ray.evaluation.backtest_table import ErrorSums
from flts_ray.evaluation.rolling_origin import Contender, contenders, plan
from flts_ray.models.baselines import Persistence
from flts_ray.models.ridge import Ridge
from flts_ray.training import backtest_fits
from flts_ray.training.backtest_fits import Fit, Rows, fit_and_score, fits_of
from tests.stages import Bench, make_bench

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("fits"), ("alpha", "beta"), gap=3)


def rows_of(bench: Bench, settings: Settings) -> Rows:
    return Rows.of(bench.dataset, plan(bench.dataset, settings), contenders(settings))


def model(settings: Settings, kind: str) -> Contender:
    return next(c for c in contenders(settings) if c.kind == kind)


def scrambled(raw: RawFrame, rows: slice) -> RawFrame:
    """The same station with other values in these rows."""
    values = raw.values.copy()
    values[rows] = np.random.default_rng(1).gamma(2.0, 1e9, values[rows].shape)
    return dataclasses.replace(raw, values=values)


def changed(rows: Rows, where: dict[str, slice]) -> Rows:
    return dataclasses.replace(rows, raws=tuple(scrambled(raw, where[raw.series]) for raw in rows.raws))


class Seen:
    """Stands in for the fit of a model: keeps what it was given."""

    def __init__(self) -> None:
        self.frames: list[SeriesFrame] = []
        self.transforms: dict[str, Transform] = {}

    def __call__(self, model: Contender, frames: Sequence[SeriesFrame], transforms: Any, *rest: Any) -> Any:
        self.frames, self.transforms = list(frames), dict(transforms)
        return Persistence(model.settings.windows.horizon), {}


def seen(fit: Fit, rows: Rows) -> Seen:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backtest_fits, "_fit", found := Seen())
        fit_and_score(fit, rows)
    return found


WINDOWS = st.fixed_dictionaries(
    {
        "windows": st.integers(1, 3),
        "test_rows": st.integers(5, 50),
        "gap_rows": st.integers(0, 20),
        "mode": st.sampled_from(("expanding", "sliding")),
        "train_rows": st.sampled_from((0, 60)),
        "refit": st.booleans(),
    }
)
few = hypothesis_settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@few
@given(backtest=WINDOWS, number=st.integers(0, 2))
def test_what_comes_after_the_rows_to_learn_from_changes_nothing_that_is_learnt_from(
    bench: Bench, backtest: dict[str, Any], number: int
) -> None:
    settings = bench.with_settings(backtest=backtest)
    rows = rows_of(bench, settings)
    work = fits_of([model(settings, "gru")], settings.backtest.windows, refit=settings.backtest.refit)
    fit = work[min(number, len(work) - 1)]
    cuts = {series: own[fit.windows[0] - 1] for series, own in rows.cuts.items()}
    before = seen(fit, rows)
    after = seen(fit, changed(rows, {series: slice(cut.learn_stop, None) for series, cut in cuts.items()}))
    assert before.transforms == after.transforms
    for one, other in zip(before.frames, after.frames, strict=True):
        assert len(one) == one.train_rows == cuts[one.series].learn_stop - cuts[one.series].start
        for name in ("time", "features", "targets", "observed", "segment"):
            assert getattr(one, name).tobytes() == getattr(other, name).tobytes()
    # and the test can see a change where there is one
    touched = seen(fit, changed(rows, {s: slice(c.learn_stop - 1, c.learn_stop) for s, c in cuts.items()}))
    assert touched.frames[0].targets.tobytes() != before.frames[0].targets.tobytes()


@few
@given(backtest=WINDOWS, number=st.integers(1, 3))
def test_a_window_is_scored_on_its_own_rows(bench: Bench, backtest: dict[str, Any], number: int) -> None:
    settings = bench.with_settings(backtest=backtest)
    rows, number = rows_of(bench, settings), min(number, settings.backtest.windows)
    fit = next(
        f
        for f in fits_of([model(settings, "ridge")], settings.backtest.windows, refit=settings.backtest.refit)
        if number in f.windows
    )
    cuts = {series: own[number - 1] for series, own in rows.cuts.items()}
    cell = fit_and_score(fit, rows)[number]
    later = changed(rows, {series: slice(cut.stop, None) for series, cut in cuts.items()})
    assert fit_and_score(fit, later)[number].sums == cell.sums
    assert {s: e.n for s, e in cell.sums.items()} == dict.fromkeys(cuts, settings.backtest.test_rows)
    own = changed(rows, {series: slice(cut.stop - 1, cut.stop) for series, cut in cuts.items()})
    assert fit_and_score(fit, own)[number].sums["alpha"] != cell.sums["alpha"]


def test_no_test_row_is_among_the_rows(bench: Bench) -> None:
    rows = rows_of(bench, bench.with_settings(backtest={"windows": 2, "test_rows": 30}))
    assert [len(raw) for raw in rows.raws] == [frame.train_rows for frame in bench.dataset.frames] == [240, 240]


def test_persistence_is_scored_as_by_hand(bench: Bench) -> None:
    settings = bench.with_settings(backtest={"windows": 2, "test_rows": 30, "gap_rows": 7})
    cells = fit_and_score(Fit(model=model(settings, "persistence"), windows=(2,)), rows_of(bench, settings))
    for raw in bench.dataset.raws:
        down = raw.column("down")
        unit = bench.dataset.transforms[raw.series].target_range[0]
        error = down[210:240] - down[209:239]
        found = cells[2].sums[raw.series]
        assert found == ErrorSums(
            30,
            pytest.approx(np.abs(error).sum()),
            pytest.approx((error**2).sum()),
            pytest.approx(np.abs(error / unit).sum()),
            pytest.approx(((error / unit) ** 2).sum()),
        )


def test_every_model_forecasts_from_the_same_rows_however_long_its_history(bench: Bench) -> None:
    settings = bench.with_settings(
        candidates=("gru", "lstm", "prophet"),
        backtest={"windows": 2, "test_rows": 30},
        training={"epochs": 1},
        windows={"horizon": 2},
        prophet={"residual_lags": 9},
    )
    rows = rows_of(bench, settings)
    assert rows.lookback == 9
    counts = {
        fit.model.name: {s: e.n for s, e in fit_and_score(fit, rows)[2].sums.items()}
        for fit in fits_of(contenders(settings), 2, refit=True)
        if fit.windows == (2,)
    }
    assert len(counts) == 7
    assert {tuple(count.items()) for count in counts.values()} == {(("alpha", 60), ("beta", 60))}


def test_without_refitting_one_fit_is_scored_in_every_window(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = bench.with_settings(backtest={"windows": 3, "test_rows": 30, "refit": False})
    (fit,) = fits_of([model(settings, "ridge")], 3, refit=False)
    fitted, fit_ridge = [], Ridge.fit

    def counted(frames: Any, transforms: Any, settings: Settings) -> Ridge:
        fitted.append(len(frames[0]))
        return fit_ridge(frames, transforms, settings)

    monkeypatch.setattr(Ridge, "fit", counted)
    rows = rows_of(bench, settings)
    cells = fit_and_score(fit, rows)
    assert fitted == [150]
    assert [cell.fit_s is None for cell in cells.values()] == [False, True, True]
    fresh = fit_and_score(Fit(model=fit.model, windows=(1,)), rows)
    assert fresh[1].sums == cells[1].sums
    assert fit_and_score(Fit(model=fit.model, windows=(2,)), rows)[2].sums != cells[2].sums


def test_a_station_that_prophet_cannot_be_fitted_on_is_missing_by_name_and_spoils_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flts_ray.training import prophet_tasks

    settings = bench.with_settings(candidates=("prophet",), backtest={"windows": 1, "test_rows": 30})
    fit_series = prophet_tasks.fit_series

    def sometimes(job: Any, settings: Any, **rest: Any) -> Any:
        if job.series == "beta":
            raise RuntimeError("Stan said no")
        return fit_series(job, settings, **rest)

    monkeypatch.setattr(prophet_tasks, "fit_series", sometimes)
    cell = fit_and_score(Fit(model=model(settings, "prophet"), windows=(1,)), rows_of(bench, settings))[1]
    assert set(cell.sums) == {"alpha"}
    assert cell.missing == {"beta": "Prophet failed on 'down' of 'beta': RuntimeError: Stan said no"}


def test_a_kind_that_nobody_knows_is_refused(bench: Bench) -> None:
    settings = bench.with_settings(backtest={"windows": 1, "test_rows": 30})
    odd = Contender(name="oracle", kind="oracle", role="candidate", settings=settings)
    with pytest.raises(ConfigError, match="no way to backtest a model of kind 'oracle'"):
        fit_and_score(Fit(model=odd, windows=(1,)), rows_of(bench, settings))
