"""Command lines of ours in manifests: the command that they name exists and takes these arguments."""

from __future__ import annotations

import difflib
import functools
import itertools
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any


def complaint(argv: Sequence[str]) -> str:
    """What is wrong with the arguments of a command line of ours; empty: nothing, or it is none of ours.

    Args:
        argv: ``flts …``, ``python -m flts_ray.cli …`` or ``python -m jobs.pipeline …``.
    """
    arguments = _arguments_of_flts(argv)
    if arguments is None:
        return ""
    command: Any = None
    commands: dict[str, Any] | None = _flts()
    while commands:
        if not arguments:
            return "names no command"
        name = arguments.pop(0)
        if name in ("--help", "--version"):
            return ""
        if name not in commands:
            return f"`flts {name}` is no command; known are {', '.join(sorted(commands))}"
        command = commands[name]
        commands = getattr(command, "commands", None)
    return _unknown_option(command, arguments)


def options(argv: Sequence[str], name: str) -> list[str]:
    """The values of an option in a command line."""
    found = [text.partition("=")[2] for text in argv if text.startswith(f"{name}=")]
    return found + [value for text, value in itertools.pairwise(argv) if text == name]


def option(argv: Sequence[str], name: str) -> str | None:
    """The value of an option in a command line; None: it is not given."""
    return next(iter(options(argv, name)), None)


def _arguments_of_flts(argv: Sequence[str]) -> list[str] | None:
    given = list(argv)
    if given[:1] == ["flts"]:
        return given[1:]
    if given[:1] in (["python"], ["python3"]) and given[1:2] == ["-m"] and len(given) > 2:
        package, _, module = given[2].partition(".")
        if given[2] == "flts_ray.cli":
            return given[3:]
        if package == "jobs":
            from jobs.entry import Job

            try:
                return [Job(module).command, *given[3:]]
            except ValueError:
                return [module, *given[3:]]
    return None


def _unknown_option(command: Any, arguments: list[str]) -> str:
    takes: dict[str, bool] = {}
    positional, endless = 0, False
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            positional, endless = positional + 1, endless or parameter.nargs == -1
            continue
        for name in (*parameter.opts, *parameter.secondary_opts):
            takes[name] = not parameter.is_flag
    if (command.context_settings or {}).get("ignore_unknown_options"):  # what follows is another command's
        takes |= dict.fromkeys((text.partition("=")[0] for text in arguments if text.startswith("-")), False)
        endless = True
    rest = iter(arguments)
    plain = 0
    for text in rest:
        if not text.startswith("-"):
            plain += 1
            continue
        name, equals, _ = text.partition("=")
        if name not in takes:
            near = difflib.get_close_matches(name, takes, n=1)
            return f"`flts {command.name}` has no option {name}" + (f"; did you mean {near[0]}?" if near else "")
        if takes[name] and not equals and next(rest, None) is None:
            return f"the option {name} lacks its value"
    if plain > positional and not endless:
        return f"`flts {command.name}` takes {positional} arguments without a name, not {plain}"
    return ""


@functools.cache
def _flts() -> dict[str, Any]:
    """The commands of ``flts`` by name, those of its plugins included; the program's own object stays as it is."""
    from typer.main import get_group

    from flts_ray.cli import app

    apps = [app, *(plugin.load() for plugin in entry_points(group="flts_ray.commands"))]
    return {name: command for each in apps for name, command in get_group(each).commands.items()}
