"""Whole files are forecast with the numbers of evaluation and of the service, once, and published whole."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flts_ray.config import RAW_COLUMNS, Settings
from flts_ray.data.frame import RawFrame
from flts_ray.data.parquet import write_table
from flts_ray.data.storage import Store
from flts_ray.errors import ConfigError, DataError, IntegrityError, MissingColumnError, StorageError, TooFewRowsError
from flts_ray.evaluation.backtest import backtest, common_origins
from flts_ray.evaluation.intervals import bands, unpack
from flts_ray.inference.batch import BatchResult, Workers, forecast_batch, in_this_process, make_options
from flts_ray.inference.batch_actors import on_actors
from flts_ray.inference.batch_manifest import BEGUN_FILE, MANIFEST_FILE, Failure
from flts_ray.inference.batch_plan import ForecastItem, ForecastJob, Model
from flts_ray.inference.batch_rows import schema
from flts_ray.inference.batch_series import Outcome
from flts_ray.inference.engine import Engine
from flts_ray.inference.history import read_history
from flts_ray.inference.queries import Forecast, Query
from flts_ray.models.bundle import Bundle
from tests.helpers import write_csv
from tests.services import S3Server
from tests.stages import Bench, make_bench

unit = pytest.mark.unit

STATIONS = ("alpha", "beta")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("bench"), STATIONS)


@pytest.fixture(scope="module")
def model(bench: Bench) -> Model:
    return Model.read(bench.fit().folder, name="flts-stations", version="3", run_id="run-3")


@pytest.fixture
def output(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out"))


@pytest.fixture
def rows(bench: Bench, tmp_path: Path) -> Path:
    """A folder with all rows of each station in one CSV file."""
    for raw in bench.dataset.raws:
        write_csv(tmp_path / "rows" / f"{raw.series}.csv", raw.values)
    return tmp_path / "rows"


def forecast(
    model: Model,
    rows: Path | str | Sequence[str],
    output: Store,
    settings: Settings,
    *,
    workers: Workers = in_this_process,
    force: bool = False,
    **options: Any,
) -> BatchResult:
    patterns = [str(rows)] if isinstance(rows, Path | str) else rows
    wanted = make_options(model, settings, **options)
    return forecast_batch(model, patterns, output, wanted, settings, workers=workers, force=force)


def no_workers(items: Sequence[ForecastItem], job: ForecastJob, model: Model) -> Iterator[Outcome]:
    raise AssertionError("nothing must be forecast")


def tables(result: BatchResult, output: Store) -> dict[str, pa.Table]:
    """Every output file, by station."""
    return {
        record.series: pq.read_table(io.BytesIO(output.read_bytes(record.path))) for record in result.manifest.series
    }


def by_column(raws: Sequence[RawFrame]) -> pa.Table:
    """All stations in one table, their rows in turn, as one recorder would write them."""
    parts = [
        pa.table(
            {
                "time": raw.time,
                "series": [raw.series] * len(raw),
                **{name: raw.column(name) for name in raw.columns},
            }
        )
        for raw in raws
    ]
    return pa.concat_tables(parts).sort_by([("time", "ascending"), ("series", "ascending")])


@unit
def test_rolling_forecasts_are_those_of_evaluation(bench: Bench, model: Model, rows: Path, output: Store) -> None:
    first = bench.dataset.frames[0]
    since = str(first.time[first.train_rows])
    result = forecast(model, rows, output, bench.settings, every=1, since=since)
    found = tables(result, output)
    assert list(found) == list(STATIONS) and result.error() is None
    states = unpack(model.bundle.manifest.intervals, model.bundle.interval_arrays)
    for frame in bench.dataset.frames:
        origins = common_origins(frame, [model.bundle.forecaster])
        scored = backtest(frame, model.bundle.forecaster, origins)
        lines = bands(scored.predictions, scored.observed, origins, states[frame.series])
        table = found[frame.series]
        assert table["origin"].to_pylist()[:-1] == frame.time[origins].astype("datetime64[us]").tolist()
        assert table["time"].to_pylist()[:-1] == frame.time[origins + 1].astype("datetime64[us]").tolist()
        for name, wanted in (("value", scored.predictions), ("lower", lines.lower), ("upper", lines.upper)):
            np.testing.assert_allclose(table[name].to_numpy()[:-1], wanted[:, 0, 0], rtol=1e-6, err_msg=name)


@unit
def test_the_default_is_what_the_service_answers_after_the_last_row(
    bench: Bench, model: Model, rows: Path, output: Store
) -> None:
    result = forecast(model, rows, output, bench.settings, horizon=3, levels=(0.9, 0.5))
    engine = Engine(model.bundle)
    for raw in bench.dataset.raws:
        checked = read_history(
            model.bundle.manifest,
            series=raw.series,
            time=raw.time,
            columns={name: raw.column(name) for name in raw.columns},
            settings=bench.settings.serve,
        )
        adapt_rows = bench.settings.serve.interval_rows
        query = Query(history=checked.frame, horizon=3, levels=(0.9, 0.5), adapt_rows=adapt_rows)
        (answer,) = engine.forecast([query])
        assert isinstance(answer, Forecast)
        table = tables(result, output)[raw.series]
        assert table["step"].to_pylist() == [1, 1, 2, 2, 3, 3]
        assert table["level"].to_pylist() == [0.9, 0.5] * 3
        assert table["method"].to_pylist() == ["direct"] * 2 + ["recursive"] * 4
        assert set(table["origin"].to_pylist()) == {raw.time[-1].astype("datetime64[us]").item()}
        assert table["time"].to_pylist()[::2] == answer.time.astype("datetime64[us]").tolist()
        np.testing.assert_allclose(table["value"].to_numpy()[::2], answer.values[:, 0], rtol=1e-6)
        for name, lines in (("lower", answer.lower), ("upper", answer.upper)):
            found = table[name].to_numpy(zero_copy_only=False)
            np.testing.assert_allclose(found, lines[:, :, 0].T.ravel(), rtol=1e-5, err_msg=name)


@unit
def test_every_row_says_what_it_is_and_where_it_comes_from(
    bench: Bench, model: Model, rows: Path, output: Store
) -> None:
    result = forecast(model, rows / "alpha.csv", output, bench.settings, every=10)
    (table,) = tables(result, output).values()
    assert table.schema.equals(schema()) and table["value"].null_count == 0
    constant = {
        "series": "alpha",
        "target": "down",
        "step": 1,
        "level": 0.9,
        "method": "direct",
        "unit": "bits",
        "model": "flts-stations",
        "version": "3",
        "run_id": "run-3",
    }
    for name, value in constant.items():
        assert set(table[name].to_pylist()) == {value}, name
    assert pa.compute.all(pa.compute.less_equal(table["lower"], table["value"])).as_py()

    (record,) = result.manifest.series
    lookback = model.bundle.manifest.lookback
    assert record.rows == record.origins == table.num_rows == len(range(lookback - 1, 300, 10))
    assert (record.input_rows, record.skipped) == (300, 0)
    document = json.loads(output.read_bytes(MANIFEST_FILE))
    assert document["model"] == model.record.model_dump() and document["inputs"][0]["name"] == "alpha.csv"
    assert document["series"][0]["path"].startswith("forecasts/alpha-")


@unit
@pytest.mark.parametrize("series_by", ["file", "column"])
def test_parquet_and_csv_one_file_or_one_a_station_give_the_same(
    bench: Bench, model: Model, rows: Path, output: Store, tmp_path: Path, series_by: str
) -> None:
    plain = tables(forecast(model, rows, output, bench.settings, every=1), output)
    if series_by == "column":
        sources = tmp_path / "all.parquet"
        pq.write_table(by_column(bench.dataset.raws), sources)
    else:
        sources = tmp_path / "parquet"
        sources.mkdir()
        for raw in bench.dataset.raws:  # two files a station, with the columns in another order
            table = by_column([raw]).select(["up", "time", *(name for name in RAW_COLUMNS if name != "up")])
            (sources / f"{raw.series}_train.parquet").write_bytes(write_table(table.slice(0, 200)))
            (sources / f"{raw.series}_test.parquet").write_bytes(write_table(table.slice(200)))
    other = Store(str(tmp_path / "other"))
    settings = bench.with_settings(data={"series_by": series_by})
    found = tables(forecast(model, sources, other, settings, every=1), other)
    assert found.keys() == plain.keys()
    for series, table in plain.items():
        assert found[series].equals(table), series
    assert not [path for path in other.list(hidden=True) if path.startswith(".parts")]


@unit
def test_times_with_a_zone_stay_with_a_zone(
    bench: Bench, model: Model, rows: Path, output: Store, tmp_path: Path
) -> None:
    lines = (rows / "alpha.csv").read_text().splitlines()
    zoned = [lines[0], *(line.replace(",", "+01:00,", 1) for line in lines[1:])]
    (tmp_path / "alpha.csv").write_text("\n".join(zoned) + "\n")
    result = forecast(model, tmp_path / "alpha.csv", output, bench.settings, every=1, since="2018-02-06T23:00:00Z")
    (table,) = tables(result, output).values()
    assert table.schema.field("origin").type == pa.timestamp("ns", "UTC") == table.schema.field("time").type
    assert table["time"][0].as_py().isoformat() == "2018-02-06T23:00:00+00:00"

    (tmp_path / "alpha_test.csv").write_text("\n".join([lines[0], lines[-1].replace("2018", "2019", 1)]) + "\n")
    other = Store(str(tmp_path / "other"))
    mixed = forecast(model, str(tmp_path / "alpha*.csv"), other, bench.settings)
    assert isinstance(mixed.error(), DataError) and "with and without a time zone" in str(mixed.error())


@unit
def test_rows_after_a_gap_are_skipped_and_counted(bench: Bench, model: Model, output: Store, tmp_path: Path) -> None:
    values = bench.dataset.raws[0].values
    write_csv(tmp_path / "rows" / "alpha_1.csv", values[:100])
    write_csv(tmp_path / "rows" / "alpha_2.csv", values[110:], first=110)
    settings = bench.with_settings(data={"series_by": "none"})
    one = replace(model, bundle=alone(model.bundle))
    (record,) = forecast(one, tmp_path / "rows", output, settings, every=1).manifest.series
    assert (record.series, record.input_rows, record.origins, record.skipped) == ("all", 290, 284, 3)
    write_csv(tmp_path / "few.csv", values[:3])
    few = forecast(one, tmp_path / "few.csv", output.child("few"), bench.settings, every=1)
    assert "series 'few' has 3 rows, the model reads 4" in str(few.error())


def alone(bundle: Bundle) -> Bundle:
    """The same model, of which only the first station is known: it then takes any name."""
    name = next(iter(bundle.manifest.transforms))
    transforms = {name: bundle.manifest.transforms[name]}
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"transforms": transforms}))


@unit
def test_one_bad_station_does_not_lose_the_others(bench: Bench, model: Model, rows: Path, output: Store) -> None:
    lines = (rows / "beta.csv").read_text().splitlines()
    (rows / "beta.csv").write_text("\n".join(line.rsplit(",", 1)[0] for line in lines))
    result = forecast(model, rows, output, bench.settings, every=1)
    assert list(tables(result, output)) == ["alpha"]
    (failure,) = result.manifest.failures
    assert (failure.series, failure.error) == ("beta", "MissingColumnError")
    error = result.error()
    assert isinstance(error, MissingColumnError)
    assert "1 of 2 series could not be forecast, the others are written: beta: " in str(error)
    assert "lacks the column 'rb_up_var'" in str(error)

    write_csv(rows / "gamma.csv", bench.dataset.raws[0].values)
    write_csv(rows / "alpha.csv", bench.dataset.raws[0].values[:3])
    failed = forecast(model, rows, output, bench.settings, every=1, force=True)
    assert {f.series: f.error for f in failed.manifest.failures} == {
        "alpha": "TooFewRowsError",
        "beta": "MissingColumnError",
        "gamma": "DataError",
    }
    assert type(failed.error()) is DataError and failed.manifest.series == ()
    assert not isinstance(failed.error(), TooFewRowsError)
    assert [path for path in output.list() if path != MANIFEST_FILE] == []


@unit
def test_what_is_done_is_recognised(bench: Bench, model: Model, rows: Path, output: Store) -> None:
    first = forecast(model, rows, output, bench.settings, every=1)
    again = forecast(model, rows, output, bench.settings, workers=no_workers, every=1)
    assert again.reused and not first.reused and again.manifest == first.manifest

    damaged = first.manifest.series[1]
    output.write_bytes(damaged.path, b"PAR1")
    asked: list[str] = []

    def watched(items: Sequence[ForecastItem], job: ForecastJob, model: Model) -> Iterator[Outcome]:
        asked.extend(item.series for item in items)
        return in_this_process(items, job, model)

    mended = forecast(model, rows, output, bench.settings, workers=watched, every=1)
    assert asked == ["beta"] and mended.manifest.series == first.manifest.series
    forecast(model, rows, output, bench.settings, workers=watched, force=True, every=1)
    assert asked == ["beta", "alpha", "beta"]


@unit
def test_other_forecasts_are_replaced_only_by_force(bench: Bench, model: Model, rows: Path, output: Store) -> None:
    first = forecast(model, rows, output, bench.settings, every=1)
    newer = replace(model, record=model.record.model_copy(update={"version": "4"}))
    for changed, every in ((model, 2), (newer, 1)):
        with pytest.raises(ConfigError, match="holds forecasts of another model, of other rows or with other options"):
            forecast(changed, rows, output, bench.settings, workers=no_workers, every=every)
    assert forecast(model, rows, output, bench.settings, workers=no_workers, every=1).manifest == first.manifest

    second = forecast(newer, rows, output, bench.settings, force=True, every=1)
    assert output.list() == sorted([MANIFEST_FILE, *(record.path for record in second.manifest.series)])
    assert {table["version"][0].as_py() for table in tables(second, output).values()} == {"4"}


@unit
@pytest.mark.parametrize("name", ["thesis.tex", MANIFEST_FILE])
def test_a_folder_of_something_else_is_left_alone(
    bench: Bench, model: Model, rows: Path, output: Store, name: str
) -> None:
    output.write_bytes(name, b'{"name": "mine"}')
    for force in (False, True):
        with pytest.raises(ConfigError, match=r"not empty and holds no forecasts|is not the manifest of a forecast"):
            forecast(model, rows, output, bench.settings, workers=no_workers, force=force)
    assert output.list(hidden=True) == [name] and output.read_bytes(name) == b'{"name": "mine"}'


@unit
def test_an_altered_manifest_is_found(bench: Bench, model: Model, rows: Path, output: Store) -> None:
    forecast(model, rows, output, bench.settings)
    output.write_bytes(MANIFEST_FILE, output.read_bytes(MANIFEST_FILE).replace(b'"unit": "bits"', b'"unit": "bytes"'))
    with pytest.raises(IntegrityError, match="was altered after it was written: forecast again with --force"):
        forecast(model, rows, output, bench.settings, workers=no_workers)
    assert forecast(model, rows, output, bench.settings, force=True).manifest.unit == "bits"


@unit
def test_a_run_that_was_cut_off_is_taken_up_again(bench: Bench, model: Model, rows: Path, output: Store) -> None:
    def cut_off(items: Sequence[ForecastItem], job: ForecastJob, model: Model) -> Iterator[Outcome]:
        yield next(iter(in_this_process(items, job, model)))
        job.store().write_bytes("forecasts/alpha-of-another-build.parquet", b"")
        failure = Failure(series="beta", error="StorageError", message="the disk is full")
        yield Outcome(series="beta", failure=failure)

    with pytest.raises(StorageError, match="the disk is full"):
        forecast(model, rows, output, bench.settings, workers=cut_off, every=1)
    assert output.exists(BEGUN_FILE) and not output.exists(MANIFEST_FILE)
    with pytest.raises(ConfigError, match="not finished"):
        forecast(model, rows, output, bench.settings, workers=no_workers, every=2)
    result = forecast(model, rows, output, bench.settings, every=1)
    assert output.list() == sorted([MANIFEST_FILE, *(record.path for record in result.manifest.series)])


@unit
def test_options_that_no_model_can_meet_are_refused(bench: Bench, model: Model) -> None:
    for options, words in (
        ({"horizon": 2, "every": 1}, "give 1 to 1, from many origins no further than it was trained for"),
        ({"horizon": 721}, "give 1 to 720, as serve.max_horizon says"),
        ({"levels": (0.9, 1.0)}, "1 is no level"),
        ({"since": "2018-02-05"}, "give --every too"),
    ):
        with pytest.raises(ConfigError, match=words):
            make_options(model, bench.settings, **options)
    assert make_options(model, bench.settings).levels == (bench.settings.evaluation.coverage,)


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_actors_write_what_this_process_would(
    bench: Bench, model: Model, rows: Path, output: Store, tmp_path: Path
) -> None:
    (rows / "gamma.csv").write_text("time,down\n")
    here = Store(str(tmp_path / "here"))
    wanted = forecast(model, rows, here, bench.settings, every=1)
    found = forecast(model, rows, output, bench.settings, workers=on_actors, every=1)
    assert found.manifest.failures == wanted.manifest.failures and len(found.manifest.failures) == 1
    assert [record.series for record in found.manifest.series] == list(STATIONS)
    for series, table in tables(wanted, here).items():
        other = tables(found, output)[series]
        for name in ("value", "lower", "upper"):
            np.testing.assert_allclose(other[name].to_numpy(), table[name].to_numpy(), rtol=1e-6)
        assert other.drop(["value", "lower", "upper"]).equals(table.drop(["value", "lower", "upper"]))


@pytest.mark.service
def test_from_bucket_to_bucket(bench: Bench, model: Model, rows: Path, s3_server: S3Server, tmp_path: Path) -> None:
    s3_server.make_bucket("batch")
    settings = Settings.model_validate({**bench.settings.model_dump(), "storage": s3_server.settings().model_dump()})
    place = Store(f"s3://batch/{tmp_path.name}", settings.storage)
    for path in rows.iterdir():
        place.write_bytes(f"rows/{path.name}", path.read_bytes())
    output = place.child("out")
    result = forecast(model, place.uri_of("rows"), output, settings, every=1)
    assert list(tables(result, output)) == list(STATIONS)
    assert output.list() == sorted([MANIFEST_FILE, *(record.path for record in result.manifest.series)])
    assert forecast(model, place.uri_of("rows"), output, settings, workers=no_workers, every=1).reused

    column = bench.with_settings(storage=s3_server.settings().model_dump(), data={"series_by": "column"})
    pq.write_table(by_column(bench.dataset.raws), tmp_path / "all.parquet")
    place.write_bytes("all.parquet", (tmp_path / "all.parquet").read_bytes())
    other = place.child("other")
    found = tables(forecast(model, place.uri_of("all.parquet"), other, column, every=1), other)
    for series, table in tables(result, output).items():
        assert found[series].equals(table), series
    assert other.list(hidden=True) == sorted([MANIFEST_FILE, *(record.path for record in result.manifest.series)])
