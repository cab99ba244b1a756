# ruff: noqa: T201 - a command that talks to a person
"""``make services``: real servers for development, in the foreground, until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from pathlib import Path
from types import FrameType

from tests.services.stack import Stack, running_stack


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.services", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".services"), help="where they keep their files")
    folder: Path = parser.parse_args(arguments).folder
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell in the background has SIGINT ignored
        signal.signal(number, _interrupt)
    print("starting the object store, the database and the tracker ...", flush=True)
    try:
        with running_stack(folder) as stack:
            print(announcement(stack), flush=True)
            print(f"the {stack.watch()} ended by itself: see its log in {stack.folder}", file=sys.stderr)
            return 1
    except KeyboardInterrupt:
        print("stopped", flush=True)
        return 0
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def announcement(stack: Stack) -> str:
    """What is where, and what to type."""
    file = stack.env_file
    with_default = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
    return "\n".join(
        (
            f"object store  {stack.objects.endpoint_url}  buckets {', '.join(stack.objects.buckets())}",
            f"database      127.0.0.1:{stack.database.port}  PostgreSQL, database {stack.database.database}",
            f"tracker       {stack.tracker.uri}  artifacts through it, into the bucket mlflow",
            "",
            "In another terminal:",
            f"  set -a; . {_shown(with_default)}; set +a",
            "  flts run --config kuberay/config/flts.yaml --train sample_data/train --test sample_data/test",
            "",
            "Ctrl-C stops them and throws their data away.",
        )
    )


def _shown(file: Path) -> str:
    """A path that the shell's ``.`` does not look for in PATH."""
    text = shlex.quote(str(file))
    return text if os.sep in text else f"./{text}"


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
