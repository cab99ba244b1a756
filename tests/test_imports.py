"""What importing the program does: little for the command line, and nothing to the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_layout import MODULES, ROOT

HEAVY = ("torch", "ray", "mlflow", "prophet", "matplotlib", "pandas")


def in_a_fresh_process(code: str, cwd: Path) -> object:
    done = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.unit
def test_the_command_line_starts_light(tmp_path: Path) -> None:
    code = f"import json, sys, flts_ray.cli; print(json.dumps([n for n in {HEAVY!r} if n in sys.modules]))"
    assert in_a_fresh_process(code, tmp_path) == []


@pytest.mark.ray  # no Ray is started, but importing it and everything else takes seconds
def test_importing_everything_changes_nothing(tmp_path: Path) -> None:
    """No file, no environment variable, no thread, no random state, no logging set-up."""
    code = f"""
import importlib, json, logging, os, random, sys, threading
import numpy, torch, matplotlib, ray.data, ray.train.torch, mlflow, rich.console, typer
env, threads = dict(os.environ), set(threading.enumerate())
state, seed = random.getstate(), numpy.random.get_state()[1].tolist()
torch_state, torch_threads = torch.get_rng_state(), torch.get_num_threads()
handlers, backend = list(logging.getLogger().handlers), matplotlib.rcParams["font.size"]
for name in {list(MODULES)!r}:
    importlib.import_module(name)
changed = {{
    "environment": env != dict(os.environ),
    "threads": sorted(t.name for t in set(threading.enumerate()) - threads),
    "random": state != random.getstate() or seed != numpy.random.get_state()[1].tolist(),
    "torch": not torch.equal(torch_state, torch.get_rng_state()) or torch_threads != torch.get_num_threads(),
    "logging": handlers != logging.getLogger().handlers or bool(logging.getLogger("flts_ray").handlers),
    "matplotlib": backend != matplotlib.rcParams["font.size"],
    "ray": ray.is_initialized(),
}}
print(json.dumps({{name: what for name, what in changed.items() if what}}))
"""
    assert in_a_fresh_process(code, tmp_path) == {}
    assert list(tmp_path.iterdir()) == []
