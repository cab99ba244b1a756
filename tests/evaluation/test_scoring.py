from __future__ import annotations

import json

import numpy as np
import pytest

from flts_ray.config import EvaluationSettings
from flts_ray.errors import DataError
from flts_ray.evaluation.backtest import Backtest, backtest, calibration_origins, common_origins
from flts_ray.evaluation.intervals import bands, calibrate
from flts_ray.evaluation.leaderboard import Leaderboard
from flts_ray.evaluation.metrics import diebold_mariano
from flts_ray.evaluation.scoring import Entry, build_leaderboard
from tests.evaluation.stations import Last, make_frame, real_frame

pytestmark = pytest.mark.unit


def frames(targets=1):
    random = np.random.default_rng(0)
    return [
        make_frame(100.0 + random.normal(size=(300, targets)).cumsum(axis=0), 200, series="a"),
        make_frame(1e6 + 1e4 * random.normal(size=(240, targets)).cumsum(axis=0), 200, series="b"),
    ]


def entry(model, role, stations, *, horizon=1, bias=0.0, shrink=1.0, **extra):
    """A model whose error is `shrink` times that of persistence, plus a bias."""
    tests = {}
    for frame in stations:
        last = backtest(frame, Last(horizon=horizon), common_origins(frame, [Last(horizon=horizon, lookback=5)]))
        moved = np.where(last.valid, last.observed + shrink * (last.predictions - last.observed), last.predictions)
        tests[frame.series] = Backtest(
            series=frame.series,
            model=model,
            origins=last.origins,
            predictions=moved + bias,
            observed=last.observed,
            valid=last.valid,
            predict_s=0.5,
        )
    return Entry(model=model, role=role, backtests=tests, **extra)


def board(entries, stations, targets=("down",)):
    return build_leaderboard(
        entries, stations, {"a": [10.0] * len(targets), "b": [1e5] * len(targets)}, targets=targets
    )


def test_rows_per_series_and_pooled_with_hand_checked_numbers():
    stations = frames()
    result = board(
        [entry("persistence", "baseline", stations), entry("gru", "candidate", stations, shrink=0.5, fit_s=3.0)],
        stations,
    )
    gru = result.row("gru", series="a", target="down")
    errors = 0.5 * np.diff(stations[0].targets[199:, 0])
    assert gru.n == 100
    assert gru.rmse_bits == pytest.approx(np.sqrt(np.mean(errors**2)))
    assert gru.mae_scaled == pytest.approx(np.mean(np.abs(errors)) / 10)
    assert gru.skill_vs_persistence == pytest.approx(0.5)
    assert gru.mase == pytest.approx(np.mean(np.abs(errors)) / np.mean(np.abs(np.diff(stations[0].targets[:200, 0]))))
    assert gru.dm_p_vs_persistence < 0.001
    assert gru.dm_p_vs_ridge is None
    assert (gru.fit_s, gru.predict_s) == (3.0, 0.5)
    assert gru.dm_p_abs_vs_persistence == pytest.approx(diebold_mariano(np.abs(errors), 2 * np.abs(errors)))
    pooled = result.overall("gru")
    other = 0.5 * np.diff(stations[1].targets[199:, 0])
    both = np.concatenate([errors / 10, other / 1e5])
    assert pooled.n == 140
    assert pooled.rmse_scaled == pytest.approx(np.sqrt(np.mean(both**2)))
    assert pooled.rmse_bits == pytest.approx(np.sqrt(np.mean(np.concatenate([errors, other]) ** 2)))
    # Scaled losses: in bits the large station alone would decide.
    assert pooled.dm_p_vs_persistence == pytest.approx(diebold_mariano(both**2, (2 * both) ** 2))
    assert pooled.predict_s == 1.0
    persistence = result.overall("persistence")
    assert persistence.skill_vs_persistence == pytest.approx(0.0)
    assert persistence.dm_p_vs_persistence is None


def test_rows_are_sorted_pooled_first_then_by_composite_unscored_last():
    stations = frames()
    result = board(
        [
            Entry(model="seasonal_naive", role="baseline", note="needs 720 rows"),
            entry("persistence", "baseline", stations),
            entry("lstm", "candidate", stations, bias=np.nan),
            entry("gru", "candidate", stations, shrink=0.5),
        ],
        stations,
    )
    assert [r.series for r in result.rows] == ["*"] * 4 + ["a"] * 4 + ["b"] * 4
    assert [r.model for r in result.rows[:2]] == ["gru", "persistence"]
    assert {r.model for r in result.rows[2:4]} == {"lstm", "seasonal_naive"}
    naive, broken = result.overall("seasonal_naive"), result.overall("lstm")
    assert (naive.n, naive.note, naive.rmse_bits) == (0, "needs 720 rows", None)
    assert (broken.n, broken.note, broken.composite, broken.by_step) == (140, "non-finite forecasts", None, ())
    assert result.models("candidate") == ("gru", "lstm")


def test_steps_of_the_horizon_are_scored_apart_and_pooled():
    stations = frames()
    result = board(
        [
            entry("persistence", "baseline", stations, horizon=3),
            entry("gru", "candidate", stations, horizon=3, shrink=0.8),
        ],
        stations,
    )
    row = result.row("gru", series="a", target="down")
    assert [s.step for s in row.by_step] == [1, 2, 3]
    assert [s.n for s in row.by_step] == [100, 100, 100]
    assert row.n == 300
    assert row.rmse_scaled == pytest.approx(np.sqrt(np.mean([s.rmse_scaled**2 for s in row.by_step])))
    assert [s.skill for s in row.by_step] == pytest.approx([0.2] * 3)
    assert row.by_step[2].rmse_bits > row.by_step[0].rmse_bits
    assert result.protocol.horizon == 3


