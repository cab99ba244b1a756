"""``flts``: the whole program from a shell. Answers go to stdout, logs and progress to stderr."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flts_ray.build import build_id, code_version
from flts_ray.cli_operations import operations
from flts_ray.cli_options import (
    AsJson,
    Assignments,
    ConfigFile,
    Home,
    Identifier,
    Recipe,
    RunId,
    print_json,
    resolve,
)
from flts_ray.cli_serving import serving
from flts_ray.cli_stages import stages
from flts_ray.errors import FltsError
from flts_ray.telemetry import logging as log

if TYPE_CHECKING:
    from flts_ray.tracking.registry import ModelRegistry

app = typer.Typer(name="flts", no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
config_app = typer.Typer(no_args_is_help=True, help="Settings: what they are and where each value comes from.")
app.add_typer(config_app, name="config")
app.add_typer(stages)
app.add_typer(operations)
app.add_typer(serving)

INTERRUPTED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit codes after Ctrl-C and SIGTERM."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: deliberate errors become one sentence on stderr and their own exit code.

    Ctrl-C ends with 130 and SIGTERM with 143, as shells expect, after runs and processes have been ended.

    Args:
        arguments: The command and its arguments; those of the process if None.
    """
    before = signal.signal(signal.SIGTERM, _terminate)
    for plugin in entry_points(group="flts_ray.commands"):  # such as `serve`, which the library does not know
        app.add_typer(plugin.load())
    try:
        app(args=None if arguments is None else list(arguments))
    except FltsError as error:
        log.event("refused", level=log.ERROR, error=type(error).__name__, exit_code=error.exit_code)
        _complain(f"error: {error}")
        sys.exit(error.exit_code)
    except SystemExit as stop:
        if stop.code in INTERRUPTED:
            _complain("interrupted: the same command goes on from what is done")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # so that everything open is closed on the way out


def _complain(sentence: str) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print(sentence, style="red", markup=False)


def _version(wanted: bool) -> None:
    if wanted:
        build = build_id()
        typer.echo(f"flts-ray {code_version()}" + (f", build {build}" if build else ""))
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show version, commit and build.")
    ] = False,
) -> None:
    """Forecasts of base-station load with Ray."""
    log.configure()


@app.command()
def claim(
    dataset_id: Annotated[str, typer.Argument(help="Which dataset.")],
    config: ConfigFile = None,
    assignments: Assignments = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Verify a stored dataset, every byte of it, and print its claim check."""
    settings = resolve(config, assignments, {"run.home": home}).settings
    from flts_ray.data.dataset import load_dataset
    from flts_ray.data.storage import open_store

    found = load_dataset(open_store(settings), dataset_id).claim
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        from flts_ray.tables import print_claim

        print_claim(found)


@app.command()
def leaderboard(
    run_id: RunId = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Print the leaderboard and the verdict of a finished run."""
    settings = resolve(config, assignments, {"run.home": home}).settings
    from flts_ray.runs import read_run

    document = read_run(Path(settings.run.home), run_id)
    if as_json:
        print_json(document)
    else:
        from flts_ray.tables import print_document

        print_document(document)


@app.command()
def champion(
    identifier: Identifier = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Show which model is champion, and which was before."""
    registry = _registry(identifier, config, assignments, home)
    _print_champions(registry, as_json)


@app.command()
def rollback(
    identifier: Identifier = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Make the previous champion the champion again."""
    registry = _registry(identifier, config, assignments, home)
    registry.rollback()
    _print_champions(registry, as_json)


@app.command("sample-data")
def sample_data(
    out: Annotated[str, typer.Option(help="Where to write: a folder, or s3://bucket/prefix.")] = "sample_data",
    days: Annotated[float, typer.Option(min=2, help="Days of reports, train and test together.")] = 14,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 42,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Generate reports of a few stations that behave like real ones."""
    storage = resolve(config, assignments, {}).settings.storage
    from flts_ray.data.sample_data import write_sample_data

    files = write_sample_data(out, storage=storage, days=days, seed=seed)
    if as_json:
        print_json({"files": files})
    else:
        typer.echo("\n".join(files))


@config_app.command("show")
def config_show(
    recipe: Recipe = None, config: ConfigFile = None, assignments: Assignments = None, as_json: AsJson = False
) -> None:
    """Every setting, its value, and where the value comes from."""
    resolved = resolve(config, assignments, {"recipe": recipe})
    if as_json:
        rows = {key: {"value": value, "origin": origin} for key, value, origin in resolved.rows()}
        print_json({"config_hash": resolved.settings.config_hash(), "settings": rows})
    else:
        from flts_ray.tables import print_settings

        print_settings(resolved)


@config_app.command("hash")
def config_hash(
    recipe: Recipe = None, config: ConfigFile = None, assignments: Assignments = None, as_json: AsJson = False
) -> None:
    """The digest of every setting that shapes the data."""
    digest = resolve(config, assignments, {"recipe": recipe}).settings.config_hash()
    if as_json:
        print_json({"config_hash": digest})
    else:
        typer.echo(digest)


def _registry(
    identifier: str | None, config: Path | None, assignments: list[str] | None, home: str | None
) -> ModelRegistry:
    settings = resolve(config, assignments, {"run.home": home}).settings
    from flts_ray.runs import read_run
    from flts_ray.tracking.client import Gateway
    from flts_ray.tracking.registry import ModelRegistry

    folder = Path(settings.run.home).absolute()
    name = identifier or settings.identifier or str(read_run(folder, None)["identifier"])
    return ModelRegistry(Gateway(settings.tracking, folder), name, wait_s=0)


def _print_champions(registry: ModelRegistry, as_json: bool) -> None:
    found = {"champion": registry.champion(), "previous": registry.previous()}
    rows = {
        role: None if ref is None else {"version": ref.version, "run_id": ref.run_id, **ref.tags}
        for role, ref in found.items()
    }
    if as_json:
        print_json({"name": registry.name, **rows})
        return
    for role, row in rows.items():
        text = "none" if row is None else f"version {row['version']}  {row.get('candidate_id', '')}"
        typer.echo(f"{registry.name} {role}: {text}")
