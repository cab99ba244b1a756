"""The working directory that travels with a job: the code and one configuration file, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from flts_ray.build import GIT_COMMIT
from flts_ray.errors import ConfigError

PACKAGES = ("flts_ray", "jobs", "serve")
"""``serve`` too: where the cluster's image holds another version, its half would not fit to ours."""

CONFIG_NAME = "job-config.yaml"


@contextmanager
def working_directory(given: Path | None, config: Path | None) -> Iterator[tuple[Path, str]]:
    """The folder to send, and where in it the configuration file lies.

    Args:
        given: A folder to send as it is; None: a small one is put together.
        config: The configuration file.

    Raises:
        ConfigError: If ``given`` is no folder, or ``config`` does not lie in it or cannot be read.
    """
    if config is not None and not config.is_file():
        raise ConfigError(f"configuration file {config} cannot be read: check --config")
    if given is not None:
        yield given, _name_within(given, config)
        return
    with TemporaryDirectory(prefix="flts-job-") as name:
        folder = Path(name)
        for package in PACKAGES:
            shutil.copytree(source_of(package), folder / package, ignore=shutil.ignore_patterns("__pycache__"))
        if config is not None:
            shutil.copyfile(config, folder / CONFIG_NAME)
        yield folder, CONFIG_NAME


def _name_within(folder: Path, config: Path | None) -> str:
    if not folder.is_dir():
        raise ConfigError(f"--working-dir {folder} is no folder: name one that holds the packages flts_ray and jobs")
    if config is None:
        return ""
    if not config.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"the configuration file {config} does not lie in --working-dir {folder}: put it there")
    return str(config.resolve().relative_to(folder.resolve()))


def source_of(package: str) -> Path:
    """Where an installed package lies; it is not imported.

    Raises:
        ConfigError: If it is not installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"the package {package} is not installed here: install flts-ray, or name --working-dir")
    return Path(spec.submodule_search_locations[0])


def installed_commit() -> str:
    """Git commit of the code that is installed here: of its checkout, or as its image was told."""
    return commit_of(source_of("flts_ray").parent) or os.environ.get(GIT_COMMIT, "")[:12]


def commit_of(folder: Path) -> str:
    """Git commit of the checkout that a folder is, with ``-changed`` if it differs; empty if it is none."""
    if not (folder / ".git").exists():  # installed elsewhere: a repository around it is not ours
        return ""
    try:
        head, changes = (
            subprocess.run(
                ["git", "-C", str(folder), *question], capture_output=True, text=True, timeout=10, check=True
            ).stdout.strip()
            for question in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", *PACKAGES])
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return head[:12] + ("-changed" if changes else "")
