"""What is served: the name under which champions are registered."""

from __future__ import annotations

from pathlib import Path

from flts_ray.config import Settings
from flts_ray.errors import ConfigError, FltsError
from flts_ray.runs import read_run


def served_identifier(settings: Settings, given: str = "") -> str:
    """The identifier as given, else as set, else that of the latest run in the home.

    Raises:
        ConfigError: If none of them says.
    """
    if given or settings.identifier:
        return given or settings.identifier
    try:
        return str(read_run(Path(settings.run.home).absolute(), None)["identifier"])
    except FltsError as error:
        raise ConfigError(f"nothing says which champion to serve ({error}): set identifier, or name it") from error
