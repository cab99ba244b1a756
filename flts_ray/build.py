"""Which program this is: its version and commit, which decide what it computes, and the build that it runs from."""

from __future__ import annotations

import os
import subprocess
from importlib import metadata
from pathlib import Path

BUILD_ID = "FLTS_BUILD_ID"
GIT_COMMIT = "FLTS_GIT_COMMIT"


def build_id() -> str:
    """Name of the image that this process runs from, as its build was told; empty outside of an image.

    Two images of one commit compute the same, so this is kept beside results and enters no digest.
    """
    return os.environ.get(BUILD_ID, "").strip()


def code_version() -> str:
    """Version of the package, with the git commit where one can be told (``FLTS_GIT_COMMIT`` or the checkout)."""
    try:
        version = metadata.version("flts-ray")
    except metadata.PackageNotFoundError:
        version = "0+unknown"
    commit = os.environ.get(GIT_COMMIT, "") or _git_commit()
    return f"{version}+{commit[:12]}" if commit else version


def _git_commit() -> str:
    here = Path(__file__).resolve()
    if not (here.parents[1] / ".git").exists():  # installed elsewhere: a repository around it is not ours
        return ""
    command = ["git", "-C", str(here.parents[1]), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
