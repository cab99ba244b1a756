"""Which class stands behind a forecaster's kind."""

from __future__ import annotations

from importlib import import_module

from flts_ray.errors import BundleError
from flts_ray.models.base import Forecaster


def forecaster_paths() -> dict[str, tuple[str, str]]:
    """Module and class of every kind. Names only, so that serving Prophet does not import PyTorch."""
    baselines, recurrent = "flts_ray.models.baselines", "flts_ray.models.recurrent"
    return {
        "persistence": (baselines, "Persistence"),
        "moving_average": (baselines, "MovingAverage"),
        "seasonal_naive": (baselines, "SeasonalNaive"),
        "ridge": ("flts_ray.models.ridge", "Ridge"),
        "gru": (recurrent, "GRUForecaster"),
        "lstm": (recurrent, "LSTMForecaster"),
        "prophet": ("flts_ray.models.prophet", "ProphetForecaster"),
    }


def forecaster_class(kind: str) -> type[Forecaster]:
    """The class of a kind, imported now.

    Raises:
        BundleError: If there is no such kind.
    """
    paths = forecaster_paths()
    if kind not in paths:
        raise BundleError(f"there is no forecaster of kind '{kind}': this program knows {', '.join(paths)}")
    module, name = paths[kind]
    found: type[Forecaster] = getattr(import_module(module), name)
    return found
