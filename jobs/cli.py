"""The commands that this package adds to ``flts``."""

from __future__ import annotations

import typer

commands = typer.Typer()
