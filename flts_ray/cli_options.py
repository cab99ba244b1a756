"""What the commands of ``flts`` share: options, and how settings are resolved and answers printed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from flts_ray.cluster import submission_id
from flts_ray.config_layers import Resolved, load_settings
from flts_ray.errors import ConfigError
from flts_ray.telemetry import logging as log

ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="YAML file of settings.")]
Assignments = Annotated[list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help="Set any setting.")]
Train = Annotated[list[str] | None, typer.Option(help="Train rows: files, folders, globs; local or s3://.")]
Test = Annotated[list[str] | None, typer.Option(help="Test rows; none: the last part of the train rows.")]
Recipe = Annotated[str | None, typer.Option(help="Named set of defaults: default or classic.")]
Home = Annotated[str | None, typer.Option(help="Folder of everything the program writes.")]
Force = Annotated[bool, typer.Option("--force", help="Redo what is already done.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else there.")]
Identifier = Annotated[
    str | None, typer.Argument(help="Registered name, such as a station; default: that of the latest run.")
]
DatasetId = Annotated[str, typer.Option("--dataset", help="Which dataset: the dataset_id that preprocessing gave.")]
OptionalDatasetId = Annotated[
    str | None, typer.Option("--dataset", help="A dataset to start from, instead of preprocessing sources.")
]
RunId = Annotated[str | None, typer.Option("--run", help="Which run; default: the latest.")]


def resolve(
    config: Path | None, assignments: list[str] | None, options: dict[str, Any], *, samples: bool = True
) -> Resolved:
    """The settings of a command: from its file, the environment, ``--set`` and its own options.

    Args:
        config: The file.
        assignments: Texts of ``--set``.
        options: By setting; None: not given.
        samples: Whether the command preprocesses; if not, it refuses settings of sampling in the environment.
    """
    resolved = load_settings(file=config, assignments=assignments or (), options=options, samples=samples)
    _refuse_lost_home(resolved.settings.run.home)
    return resolved


def _refuse_lost_home(home: str) -> None:
    """Refuse to put the results of a cluster's job where Ray removes them with the job's working directory."""
    if submission_id() and not Path(home).is_absolute():
        raise ConfigError(
            f"run.home is '{home}', which for a job lies in a working directory that Ray removes: set run.home (or "
            "--home) to an absolute folder that stays, such as a volume of the head"
        )


def run_options(
    train: list[str] | None, test: list[str] | None, recipe: str | None, home: str | None, force: bool
) -> dict[str, Any]:
    """The options that name a setting, by its key."""
    return {
        "data.train": tuple(train) if train else None,
        "data.test": tuple(test) if test else None,
        "recipe": recipe,
        "run.home": home,
        "run.force": True if force else None,
    }


@contextmanager
def progress_console(as_json: bool) -> Iterator[Console]:
    """Where progress goes; in a terminal the bars replace the log lines, which still reach the run's file."""
    console = Console(stderr=True)
    log.configure(quiet=console.is_terminal and not as_json)
    yield console


def print_json(value: Any) -> None:
    """The answer of ``--json``."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))
