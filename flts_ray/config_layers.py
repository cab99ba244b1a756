"""Where each setting comes from: defaults < recipe < YAML file < environment < command line.

Every layer is a flat mapping of dotted keys; the last one that names a key wins, and its name is kept as the
key's origin. Unknown keys are refused with the nearest valid name.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from flts_ray.config import Settings
from flts_ray.env_names import FLTS_NAMES, LEGACY_NAMES, PREFIX, SAMPLING_NAMES, SWITCHES, flag
from flts_ray.errors import ConfigError, UnknownRecipeError
from flts_ray.recipes import recipe_settings
from flts_ray.redaction import masked


@dataclass(frozen=True, slots=True)
class Resolved:
    """Validated settings and, for every dotted key, the name of the layer that set it.

    Attributes:
        settings: The values.
        origins: What set each key.
        overridden: ``(origin, value)`` of everything else that set a key, weakest first; keys set once are absent.
    """

    settings: Settings
    origins: dict[str, str]
    overridden: Mapping[str, tuple[tuple[str, Any], ...]] = field(default_factory=dict)

    def rows(self) -> list[tuple[str, Any, str]]:
        """``(key, value, origin)`` of every setting, in declaration order; passwords in addresses are masked."""
        return [(key, without_passwords(value), self.origins[key]) for key, value in flatten(self.settings).items()]


@dataclass(frozen=True, slots=True)
class _Layer:
    origin: str
    values: dict[str, Any] = field(default_factory=dict)
    key_origins: dict[str, str] = field(default_factory=dict)
    lost: list[tuple[str, str, Any]] = field(default_factory=list)

    def name_of(self, key: str) -> str:
        return self.key_origins.get(key, self.origin)

    def put(self, key: str, value: Any, origin: str) -> None:
        """Set a key; what this layer had set it to before is lost."""
        if key in self.values:
            self.lost.append((key, self.name_of(key), self.values[key]))
        self.values[key] = value
        self.key_origins[key] = origin


def flatten(model: BaseModel) -> dict[str, Any]:
    """Dotted keys and JSON-able values of a settings model."""
    out: dict[str, Any] = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            out.update({f"{name}.{key}": inner for key, inner in flatten(value).items()})
        elif isinstance(value, dict):
            out[name] = {key: part.model_dump(mode="json", exclude_defaults=True) for key, part in value.items()}
        else:
            out[name] = list(value) if isinstance(value, tuple) else value
    return out


def setting_fields(model: type[BaseModel] = Settings, prefix: str = "") -> dict[str, FieldInfo]:
    """Every dotted key and its declaration."""
    out: dict[str, FieldInfo] = {}
    for name, declared in model.model_fields.items():
        kind = declared.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            out.update(setting_fields(kind, f"{prefix}{name}."))
        else:
            out[prefix + name] = declared
    return out


def load_settings(
    *,
    file: Path | None = None,
    assignments: Iterable[str] = (),
    options: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    samples: bool = True,
) -> Resolved:
    """Merge all layers and validate once.

    Args:
        file: YAML file, nested or dotted keys; default: the one named by ``FLTS_CONFIG``, if any.
        assignments: ``key=value`` of ``--set``, values read as YAML.
        options: Dotted keys set by named command-line options; None values are left out.
        environ: Environment; default: the process's.
        samples: Whether the caller preprocesses. If not, a sampling variable in the environment is an error:
            sampling has one owner.

    Raises:
        ConfigError: With the key, the value, where it was set, and what to do.
    """
    env = os.environ if environ is None else environ
    if file is None and env.get("FLTS_CONFIG"):
        file = Path(env["FLTS_CONFIG"])
    if not samples:
        _refuse_sampling(env)
    layers = [_environment(env), _command_line(assignments, options or {})]
    if file is not None:
        layers.insert(0, _file(file))
    for layer in layers:
        _refuse_unknown(layer)
    recipe, origin = "default", "default"
    for layer in layers:
        if "recipe" in layer.values:
            recipe, origin = str(layer.values["recipe"]), layer.name_of("recipe")
    try:
        layers.insert(0, _Layer(f"recipe {recipe}", dict(recipe_settings(recipe))))
    except UnknownRecipeError as error:
        raise UnknownRecipeError(f"{error} (set by {origin})") from error
    return _validate(layers)


def _validate(layers: list[_Layer]) -> Resolved:
    merged: dict[str, Any] = {}
    origins = dict.fromkeys(setting_fields(), "default")
    overridden: dict[str, tuple[tuple[str, Any], ...]] = {}

    def lose(key: str, origin: str, value: Any) -> None:
        overridden[key] = (*overridden.get(key, ()), (origin, value))

    for layer in layers:
        for key in layer.values.keys() & merged.keys():
            lose(key, origins[key], merged[key])
        for lost in layer.lost:
            lose(*lost)
        for key, value in layer.values.items():
            merged[key] = value
            origins[key] = layer.name_of(key)
    nested: dict[str, Any] = {}
    for key, value in merged.items():
        *parents, leaf = key.split(".")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = value
    try:
        return Resolved(Settings.model_validate(nested), origins, overridden)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if not isinstance(part, int))
        where = f" (set by {origins[key]})" if key in origins else ""
        given = f" is {first['input']!r}" if key in origins else ""
        what = first["msg"].removeprefix("Value error, ")
        raise ConfigError(
            f"setting '{key}'{given}{where}: {what[0].lower()}{what[1:]}; see `flts config show`"
        ) from error


def _refuse_unknown(layer: _Layer) -> None:
    known = setting_fields()
    for key in layer.values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else "`flts config show` lists all keys"
            raise ConfigError(f"unknown setting '{key}' in {layer.name_of(key)}: {hint}")


def _file(path: Path) -> _Layer:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigError(f"configuration file {path} cannot be read: {error.strerror}; check --config") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"configuration file {path} must hold a mapping of settings, not a {type(content).__name__}")
    return _Layer(f"file {path}", _flat(content))


def _flat(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and f"{prefix}{key}" not in setting_fields():
            out.update(_flat(value, f"{prefix}{key}."))
        else:
            out[f"{prefix}{key}"] = value
    return out


def environment_settings(env: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    """What an environment sets: dotted key → value, not yet validated, and the variable it comes from.

    Raises:
        ConfigError: If a variable of ours is unknown or an old one cannot be read.
    """
    layer = _environment(env)
    return {key: (value, layer.name_of(key).removeprefix("environment ")) for key, value in layer.values.items()}


def _environment(env: Mapping[str, str]) -> _Layer:
    layer = _Layer("environment")
    ignored = {name for switch, names in SWITCHES.items() if not _switched_on(env, switch) for name in names}
    for name, (key, convert) in LEGACY_NAMES.items():
        text = env.get(name, "")
        if text.strip() and name not in ignored:
            try:
                value = convert(text.strip())
            except ValueError as error:
                raise ConfigError(f"environment variable {name} is {text!r}: {error}") from error
            layer.put(key, value, f"environment {name}")
    keys = {PREFIX + key.upper().replace(".", "__"): key for key in setting_fields()}
    for name, text in env.items():
        if not name.startswith(PREFIX) or name in FLTS_NAMES:
            continue
        if name not in keys:
            near = difflib.get_close_matches(name, keys, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else "names are FLTS_<SECTION>__<KEY>"
            raise ConfigError(f"unknown environment variable {name}: {hint}")
        if text.strip():
            layer.put(keys[name], _scalar(text), f"environment {name}")
    return layer


def _switched_on(env: Mapping[str, str], switch: str) -> bool:
    text = env.get(switch, "").strip()
    try:
        return bool(text) and flag(text)
    except ValueError as error:
        raise ConfigError(f"environment variable {switch} is {text!r}: {error}") from error


def _refuse_sampling(env: Mapping[str, str]) -> None:
    for name in SAMPLING_NAMES:
        if env.get(name, "").strip() and env[name].strip() != "0":
            raise ConfigError(
                f"environment variable {name}={env[name]} is set in a job that does not preprocess: sampling has one "
                "owner, the preprocess step, and its effect is in the claim; unset the variable here"
            )


def _command_line(assignments: Iterable[str], options: Mapping[str, Any]) -> _Layer:
    layer = _Layer("command line")
    for key, value in options.items():
        if value is not None:
            layer.put(key, value, "command line")
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text} lacks a value: write --set key=value")
        layer.put(key.strip(), _scalar(value), f"command line --set {key.strip()}")
    return layer


def without_passwords(value: Any) -> Any:
    """A setting's value as it may be shown: passwords in addresses are masked."""
    if isinstance(value, list | tuple):
        return [without_passwords(part) for part in value]
    return masked(value) if isinstance(value, str) else value


def _scalar(text: str) -> Any:
    """Read a value as YAML would, so that ``3e-3``, ``true`` and ``[1, 2]`` mean what they look like."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return "" if value is None else value
