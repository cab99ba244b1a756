"""``flts serve``: the service on this machine, until it is told to stop."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flts_ray.cli_options import Assignments, ConfigFile, Home, Identifier, resolve

commands = typer.Typer()


@commands.command()
def serve(
    identifier: Identifier = None,
    profile: Annotated[str | None, typer.Option(help="local or throughput.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to bind (local profile).")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the service.")] = None,
    replicas: Annotated[int | None, typer.Option(help="Replicas (throughput profile).")] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    home: Home = None,
) -> None:
    """Serve the champion over HTTP. Prints the address when it answers; Ctrl-C or SIGTERM drains and stops."""
    options: dict[str, Any] = {
        "serve.profile": profile,
        "serve.host": host,
        "serve.port": port,
        "serve.replicas": replicas,
        "run.home": home,
    }
    settings = resolve(config, assignments, options).settings
    from serve.identity import served_identifier
    from serve.running import run_service

    run_service(settings, served_identifier(settings, identifier or ""), announce=typer.echo)
