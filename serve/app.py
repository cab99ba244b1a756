"""The Ray Serve application: ``serve run serve.app:app``, ``serve deploy serve/config.yaml`` or ``flts serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve import Application

from flts_ray.config import Settings
from flts_ray.config_layers import load_settings
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


def app(arguments: Arguments) -> Application:
    """Build the application from what the configuration file or ``key=value`` of ``serve run`` says.

    Raises:
        ConfigError: If a setting is wrong, or nothing says what to serve.
    """
    settings = load_settings(file=arguments.config, options=arguments.set).settings
    return build(settings, served_identifier(settings, arguments.identifier))


def build(settings: Settings, identifier: str) -> Application:
    """The application of these settings: one deployment."""
    home = str(Path(settings.run.home).absolute())  # a replica may run in another folder
    settings = settings.model_copy(update={"run": settings.run.model_copy(update={"home": home})})
    deployment = serve.deployment(name=DEPLOYMENT, **deployment_options(settings.serve))(serve.ingress()(Replica))
    application: Application = deployment.bind(settings.model_dump(mode="json"), identifier)
    return application
