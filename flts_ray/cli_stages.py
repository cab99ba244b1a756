"""The commands of ``flts`` that make a champion: the whole pipeline, and its stages one by one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from flts_ray.cli_options import (
    AsJson,
    Assignments,
    ConfigFile,
    DatasetId,
    Force,
    Home,
    OptionalDatasetId,
    Recipe,
    Test,
    Train,
    print_json,
    progress_console,
    resolve,
    run_options,
)
from flts_ray.config_layers import Resolved

if TYPE_CHECKING:
    from flts_ray.attempt import OnBeat
    from flts_ray.results import RunResult

stages = typer.Typer()


@stages.command()
def run(
    train: Train = None,
    test: Test = None,
    recipe: Recipe = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    home: Home = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Run the whole pipeline: preprocess, train, evaluate, promote, report."""
    resolved = resolve(config, assignments, run_options(train, test, recipe, home, force))
    with _bars(resolved, as_json) as on_beat:
        from flts_ray.pipeline import run_pipeline

        result = run_pipeline(resolved, on_beat=on_beat)
    _answer(result, as_json)


@stages.command()
def preprocess(
    train: Train = None,
    test: Test = None,
    recipe: Recipe = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    home: Home = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Only turn the sources into a dataset and print its claim check."""
    resolved = resolve(config, assignments, run_options(train, test, recipe, home, force))
    with progress_console(as_json):
        from flts_ray.build import code_version
        from flts_ray.cluster import Cluster, submission_id
        from flts_ray.data.preprocess import preprocess as prepare
        from flts_ray.data.storage import open_store
        from flts_ray.telemetry.logging import bound
        from flts_ray.telemetry.tracing import traced

        settings = resolved.settings
        with (
            bound(job=submission_id()),
            traced(settings.telemetry, "flts preprocess"),
            Cluster(settings.run) as cluster,
        ):
            claim = prepare(
                settings, open_store(settings), ensure_ray=cluster.ensure, code_version=code_version()
            ).claim
    if as_json:
        print_json(claim.model_dump(mode="json"))
    else:
        from flts_ray.tables import print_claim

        print_claim(claim)


@stages.command()
def train(
    train: Train = None,
    test: Test = None,
    dataset_id: OptionalDatasetId = None,
    recipe: Recipe = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    home: Home = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Only fit the candidates, of a dataset or of sources; `flts evaluate` scores them."""
    options = run_options(train, test, recipe, home, force)
    resolved = resolve(config, assignments, options, samples=dataset_id is None)
    with _bars(resolved, as_json) as on_beat:
        from flts_ray.pipeline import run_training

        result = run_training(resolved, dataset_id, on_beat=on_beat)
    if as_json:
        print_json(result.document())
    else:
        from flts_ray.tables import print_fits

        print_fits(result)
    raise typer.Exit(result.exit_code)


@stages.command()
def evaluate(
    dataset_id: DatasetId,
    recipe: Recipe = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Score the fitted candidates of a dataset, promote the best, report."""
    resolved = resolve(config, assignments, run_options(None, None, recipe, home, False), samples=False)
    with _bars(resolved, as_json) as on_beat:
        from flts_ray.pipeline import Plan, run_pipeline

        result = run_pipeline(resolved, Plan(command="evaluate", dataset_id=dataset_id, fit=False), on_beat=on_beat)
    _answer(result, as_json)


@stages.command()
def tune(
    train: Train = None,
    test: Test = None,
    dataset_id: OptionalDatasetId = None,
    recipe: Recipe = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    home: Home = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Search settings with Ray Tune; the refitted winner competes as `tuned` with the other candidates."""
    options = run_options(train, test, recipe, home, force)
    resolved = resolve(config, assignments, options, samples=dataset_id is None)
    with _bars(resolved, as_json) as on_beat:
        from flts_ray.pipeline import Plan, run_pipeline

        result = run_pipeline(resolved, Plan(command="tune", dataset_id=dataset_id, sweep=True), on_beat=on_beat)
    _answer(result, as_json)


@stages.command()
def backtest(
    train: Train = None,
    test: Test = None,
    dataset_id: OptionalDatasetId = None,
    recipe: Recipe = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    home: Home = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Score every model on several cuts of the train rows, fitted before each cut; nothing is promoted."""
    options = run_options(train, test, recipe, home, force)
    resolved = resolve(config, assignments, options, samples=dataset_id is None)
    with _bars(resolved, as_json) as on_beat:
        from flts_ray.pipeline import run_backtest

        result = run_backtest(resolved, dataset_id, on_beat=on_beat)
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        from flts_ray.tables import print_backtest

        print_backtest(result)


@contextmanager
def _bars(resolved: Resolved, as_json: bool) -> Iterator[OnBeat]:
    """Show the heartbeats of what happens inside."""
    from flts_ray.telemetry.progress import ProgressBars

    with (
        progress_console(as_json) as console,
        ProgressBars(console, resolved.settings.training.epochs) as bars,
    ):
        yield bars.beat


def _answer(result: RunResult, as_json: bool) -> None:
    if as_json:
        print_json(result.document())
    else:
        from flts_ray.tables import print_run

        print_run(result)
    raise typer.Exit(result.exit_code)
