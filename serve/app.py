"""The Ray Serve application: ``serve run serve.app:app``, ``serve deploy serve/config.yaml`` or ``flts serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from ray import serve
from ray.serve import Application

from flts_ray.config import Settings
from flts_ray.config_layers import load_settings
from flts_ray.errors import ConfigError
from serve.identity import served_identifier
from serve.profiles import deployment_options
from serve.replica import Replica

DEPLOYMENT = "Champion"


class Arguments(BaseModel):
    """What ``args`` in a Serve configuration file may hold.

    Attributes:
        config: YAML file of settings, present on the node that builds the application.
        set: More settings, by dotted key.
        identifier: What to serve; empty: from the settings, else from the latest run.
    """

    model_config = ConfigDict(extra="forbid")

    config: Path | None = None
    set: dict[str, Any] = {}
    identifier: str = ""


def app(args: dict[str, Any]) -> Application:
    """Build the application from what the configuration file or ``key=value`` of ``serve run`` says.

    Args:
        args: See :class:`Arguments`.

    Raises:
        ConfigError: If an argument or a setting is wrong, or nothing says what to serve.
    """
    try:
        arguments = Arguments.model_validate(args)
    except ValidationError as error:
        first = error.errors()[0]
        known = ", ".join(Arguments.model_fields)
        raise ConfigError(f"args.{'.'.join(map(str, first['loc']))}: {first['msg']}: known are {known}") from error
    settings = load_settings(file=arguments.config, options=arguments.set).settings
    return build(settings, served_identifier(settings, arguments.identifier))


def build(settings: Settings, identifier: str) -> Application:
    """The application of these settings: one deployment."""
    home = str(Path(settings.run.home).absolute())  # a replica may run in another folder
    settings = settings.model_copy(update={"run": settings.run.model_copy(update={"home": home})})
    deployment = serve.deployment(name=DEPLOYMENT, **deployment_options(settings.serve))(serve.ingress()(Replica))
    application: Application = deployment.bind(settings.model_dump(mode="json"), identifier)
    return application
