"""The commands of ``flts`` that use what was promoted: ``forecast`` and ``drift``."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from flts_ray.cli_options import (
    AsJson,
    Assignments,
    ConfigFile,
    Force,
    Home,
    Identifier,
    print_json,
    progress_console,
    resolve,
)
from flts_ray.errors import ConfigError

serving = typer.Typer()


@serving.command()
def drift(
    identifier: Identifier = None,
    since: Annotated[
        datetime | None, typer.Option(help="Only forecasts logged since then (UTC); default: the last 7 days.")
    ] = None,
    truth: Annotated[
        list[str] | None, typer.Option(help="Files of what really came: files, folders, globs; local or s3://.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the report as HTML.")] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Compare what the service saw and forecast with what its champion was trained on; 35 if it has drifted."""
    from flts_ray.drift.page import render
    from flts_ray.drift.report import examine
    from flts_ray.tables import print_drift

    settings = resolve(config, assignments, {"run.home": home}).settings
    report = examine(settings, identifier, since=since, truth=tuple(truth or ()))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(render(report), encoding="utf-8")
    if as_json:
        print_json(report.document())
    else:
        print_drift(report)
        if out is not None:
            typer.echo(f"Report: {out}")
    raise typer.Exit(report.exit_code)


@serving.command()
def forecast(
    identifier: Identifier = None,
    sources: Annotated[
        list[str] | None, typer.Option("--input", help="Rows to forecast from: files, folders, globs; local or s3://.")
    ] = None,
    output: Annotated[str, typer.Option(help="Where forecasts are written: a folder or s3://bucket/prefix.")] = "",
    version: Annotated[str | None, typer.Option(help="Which version of the model; default: the champion.")] = None,
    horizon: Annotated[int | None, typer.Option(min=1, help="Steps to forecast; default: as trained.")] = None,
    level: Annotated[
        list[float] | None, typer.Option(help="Coverage of the intervals, such as 0.9; default: as calibrated.")
    ] = None,
    every: Annotated[
        int, typer.Option(min=0, help="Forecast from every so many rows; 1: from all; 0: only from the last.")
    ] = 0,
    since: Annotated[str, typer.Option(help="With --every: time of the first row to forecast; default: all.")] = "",
    config: ConfigFile = None,
    assignments: Assignments = None,
    home: Home = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Forecast whole files, a file of forecasts a station, with the numbers of the service and of evaluation."""
    if not sources or not output:
        raise ConfigError("flts forecast needs --input and --output: files of rows, and where forecasts are written")
    settings = resolve(config, assignments, {"run.home": home}).settings
    with progress_console(as_json):
        from flts_ray.cluster import Cluster, submission_id
        from flts_ray.data.storage import Store
        from flts_ray.inference.batch import forecast_batch, make_options
        from flts_ray.inference.batch_actors import workers_on
        from flts_ray.inference.registered import registered_model
        from flts_ray.telemetry.logging import bound
        from flts_ray.telemetry.tracing import traced

        model = registered_model(settings, identifier, version)
        options = make_options(model, settings, horizon=horizon, levels=level or (), every=every, since=since)
        with (
            bound(job=submission_id()),
            traced(settings.telemetry, "flts forecast"),
            Cluster(settings.run) as cluster,
        ):
            result = forecast_batch(
                model,
                sources,
                Store(output, settings.storage),
                options,
                settings,
                workers=workers_on(cluster),
                force=force,
            )
    if as_json:
        print_json(result.document())
    else:
        from flts_ray.tables import print_forecasts

        print_forecasts(result)
    if (error := result.error()) is not None:
        raise error
