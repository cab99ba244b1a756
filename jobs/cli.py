"""The command that this package adds to ``flts``: ``submit``, which runs a job on a cluster as if it ran here."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from flts_ray.cli_options import Assignments
from jobs.entry import Job

commands = typer.Typer()


@commands.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def submit(
    context: typer.Context,
    job: Annotated[Job, typer.Argument(help="What to run; the arguments of its command follow it.")],
    address: Annotated[
        str,
        typer.Option(envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"], help="Dashboard of the cluster, or host:port."),
    ] = "http://127.0.0.1:8265",
    submission_id: Annotated[
        str | None, typer.Option(help="Name of the job and its run: the same name goes on from what was done.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Follow the job to its end, or leave it to the cluster.")
    ] = True,
    working_dir: Annotated[
        Path | None, typer.Option(help="Folder to send instead of the code that is installed here.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", envvar="FLTS_CONFIG", help="YAML file of settings, sent along."),
    ] = None,
    assignments: Assignments = None,
) -> None:
    """Run a job on a Ray cluster: its log on stderr, its JSON answer on stdout, and its exit code.

    Ctrl-C and SIGTERM stop the job. Nothing of this shell's environment travels: settings are those of --config, --set
    and the cluster's own environment.
    """
    from flts_ray.build import build_id
    from jobs.submitting.client import JobClient
    from jobs.submitting.log import JobLog
    from jobs.submitting.package import commit_of, installed_commit, working_directory
    from jobs.submitting.request import left_behind, make_request
    from jobs.submitting.submission import follow_to_the_end, start, stopped_with_us

    with ExitStack() as stack:
        folder, config_name = stack.enter_context(working_directory(working_dir, config))
        request = make_request(
            job,
            submission_id=submission_id,
            config=config,
            config_name=config_name,
            assignments=assignments or (),
            extra=context.args,
            commit=commit_of(working_dir) if working_dir else installed_commit(),
            build="" if working_dir else build_id(),
        )
        if names := left_behind(os.environ):
            _say(f"set here and not sent along: {', '.join(names)}")
        client = JobClient(address)
        name = request.submission_id
        if wait:
            stack.enter_context(stopped_with_us(client, name, _say))
        earlier = start(client, request, folder, _say)
        _say(f"dashboard: {client.page_of(name)}")
        if not wait:
            typer.echo(name)
            return
        log = JobLog(_say)
        ending = follow_to_the_end(client, name, log, earlier)
        if log.document is not None:
            typer.echo(json.dumps(log.document, indent=2, ensure_ascii=False))
        _say(f"dashboard: {client.page_of(name)}")
        if log.mlflow_url:
            _say(f"mlflow: {log.mlflow_url}")
        if ending.reason:
            _say(f"error: {ending.reason}")
        raise typer.Exit(ending.code)


def _say(sentence: str) -> None:
    typer.echo(sentence, err=True)
