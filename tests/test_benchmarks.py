"""The benchmarks compare like with like: each peer gives what the program gives. Nothing here measures time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks import pandas_peer, parity, preprocess, training, windows
from benchmarks.__main__ import main, table_of
from benchmarks.harness import Pairs, Row, alternate
from benchmarks.pipeline import fitting, outside
from benchmarks.sources import Source, station
from flts_ray.config import RAW_COLUMNS, Settings
from flts_ray.config_layers import load_settings
from flts_ray.data.frame import RawFrame, SeriesFrame
from flts_ray.data.transform import Transform
from flts_ray.models.recurrent import RECURRENT, Cell, RecurrentForecaster, RecurrentNet
from flts_ray.training.examples import Examples, build_examples
from flts_ray.training.loop import train
from flts_ray.training.loop_state import TrainSpec
from tests.helpers import station_values

unit = pytest.mark.unit


def settings_of(recipe: str, **options: Any) -> Settings:
    given = {key.replace("__", "."): value for key, value in options.items()}
    return load_settings(options={"recipe": recipe, **given}, environ={}).settings


def frame_of(settings: Settings, rows: int = 120) -> tuple[SeriesFrame, Transform]:
    time = np.datetime64("2018-02-05T00:00", "ns") + np.arange(rows) * np.timedelta64(120, "s")
    raw = RawFrame(series="a", time=time, columns=RAW_COLUMNS, values=station_values(rows, seed=3))
    transform = Transform.fit(raw, settings, 120.0)
    return transform.apply(raw, rows), transform


def examples_of(settings: Settings) -> Examples:
    frame, transform = frame_of(settings)
    return build_examples(
        [frame],
        {"a": transform},
        lookback=settings.windows.lookback,
        horizon=settings.windows.horizon,
        validation_fraction=settings.training.validation_fraction,
    )


@unit
@pytest.mark.parametrize(("lookback", "horizon"), [(4, 1), (6, 3)])
def test_windows_are_those_of_the_loop_over_rows(lookback: int, horizon: int) -> None:
    frame, transform = frame_of(settings_of("classic"), rows=40)
    table = pd.DataFrame(frame.features, columns=list(transform.feature_names))
    mine = windows.ours(frame, frame.features[:, [0]], lookback, horizon)
    theirs = windows.peer(table, "down", lookback, horizon)
    assert mine[0].shape == (40 - lookback - horizon + 1, lookback, 17)
    windows.check_equal(mine, theirs)
    with pytest.raises(AssertionError):
        windows.check_equal(mine, (theirs[0], theirs[1] + 1))


@unit
@pytest.mark.parametrize("recipe", training.RECIPES)
@pytest.mark.parametrize("cell", training.CELLS)
def test_the_plain_loop_learns_what_ours_learns(recipe: str, cell: Cell) -> None:
    torch.set_num_threads(1)
    settings = settings_of(recipe, training__epochs=3, recurrent__hidden_size=8, training__batch_size=20)
    examples = examples_of(settings)
    net = RecurrentNet(training.shape_of(cell, examples, settings), seed=settings.seed)
    mine = train(net, examples, TrainSpec.from_settings(settings)).history
    theirs = list(training.peer(cell, examples, settings))
    assert [epoch.loss for epoch in theirs] == pytest.approx([m.train_loss_scaled for m in mine], rel=1e-4)
    assert all(epoch.windows_per_s > 0 for epoch in theirs)


@unit
def test_materialised_windows_are_what_the_network_is_to_say() -> None:
    settings = settings_of("default", windows__lookback=5, windows__horizon=2)
    examples = examples_of(settings)
    inputs, outputs = training.materialised(examples, "delta")
    assert inputs.shape[:2] == (len(examples.train_origins), 5)
    i = int(examples.train_origins[7])
    np.testing.assert_array_equal(inputs[7], examples.features[i - 4 : i + 1])
    np.testing.assert_array_equal(outputs[7], examples.scaled[i + 1 : i + 3] - examples.scaled[i])


@unit
def test_steady_state_leaves_the_first_epoch_out() -> None:
    epochs = [training.Epoch(speed, 0.0) for speed in (1.0, 10.0, 30.0, 20.0)]
    assert training.steady(epochs) == 20.0


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("encoding", [{}, pandas_peer.OUR_ENCODING], ids=["pandas", "ours"])
def test_pandas_stores_what_ray_data_stores(tmp_path: Path, encoding: dict[str, Any]) -> None:
    files = preprocess.generate(tmp_path / "source", 2, 400)
    settings = Source("generated", files, ()).settings(**preprocess.LIKE_FOR_LIKE)
    claim = preprocess.ours(settings, tmp_path / "home")
    preprocess.peer(files, settings, tmp_path / "pandas", encoding)
    preprocess.check_equal(claim, tmp_path / "home", tmp_path / "pandas")
    assert claim.rows("train") + claim.rows("test") == 800

    altered = tmp_path / "pandas" / "station01_test.parquet"
    table = pd.read_parquet(altered)
    table.loc[0, "down"] += 0.01
    table.to_parquet(altered, index=False)
    with pytest.raises(AssertionError, match="down"):
        preprocess.check_equal(claim, tmp_path / "home", tmp_path / "pandas")


@unit
def test_generated_reports_are_the_same_every_time(tmp_path: Path) -> None:
    one = preprocess.generate(tmp_path / "one", 2, 50)
    two = preprocess.generate(tmp_path / "two", 2, 50)
    for a, b in zip(one, two, strict=True):
        assert pq.read_table(a).equals(pq.read_table(b))
    assert not pq.read_table(one[0]).equals(pq.read_table(one[1]))


@unit
def test_parity_is_zero_for_a_model_and_itself_only() -> None:
    settings = settings_of("default")
    examples = examples_of(settings)
    frame, transform = frame_of(settings)
    frame = replace(frame, train_rows=100)

    def model(seed: int) -> RecurrentForecaster:
        net = RecurrentNet(training.shape_of("gru", examples, settings), seed=seed)
        return RECURRENT["gru"](net, {"a": examples.scalers[0]})

    assert parity.weight_difference(model(1), model(1)) == 0
    assert parity.weight_difference(model(1), model(2)) > 0
    assert parity.forecast_difference(model(1), model(1), frame, transform) == 0
    assert parity.forecast_difference(model(1), model(2), frame, transform) > 0


@unit
def test_a_row_is_judged_by_the_median_of_its_rounds() -> None:
    speeds, times = iter([3.0, 9.0, 4.0]), iter([1.0, 3.0, 4.0])
    pairs = alternate(lambda: next(speeds), lambda: next(times), rounds=3)
    assert pairs == Pairs((3.0, 9.0, 4.0), (1.0, 3.0, 4.0))
    fast = pairs.row(higher_is_better=True, benchmark="b", case="c", unit="windows/s", bar=2.0)
    assert (fast.score, fast.spread, fast.passed) == (3.0, (1.0, 3.0), True)
    slow = pairs.row(higher_is_better=False, benchmark="b", case="c", unit="s", bar=2.0)
    assert (slow.score, slow.passed) == (pytest.approx(1 / 3), False)
    assert json.loads(json.dumps(slow.document()))["detail"]["ours"] == [3.0, 9.0, 4.0]
    assert table_of([fast, slow]).row_count == 2


@unit
@pytest.mark.parametrize(("sense", "score", "passed"), [("<", 0.5, False), ("<", 0.4, True), ("<=", 0.5, True)])
def test_a_bar_may_be_a_ceiling(sense: Any, score: float, passed: bool) -> None:
    row = Row(benchmark="b", case="c", ours=score, unit="s", score=score, sense=sense, bar=0.5)
    assert row.passed is passed
    assert Row(benchmark="b", case="c", ours=1.0, unit="s", score=1.0).passed is None


@unit
def test_outside_is_what_neither_fits_nor_starts_ray() -> None:
    assert outside(30.0, {"preprocess": 6.0, "ray_start": 4.0, "train": 15.0}) == 11.0
    assert outside(9.0, {"preprocess": 1.0, "train": 2.0}) == 7.0


@unit
def test_overlapping_fits_count_once_and_what_follows_them_not_at_all() -> None:
    def event(second: int, name: str, candidate: str, stage: str = "") -> dict[str, str]:
        found = {"ts": f"2026-01-01T00:00:{second:02d}.000Z", "event": name, "candidate": candidate, "stage": stage}
        return {key: value for key, value in found.items() if value}

    def fit(candidate: str, start: int, end: int) -> list[dict[str, str]]:
        beats = [event(start + 1, "heartbeat", candidate, "loading"), event(end, "heartbeat", candidate, "epoch")]
        return [event(start, "fit_started", candidate), *beats, event(end + 3, "heartbeat", candidate, "fitted")]

    assert fitting(fit("gru", 0, 10)) == 10
    assert fitting([*fit("gru", 0, 10), *fit("lstm", 2, 14), *fit("prophet", 20, 25)]) == 19
    assert fitting([]) == 0


@unit
def test_without_the_published_files_sample_data_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLTS_DATA_DIR", str(tmp_path))
    source = station(tmp_path)
    assert source.name == "sample data"
    assert all(Path(path).exists() for path in (*source.train, *source.test))


@unit
def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["windoes"])
    assert refused.value.code == 2
    assert "there is no benchmark 'windoes'" in capsys.readouterr().err
