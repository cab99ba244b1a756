"""Services and their environment, read from deployment files of any make: Compose, Helm values, manifests, .env."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from flts_ray.config_layers import environment_settings, setting_fields, without_passwords
from flts_ray.env_names import LEGACY_NAMES, PREFIX, SAMPLING_NAMES, SWITCHES
from flts_ray.errors import ConfigError
from flts_ray.run_record import shown

MAX_NODES, MAX_DEPTH = 200_000, 60
ENVIRONMENT_KEYS = frozenset({"environment", "env", "env_vars", "envVars", "extraEnv"})
PREPROCESS, PROPHET, EVALUATION, INFERENCE = "preprocess", "prophet", "evaluation", "inference"
WHOLE = "all"
"""Role of a service that does everything, such as a job or an .env file."""

_NETWORKS = ("gru", "lstm")
_FIT = ("seed", "windows.", "recurrent.", "training.", "tracking.", "storage.", "identifier")
_SHAPE = ("hash_salt", "data.", "sampling.", "cleaning.", "features.", "scaling.", "storage.", "run.", "identifier")
OWNED: Mapping[str, tuple[str, ...]] = {
    PREPROCESS: _SHAPE,
    **dict.fromkeys(_NETWORKS, _FIT),
    "training": _FIT,
    PROPHET: ("prophet.", *_FIT),
    EVALUATION: ("evaluation.", "promotion.", "tracking.", "storage.", "identifier"),
    WHOLE: ("",),
}
"""Role → prefixes of the settings that its environment decides; elsewhere the same names mean something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service of a deployment.

    Attributes:
        role: What it does, the same in every kind of file: preprocess, gru, lstm, prophet, ..., or its own name.
        name: As the file calls it.
        environment: Variables that have a value; secrets are masked.
        image: Container image, empty if the file does not say.
        settings: Dotted key → ``(value, variable)`` of the settings that this service decides.
    """

    role: str
    name: str
    environment: Mapping[str, str]
    image: str = ""
    settings: Mapping[str, tuple[Any, str]] = field(default_factory=dict)

    @property
    def sampling(self) -> dict[str, str]:
        """Its variables that ask for fewer rows."""
        found = {name: self.environment.get(name, "").strip() for name in SAMPLING_NAMES[:2]}
        return {name: text for name, text in found.items() if text not in ("", "0")}


@dataclass(slots=True)
class _Found:
    name: str
    environment: dict[str, str]
    image: str = ""


def services_of_yaml(documents: Sequence[Any], place: str, notes: list[str]) -> list[Service]:
    """Every service with an environment in some YAML documents; none if they are no deployment.

    Args:
        documents: As loaded.
        place: The file's name, for errors.
        notes: Receives what could not be told from the file.

    Raises:
        ConfigError: If a variable cannot be read, or the file is nested beyond reason.
    """
    parts = [part for document in documents for part in (_at(document, "items") or [document])]
    maps = {
        str(_at(part, "metadata", "name")): _texts(_at(part, "data"))
        for part in parts
        if _at(part, "kind") == "ConfigMap" and isinstance(_at(part, "data"), Mapping)
    }
    found: list[_Found] = []
    budget = [MAX_NODES]
    for part in parts:
        if not isinstance(part, Mapping) or part.get("kind") in ("ConfigMap", "Secret"):
            continue
        base = str(_at(part, "metadata", "name") or "") if part.get("kind") else ""
        live = {key: value for key, value in part.items() if not str(key).startswith("x-")}  # Compose: templates
        for path, owner in _owners(live, (), budget, place):
            found.append(_read(owner, _name(path, base, owner), maps, notes))
        if not base:
            found += _bare(_at(part, "services"), notes)
    return _finished(found, place, notes)


def services_of_dotenv(text: str, place: str, notes: list[str]) -> list[Service]:
    """The one service of a file of ``NAME=value`` lines.

    Raises:
        ConfigError: If a line is none.
    """
    environment: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip().removeprefix("export ")
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*", name.strip()):
            raise ConfigError(f"line {number} of {place} is not NAME=value: correct it")
        value = value.strip()
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
        environment[name.strip()] = value[1:-1] if quoted else re.sub(r"\s+#.*", "", value)
    return _finished([_Found(WHOLE, environment)], place, notes)


def _bare(services: Any, notes: list[str]) -> Iterator[_Found]:
    """Services of a Compose file that set no variable."""
    for name, service in services.items() if isinstance(services, Mapping) else ():
        if isinstance(service, Mapping) and not ENVIRONMENT_KEYS & service.keys():
            yield _Found(str(name), {}, _image(service))
        if file := _at(service, "env_file"):
            notes.append(f"service {name} reads more variables from {file}, which is not followed")


def _owners(
    node: Any, path: tuple[str, ...], budget: list[int], place: str
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Every mapping that has an environment, with the keys that lead to it."""
    budget[0] -= 1
    if budget[0] < 0 or len(path) > MAX_DEPTH:
        raise ConfigError(f"{place} is nested or repeated beyond reason: name a plain deployment file")
    if isinstance(node, Mapping):
        if any(isinstance(node.get(key), Mapping | list) for key in (*ENVIRONMENT_KEYS, "envFrom")):
            yield path, node
        for key, value in node.items():
            if key == "runtimeEnvYAML" and isinstance(value, str):
                yield from _owners(_nested(value, place), (*path, str(key)), budget, place)
            elif key not in ENVIRONMENT_KEYS:
                yield from _owners(value, (*path, str(key)), budget, place)
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _owners(value, (*path, str(i)), budget, place)


