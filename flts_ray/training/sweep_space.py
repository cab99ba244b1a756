"""What a sweep may try: ranges out of the settings, checked, and combinations laid over the settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from flts_ray.config import Settings, canonical_digest
from flts_ray.config_experiments import Scalar, SearchRange
from flts_ray.config_layers import setting_fields
from flts_ray.errors import ConfigError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Params = dict[str, Scalar]
"""One combination: the network under ``cell``, and settings by dotted name."""

CELL = "cell"

SEARCHED = ("windows.lookback", "recurrent.", "training.")

FIXED = {
    "training.epochs": "it is the budget that trials are compared at",
    "training.validation_fraction": "it chooses the rows that trials are scored on",
    "training.workers": "it changes no score",
    "training.cpus_per_worker": "it changes no score",
    "training.use_gpu": "it changes no score",
    "training.max_failures": "it changes no score",
}
"""Settings that are refused although they lie in a searched section, and why."""


def check_space(settings: Settings) -> None:
    """Refuse what cannot be searched, before anything starts.

    Raises:
        ConfigError: Naming the setting, and why it or one of its values cannot be tried.
    """
    fields = setting_fields()
    for name, tried in settings.tune.space.items():
        if name not in fields:
            raise ConfigError(f"tune.space names '{name}', and there is no such setting: see docs/configuration.md")
        if name in FIXED:
            raise ConfigError(f"tune.space must not search {name}: {FIXED[name]}; set it for all trials instead")
        if not name.startswith(SEARCHED):
            raise ConfigError(
                f"tune.space must not search {name}: trials have to read the same rows and be scored alike, so only "
                "windows.lookback, recurrent.* and training.* can be searched; preprocess another dataset instead"
            )
        for value in _corners(name, tried):
            applied(settings, {name: value})


def applied(settings: Settings, params: Params) -> Settings:
    """The settings with one combination laid over them.

    Raises:
        ConfigError: If a value is none that its setting takes.
    """
    values = settings.model_dump()
    for name, value in params.items():
        if name != CELL:
            section, _, field = name.partition(".")
            values[section][field] = value
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"tune.space offers {name}={first['input']!r}, which that setting does not take ({first['msg']}): correct "
            "the range"
        ) from error


def first_params(settings: Settings) -> list[Params]:
    """The settings as they are, once a network: what every other combination has to beat."""
    if not settings.tune.start_from_settings:
        return []
    return [
        {CELL: cell, **{name: _now(settings, name) for name in settings.tune.space}} for cell in settings.tune.cells
    ]


def params_key(params: Params) -> str:
    """Twelve hex digits that name a combination."""
    return canonical_digest(params)[:12]


def distributions(settings: Settings) -> dict[str, BaseDistribution]:
    """The space as Optuna draws from it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {CELL: CategoricalDistribution(settings.tune.cells)}
    for name, tried in settings.tune.space.items():
        low, high = tried.low, tried.high
        if low is None or high is None:
            found[name] = CategoricalDistribution(tried.values)
        elif _whole(name, tried):
            found[name] = IntDistribution(round(low), round(high), log=tried.log)
        else:
            found[name] = FloatDistribution(low, high, log=tried.log)
    return found


def _corners(name: str, tried: SearchRange) -> Iterator[Scalar]:
    yield from tried.values
    for bound in (tried.low, tried.high):
        if bound is not None:
            yield int(bound) if _whole(name, tried) and bound.is_integer() else bound


def _whole(name: str, tried: SearchRange) -> bool:
    return tried.integer or setting_fields()[name].annotation is int


def _now(settings: Settings, name: str) -> Scalar:
    section, _, field = name.partition(".")
    value: Any = getattr(getattr(settings, section), field)
    return value  # type: ignore[no-any-return]
