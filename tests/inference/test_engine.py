"""The engine answers what the bundle forecasts, many at once, each failing alone."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flts_ray.config import Settings
from flts_ray.config_serving import ServeSettings
from flts_ray.data.frame import RawFrame, SeriesFrame
from flts_ray.data.source import concatenate, read_rows
from flts_ray.data.transform import Transform
from flts_ray.errors import BundleError, DataError, FltsError, MissingColumnError, TimeOrderError, TooFewRowsError
from flts_ray.evaluation.backtest import backtest
from flts_ray.evaluation.intervals import pack
from flts_ray.evaluation.stage import interval_states
from flts_ray.inference.engine import Engine
from flts_ray.inference.history import read_history
from flts_ray.inference.queries import Forecast, Query
from flts_ray.models.baselines import MovingAverage, Persistence
from flts_ray.models.bundle import Bundle
from flts_ray.models.prophet import ProphetForecaster, fit_series
from flts_ray.training.fit import fit_recurrent
from flts_ray.training.prophet_tasks import fit_jobs
from tests.inference.bundles import CLASSIC, COLUMNS, IDENTITY, STEP_S, Made, make_bundle, part

pytestmark = pytest.mark.unit

DEFAULT = make_bundle(horizon=3, series=("north", "south"))
ENGINE = Engine(DEFAULT.bundle)


def query(history: RawFrame, *, horizon: int = 3, levels: tuple[float, ...] = (0.9,), adapt_rows: int = 12) -> Query:
    return Query(history=history, horizon=horizon, levels=levels, adapt_rows=adapt_rows)


def values(answers: Sequence[Forecast | FltsError]) -> list[np.ndarray]:
    assert all(isinstance(answer, Forecast) for answer in answers), answers
    return [answer.values for answer in answers if isinstance(answer, Forecast)]


@given(data=st.data())
@hypothesis_settings(max_examples=60, deadline=None)
@pytest.mark.parametrize(
    "made",
    [
        DEFAULT,
        make_bundle(kind="lstm", horizon=3, series=("north", "south"), **CLASSIC),
        make_bundle(horizon=3, series=("south", "north"), vectors=2),
    ],
    ids=["gru", "classic lstm", "stations told apart"],
)
def test_a_batch_is_what_the_bundle_forecasts_of_each(made: Made, data: st.DataObject) -> None:
    histories = []
    for _ in range(data.draw(st.integers(1, 5))):
        raw = made.raws[data.draw(st.sampled_from(["north", "south"]))]
        rows = np.arange(data.draw(st.integers(0, 100)), data.draw(st.sampled_from([200, 201, 430])))
        gap = data.draw(st.integers(0, len(rows) - 11))
        history = part(raw, np.delete(rows, gap) if data.draw(st.booleans()) else rows)
        order = data.draw(st.permutations(range(len(COLUMNS))))
        histories.append(replace(history, columns=tuple(COLUMNS[i] for i in order), values=history.values[:, order]))
    answers = Engine(made.bundle).forecast([query(history) for history in histories])
    for found, history in zip(values(answers), histories, strict=True):
        np.testing.assert_allclose(found, made.bundle.forecast(history).values, rtol=1e-5)


def test_an_answer_says_what_it_is() -> None:
    history = part(DEFAULT.raws["south"], slice(0, 300))
    (found,) = ENGINE.forecast([query(history, levels=(0.5, 0.9), horizon=2)])
    assert isinstance(found, Forecast)
    wanted = DEFAULT.bundle.forecast(history)
    assert (found.series, found.origin) == ("south", history.time[-1])
    np.testing.assert_array_equal(found.time, wanted.time[:2])
    assert found.values.shape == (2, 1)
    assert found.lower.shape == found.upper.shape == (2, 2, 1)
    assert (found.levels, found.direct_steps, found.targets, found.unit) == ((0.5, 0.9), 3, ("down",), "bits")
    assert (found.lower < found.values).all()
    assert (found.upper > found.values).all()
    assert ENGINE.levels == (0.9,)
    assert ENGINE.context_rows == DEFAULT.bundle.context_rows


def test_each_query_fails_alone() -> None:
    raw = DEFAULT.raws["north"]
    good = part(raw, slice(0, 300))
    gap = part(raw, np.delete(np.arange(300), 295))
    answers = ENGINE.forecast(
        [
            query(good),
            query(part(raw, slice(0, 9))),
            query(replace(good, series="west")),
            query(replace(good, columns=("down", "up"), values=good.values[:, :2])),
            query(gap),
            query(part(DEFAULT.raws["south"], slice(0, 300))),
        ]
    )
    kinds = [Forecast, TooFewRowsError, DataError, MissingColumnError, TimeOrderError, Forecast]
    assert [type(answer) for answer in answers] == kinds
    alone = values(ENGINE.forecast([query(good)]))[0]
    np.testing.assert_allclose(values([answers[0]])[0], alone, rtol=1e-6)
    assert ENGINE.forecast([]) == []


def test_a_single_station_answers_to_any_name() -> None:
    made = make_bundle()
    history = part(made.raws["north"], slice(0, 300))
    named, other = Engine(made.bundle).forecast([query(history), query(replace(history, series="elsewhere"))])
    assert isinstance(other, Forecast)
    assert other.series == "elsewhere"
    np.testing.assert_array_equal(values([named])[0], other.values)


def test_numbers_that_are_not_finite_are_an_error_of_that_query(monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_bundle(kind="ridge", scaling={"scaler": "standard"})
    history = part(made.raws["north"], slice(0, 300))
    wild = history.values.copy()
    wild[-1] = 1e308
    wild[-2] = -1e308
    engine = Engine(made.bundle)
    with np.errstate(all="ignore"):
        good, bad = engine.forecast([query(history, horizon=1), query(replace(history, values=wild), horizon=1)])
    assert isinstance(good, Forecast)
    assert isinstance(bad, DataError)
    assert "not a finite number" in str(bad)


def test_threads_do_not_disturb_each_other() -> None:
    histories = [part(DEFAULT.raws["north"], slice(i, 250 + 2 * i)) for i in range(24)]
    alone = [values(ENGINE.forecast([query(history)]))[0] for history in histories]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda history: values(ENGINE.forecast([query(history)]))[0], histories))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def prophet_bundle() -> Made:
    made = make_bundle(calibrated=False, horizon=2, prophet={"growth": "flat", "residual_lags": 5})
    frames, scalers = list(made.frames.values()), {"north": made.bundle.manifest.transforms["north"].target_scalers}
    (job,) = fit_jobs(frames, scalers, made.settings)
    fit = fit_series(job, made.settings.prophet, horizon=2, seed=1)
    forecaster = ProphetForecaster({"north": [fit]}, scalers, step_s=STEP_S)
    states = pack(interval_states(forecaster, frames, made.settings))
    bundle = Bundle.create(forecaster, made.bundle.manifest.transforms, IDENTITY, target_unit="bits", intervals=states)
    return replace(made, bundle=bundle)


def test_prophet_forecasts_a_batch_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    made = prophet_bundle()
    engine = Engine(made.bundle)
    assert engine.runtime == "prophet"
    histories = [part(made.raws["north"], slice(start, 400)) for start in (0, 100, 300)]
    wanted = [made.bundle.forecast(history).values for history in histories]
    calls = []
    predict = made.bundle.forecaster.predict
    monkeypatch.setattr(made.bundle.forecaster, "predict", lambda *given: calls.append(1) or predict(*given))
    answers = engine.forecast([query(history, horizon=2) for history in histories])
    for found, value in zip(values(answers), wanted, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-6)
    assert len(calls) == 1
    engine.check()


def bundle_of(forecaster: Any, made: Made) -> Bundle:
    return Bundle.create(forecaster, made.bundle.manifest.transforms, IDENTITY, target_unit="bits")


@pytest.mark.parametrize("kind", ["gru", "lstm", "ridge"])
@pytest.mark.parametrize("sections", [{}, CLASSIC])
def test_a_sound_bundle_passes_its_check(kind: str, sections: dict[str, Any]) -> None:
    Engine(make_bundle(kind=kind, horizon=2, series=("north", "south"), **sections).bundle).check()


def test_a_bundle_that_cannot_forecast_fails_its_check() -> None:
    made = make_bundle(calibrated=False)

    class Broken(Persistence):
        def predict(self, frame: SeriesFrame, origins: np.ndarray) -> np.ndarray:
            return np.full((len(origins), 1, 1), np.nan)

    with pytest.raises(BundleError, match=r"cannot forecast series 'north'.*not a finite number"):
        Engine(bundle_of(Broken.fit(made.settings), made)).check()

    class Misshapen(Persistence):
        def predict(self, frame: SeriesFrame, origins: np.ndarray) -> np.ndarray:
            return np.ones((len(origins), 1, 2))

    with pytest.raises(BundleError, match=r"the shape \(3, 1, 2\) instead of \(3, 1, 1\)"):
        Engine(bundle_of(Misshapen.fit(made.settings), made)).check()


def test_a_forecaster_that_reads_all_of_history_is_not_served() -> None:
    made = make_bundle(calibrated=False)
    with pytest.raises(BundleError, match="'moving_average' model cannot be served"):
        Engine(bundle_of(MovingAverage.fit(made.settings), made))


def test_real_rows_get_the_forecasts_of_evaluation(real_data: Path) -> None:
    settings = Settings.model_validate({"training": {"epochs": 1}, "recurrent": {"hidden_size": 16}})
    parts = [
        read_rows(
            (real_data / f"PobleSec{kind}.csv").read_bytes(), "PobleSec", settings.data, series="PobleSec"
        ).frames[0]
        for kind in ("", "_test")
    ]
    raw, train_rows = concatenate([("train", parts[0]), ("test", parts[1])]), len(parts[0])
    transforms = {"PobleSec": Transform.fit(raw.head(train_rows), settings, 120.0)}
    frame = transforms["PobleSec"].apply(raw, train_rows)
    forecaster = fit_recurrent("gru", [frame], transforms, settings).forecaster
    states = interval_states(forecaster, [frame], settings)
    bundle = Bundle.create(forecaster, transforms, IDENTITY, target_unit="bits", intervals=pack(states))
    random = np.random.default_rng(5)
    origins = np.sort(random.choice(np.arange(train_rows - 1, len(raw) - 1), 200, replace=False))
    wanted = backtest(frame, forecaster, origins).predictions
    engine, limits = Engine(bundle, runtime="onnx"), ServeSettings()
    times = [f"{t}Z" for t in raw.time.astype("datetime64[s]")]
    columns = {name: raw.column(name).astype(object).tolist() for name in raw.columns}
    columns = {name: [None if v != v else v for v in column] for name, column in columns.items()}
    queries = []
    for origin in origins.tolist():
        rows = slice(origin + 1 - bundle.context_rows, origin + 1)
        shuffled = {name: columns[name][rows] for name in random.permutation(raw.columns).tolist()}
        checked = read_history(bundle.manifest, series="PobleSec", time=times[rows], columns=shuffled, settings=limits)
        queries.append(query(checked.frame, horizon=1))
    for start in range(0, 200, 32):
        for found, value in zip(values(engine.forecast(queries[start : start + 32])), wanted[start:], strict=False):
            np.testing.assert_allclose(found, value, rtol=1e-5)