def test_over_a_horizon_the_test_compares_mean_losses_of_origins():
    stations = frames()[:1]
    slow, gru = (
        entry(*m, stations, horizon=3, shrink=s)
        for m, s in ((("persistence", "baseline"), 1.0), (("gru", "candidate"), 0.8))
    )
    losses = [
        np.nanmean(((e.backtests["a"].observed - e.backtests["a"].predictions) / 10.0) ** 2, axis=(1, 2))
        for e in (gru, slow)
    ]
    row = board([slow, gru], stations).overall("gru")
    assert row.dm_p_vs_persistence == pytest.approx(diebold_mariano(*losses, horizon=3))


def test_a_station_without_a_scored_row_is_a_row_without_scores():
    stations = frames()
    stations[1] = stations[1].train()
    result = board([entry("persistence", "baseline", stations), entry("gru", "candidate", stations)], stations)
    empty = result.row("gru", series="b", target="down")
    assert (empty.n, empty.composite, result.protocol.scored_to["b"]) == (0, None, "")
    assert result.overall("gru").n == 100


def test_several_targets_are_pooled_as_well():
    stations = frames(targets=2)
    entries = [entry("persistence", "baseline", stations), entry("gru", "candidate", stations, shrink=0.5)]
    result = board(entries, stations, targets=("down", "up"))
    assert {r.target for r in result.rows} == {"*", "down", "up"}
    overall = result.overall("gru")
    assert overall.target == "*"
    parts = [result.row("gru", series="*", target=t) for t in ("down", "up")]
    assert overall.n == sum(p.n for p in parts)
    assert overall.rmse_scaled == pytest.approx(np.sqrt(np.mean([p.rmse_scaled**2 for p in parts])))


def test_intervals_are_measured():
    random = np.random.default_rng(1)
    frame = make_frame(100.0 * np.exp(0.2 * random.normal(size=1500)), 1000)
    model = Last()
    held_out = backtest(frame, model, calibration_origins(frame, 1, 1, 0.2), part="train")
    test = backtest(frame, model, common_origins(frame, [model]))
    states = calibrate(held_out, frame, EvaluationSettings())
    band = bands(test.predictions, test.observed, test.origins, states)
    result = board([Entry(model="persistence", role="baseline", backtests={"a": test}, bands={"a": band})], [frame])
    row = result.overall("persistence")
    assert row.coverage_90 == pytest.approx(0.9, abs=0.02)
    assert row.interval_width_bits == pytest.approx(np.mean(band.upper - band.lower))
    assert 0.8 < row.coverage_min_250 <= row.coverage_90
    assert row.by_step[0].coverage_90 == row.coverage_90


def test_json_has_no_nan_and_reads_back():
    flat = [make_frame(np.full(60, 5.0), 40)]
    result = board([entry("persistence", "baseline", flat), entry("gru", "candidate", flat, bias=np.inf)], flat)
    row = result.overall("persistence")
    assert (row.r2, row.mase, row.skill_vs_persistence) == (None, None, None)

    def refuse(token):
        raise AssertionError(token)

    json.loads(result.to_json(), parse_constant=refuse)
    assert Leaderboard.model_validate_json(result.to_json()) == result


def test_protocol_names_the_scored_rows():
    stations = frames()
    protocol = board([entry("persistence", "baseline", stations)], stations).protocol
    assert protocol.origins == {"a": 100, "b": 40}
    assert protocol.scored_from["a"] == str(stations[0].time[200].astype("datetime64[s]"))
    assert protocol.scored_to["a"] == str(stations[0].time[299].astype("datetime64[s]"))


def test_models_scored_on_other_rows_are_refused():
    stations = frames()
    other = entry("gru", "candidate", [stations[0].head(280), stations[1]])
    with pytest.raises(DataError, match="gru was not scored on the same rows of series 'a'"):
        board([entry("persistence", "baseline", stations), other], stations)
    with pytest.raises(DataError, match="no model could be scored"):
        board([Entry(model="gru", role="candidate")], stations)


def test_linear_regression_on_ten_rows_beats_persistence_significantly_on_a_real_station():
    frame = real_frame("PobleSec")
    n, down = frame.train_rows, frame.targets[:, 0]
    inputs = np.column_stack([*(down[9 - lag : len(down) - 1 - lag] for lag in range(10)), np.ones(len(down) - 10)])
    weights = np.linalg.lstsq(inputs[: n - 10], down[10:n], rcond=None)[0]
    last = backtest(frame, Last(), np.arange(n - 1, len(down) - 1))
    forecasts = (inputs @ weights)[n - 10 :][:, None, None]
    ridge = Backtest(
        series="PobleSec",
        model="ridge",
        origins=last.origins,
        predictions=forecasts,
        observed=last.observed,
        valid=last.valid,
        predict_s=0.0,
    )
    result = build_leaderboard(
        [
            Entry(model="persistence", role="baseline", backtests={"PobleSec": last}),
            Entry(model="ridge", role="baseline", backtests={"PobleSec": ridge}),
        ],
        [frame],
        {"PobleSec": [2277457856.0]},
        targets=("down",),
    )
    persistence, row = result.overall("persistence"), result.overall("ridge")
    assert persistence.rmse_scaled == pytest.approx(0.04020, abs=1e-5)
    assert persistence.rmse_bits == pytest.approx(9.16e7, rel=2e-3)
    assert persistence.mae_bits == pytest.approx(4.83e7, rel=2e-3)
    assert 0.05 < row.skill_vs_persistence < 0.15
    assert row.dm_p_vs_persistence < 1e-3