def _nested(text: str, place: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"runtimeEnvYAML in {place} is not valid YAML: {' '.join(str(error).split())}") from error


def _read(owner: Mapping[str, Any], name: str, maps: Mapping[str, Mapping[str, str]], notes: list[str]) -> _Found:
    environment: dict[str, str] = {}
    for source in owner.get("envFrom") or ():
        reference = str(_at(source, "configMapRef", "name") or _at(source, "secretRef", "name") or "")
        if reference in maps:
            environment.update(maps[reference])
        else:
            notes.append(f"service {name} reads more variables from {reference}, which is not in the file")
    for key in ENVIRONMENT_KEYS & owner.keys():
        environment.update(_environment(owner[key]))
    return _Found(name, environment, _image(owner))


def _environment(block: Any) -> dict[str, str]:
    if isinstance(block, Mapping):
        return {_upper(str(key)): _text(value) for key, value in block.items() if not isinstance(value, Mapping | list)}
    found: dict[str, str] = {}
    for item in block or ():
        if isinstance(item, str):
            name, _, value = item.partition("=")
            found[_upper(name.strip())] = _text(value)
        elif isinstance(item, Mapping) and "name" in item:
            reference = item.get("valueFrom")
            found[_upper(str(item["name"]))] = (
                f"${{{_reference(reference)}}}" if reference else _text(item.get("value"))
            )
    return found


def _finished(found: Sequence[_Found], place: str, notes: list[str]) -> list[Service]:
    services: dict[str, Service] = {}
    for one in found:
        environment = {name: text for name, text in one.environment.items() if text.strip()}
        role = _role(one.name, environment)
        if role in services:
            role = one.name if one.name not in services else f"{one.name} {len(services)}"
        services[role] = Service(
            role=role,
            name=one.name,
            environment={name: shown(name, text) for name, text in environment.items()},
            image=one.image,
            settings=_settings(role, one.name, environment, place, notes),
        )
    return list(services.values())


def _settings(
    role: str, name: str, environment: Mapping[str, str], place: str, notes: list[str]
) -> dict[str, tuple[Any, str]]:
    owned = OWNED.get(role, ())
    if not owned:
        return {}
    readable = {}
    for variable, text in environment.items():
        if variable in LEGACY_NAMES or variable in SWITCHES or variable.startswith(PREFIX):
            if "${" in text:
                notes.append(f"{variable} of service {name} is {text}, which this file does not resolve")
            else:
                readable[variable] = text
    try:
        found = environment_settings(readable)
    except ConfigError as error:
        raise ConfigError(f"service {name} of {place}: {error}") from error
    many = {key for key, declared in setting_fields().items() if isinstance(declared.default, tuple)}
    return {
        key: (without_passwords(_parts(value) if key in many else value), variable)
        for key, (value, variable) in found.items()
        if key == "candidates" or key.startswith(owned)
    }


def _parts(value: Any) -> list[Any]:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else list(value)


def _role(name: str, environment: Mapping[str, str]) -> str:
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    model = environment.get("MODEL_TYPE", "").strip().lower()
    if any(word.startswith("preproc") for word in words):
        return PREPROCESS
    if any(word.startswith(("eval", "promot")) for word in words):
        return EVALUATION
    if any(word.startswith(("infer", "serv", "predict")) for word in words):
        return INFERENCE
    for kind in (*_NETWORKS, PROPHET):
        if kind in (*words, model):
            return kind
    if "nonml" in words:
        return PROPHET
    if any(word.startswith("train") for word in words):
        return "training"
    return WHOLE if any(variable.startswith(PREFIX) for variable in environment) else name


def _name(path: tuple[str, ...], base: str, owner: Mapping[str, Any]) -> str:
    if base:
        container = str(owner.get("name") or "")
        return f"{base}/{container}" if container and container not in base else base
    parts = [part for part in path if part != "services"]
    return ".".join(parts) or WHOLE


def _image(owner: Mapping[str, Any]) -> str:
    image = owner.get("image")
    if isinstance(image, Mapping):
        return ":".join(str(image[key]) for key in ("repository", "tag") if image.get(key))
    return str(image or "")


def _upper(name: str) -> str:
    """``sampleTrainRows`` and ``sample-train-rows`` as ``SAMPLE_TRAIN_ROWS``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").upper()


def _text(value: Any) -> str:
    """A value as the container would get it; Compose's ``${NAME:-default}`` stands for its default."""
    text = "" if value is None else str(value)
    return re.sub(r"\$\{\w+:?-([^}]*)\}", r"\1", text)


def _texts(block: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): _text(value) for name, value in block.items()}


def _reference(source: Any) -> str:
    return " ".join(f"{kind} {_at(target, 'name') or ''} {_at(target, 'key') or ''}" for kind, target in source.items())


def _at(node: Any, *path: str) -> Any:
    for key in path:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node
