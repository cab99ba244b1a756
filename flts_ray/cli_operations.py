"""The commands of ``flts`` for whoever keeps it running: ``doctor``, ``health``, ``sync`` and ``reconcile``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flts_ray.cli_options import AsJson, Assignments, ConfigFile, Home, print_json, resolve
from flts_ray.errors import ConfigError

operations = typer.Typer()

Side = Annotated[
    str,
    typer.Argument(
        help="A run, a dataset or claim.json (by id, path or s3://), settings as YAML, a Compose, Helm or .env file."
    ),
]


@operations.command()
def doctor(
    fix: Annotated[
        bool, typer.Option("--fix", help="Put right what can be put right without losing anything.")
    ] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Also read every byte of every dataset.")] = False,
    wait_s: Annotated[
        float | None,
        typer.Option("--wait", min=0, metavar="SECONDS", help="Only wait so long for store, tracker and sources."),
    ] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Check everything that a run stands on, and what earlier runs left behind. Ends with 1 if there is trouble."""
    from flts_ray.doctor import document, examine, exit_code, wait_for_services
    from flts_ray.tables import print_findings

    resolved = resolve(config, assignments, {"run.home": home})
    if wait_s is None:
        findings = examine(resolved, fix=fix, deep=deep)
    elif fix or deep:
        raise ConfigError("--wait looks at what lies elsewhere only: leave out --fix and --deep")
    else:
        findings = wait_for_services(resolved.settings, wait_s)
    if as_json:
        print_json(document(findings))
    else:
        print_findings(findings)
    raise typer.Exit(exit_code(findings))


@operations.command()
def health(
    run_id: Annotated[str | None, typer.Argument(help="Which run; default: one at work, else the latest.")] = None,
    stalled: Annotated[
        bool, typer.Option("--stalled", help="For a liveness probe: 1 only if a run of this host is there and hangs.")
    ] = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Tell from its files alone whether a run is at work, hangs or has ended. Ends with 1 if somebody has to act."""
    from flts_ray.health import health as look
    from flts_ray.health import stalled_here

    settings = resolve(config, assignments, {"run.home": home}).settings
    folder = Path(settings.run.home).absolute()
    if stalled and run_id:
        raise ConfigError(f"--stalled looks at every run of this host: leave out '{run_id}'")
    found = stalled_here(folder, settings) if stalled else look(folder, run_id, settings)
    if as_json:
        print_json(found.document())
    else:
        typer.echo(found.sentence)
    raise typer.Exit(0 if found.healthy else 1)


@operations.command()
def sync(
    config: ConfigFile = None, assignments: Assignments = None, home: Home = None, as_json: AsJson = False
) -> None:
    """Deliver to MLflow what it could not take while runs were at work, and end the runs that died."""
    from flts_ray.tracking.sync import sync as deliver

    settings = resolve(config, assignments, {"run.home": home}).settings
    report = deliver(settings.tracking, Path(settings.run.home).absolute())
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        typer.echo(report.sentence())
    raise typer.Exit(0 if report.pending == 0 else 50)


@operations.command()
def reconcile(
    a: Side,
    b: Side,
    config: ConfigFile = None,
    assignments: Assignments = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Explain every difference that matters between two runs, datasets or configurations; 1 if there is one."""
    from flts_ray.data.storage import open_store
    from flts_ray.reconcile import compare, load_side, print_comparison

    settings = resolve(config, assignments, {"run.home": home}).settings
    store, folder = open_store(settings), Path(settings.run.home).absolute()
    comparison = compare(*(load_side(text, settings=settings, store=store, home=folder) for text in (a, b)))
    if as_json:
        print_json(comparison.document())
    else:
        print_comparison(comparison, Console())
    raise typer.Exit(comparison.exit_code)
