"""What a container of ours would read as its settings: its environment and its mounted file, through our own layers."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from typer.main import get_command

from flts_ray.cli import app
from flts_ray.cli_options import run_options
from flts_ray.config import Settings
from flts_ray.config_layers import load_settings
from jobs.entry import Job
from kuberay.lint.model import Rendering
from kuberay.lint.pods import Container, Pod, containers

IMAGE = "flts-ray"


def ours(rendering: Rendering) -> Iterator[Container]:
    """Containers that run our image."""
    for container in containers(rendering):
        if str(container.get("image", "")).rpartition("/")[2].startswith(IMAGE):  # or one of its variants
            yield container


def environment_of(container: Container, rendering: Rendering) -> dict[str, str]:
    """The environment as the kubelet makes it; what a Secret or the pod itself would say is a dummy."""
    out: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if name := source.get("configMapRef", {}).get("name"):
            out |= rendering.config_maps[name]
    for variable in container.get("env", []):
        text = variable.get("value", "" if "valueFrom" not in variable else "dummy")
        if key := variable.get("valueFrom", {}).get("configMapKeyRef"):
            text = rendering.config_maps[key["name"]][key["key"]]
        out[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda found: out.get(found[1], found[0]), str(text))
    return out


def mounted_file(container: Container, path: str, rendering: Rendering) -> str:
    """Text of a file that a ConfigMap puts into a container.

    Raises:
        LookupError: If none does.
    """
    wanted = PurePosixPath(path)
    volumes = {volume["name"]: volume for volume in container.pod.spec.get("volumes", [])}
    for mount in container.get("volumeMounts", []):
        inside = PurePosixPath(mount["mountPath"])
        name = volumes.get(mount["name"], {}).get("configMap", {}).get("name")
        if name is None or not (wanted == inside or inside in wanted.parents):
            continue
        key = mount.get("subPath") or str(wanted.relative_to(inside))
        return str(rendering.config_maps[name][key])
    raise LookupError(f"no ConfigMap puts {path} into {container.pod.owner} {container.path}")


def settings_of(
    container: Container,
    rendering: Rendering,
    scratch: Path,
    *,
    config: str | None = None,
    file_from: Container | None = None,
    more_environment: Mapping[str, str] | None = None,
    assignments: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    samples: bool = True,
) -> Settings:
    """The settings that a command in this container resolves to.

    Args:
        container: Where it runs.
        rendering: The whole.
        scratch: A folder for the file.
        config: Path of its ``--config``; None: that of ``FLTS_CONFIG``.
        file_from: The container that has the file, if it is sent along from another.
        more_environment: What is set for the command alone.
        assignments: Texts of ``--set``.
        options: By dotted key.
        samples: Whether it preprocesses.
    """
    environ = environment_of(container, rendering) | dict(more_environment or {})
    config = environ.pop("FLTS_CONFIG", None) if config is None else config
    file = None
    if config is not None:
        file = scratch / "flts.yaml"
        file.write_text(mounted_file(file_from or container, config, rendering), encoding="utf-8")
    return load_settings(file=file, assignments=assignments, options=options, environ=environ, samples=samples).settings


def settings_of_job(pod: Pod, entrypoint: str, runtime_env: str, rendering: Rendering, scratch: Path) -> Settings:
    """The settings of a job that runs on this head: its arguments read as the command itself reads them."""
    python, dash_m, module, *arguments = shlex.split(entrypoint)
    assert (python, dash_m) == ("python", "-m"), f"{pod.owner}: '{entrypoint}' starts no module"
    assert module.startswith("jobs."), f"{pod.owner}: '{entrypoint}' starts none of our jobs"
    job = Job(module.removeprefix("jobs."))
    assert pod.main is not None
    return settings_of(
        pod.main,
        rendering,
        scratch,
        more_environment=(yaml.safe_load(runtime_env) or {}).get("env_vars"),
        samples=job not in (Job.EVALUATE,),
        **given(job.command, arguments),
    )


def given(command: str, arguments: Sequence[str]) -> dict[str, Any]:
    """What the arguments of a command of ``flts`` say: ``config``, ``assignments`` and ``options``."""
    group: Any = get_command(app)
    values = group.commands[command].make_context(command, list(arguments)).params
    said = {name: values.get(name) for name in ("train", "test", "recipe", "home")}
    return {
        "config": None if values.get("config") is None else str(values["config"]),
        "assignments": values.get("assignments") or (),
        "options": run_options(**said, force=bool(values.get("force"))),
    }
