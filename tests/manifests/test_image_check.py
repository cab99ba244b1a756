"""What an image would hold, installed and checked where there is no container engine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kuberay.image import check_image

IMAGE = Path(__file__).resolve().parents[2] / "kuberay" / "image"


@pytest.mark.manifests
@pytest.mark.e2e
@pytest.mark.timeout(1200)
def test_a_clean_prefix_from_the_same_locks_does_all_that_a_cluster_asks() -> None:
    """By the scripts that `docker build` runs; the checks are those of `docker run IMAGE check`."""
    done = subprocess.run(["bash", IMAGE / "check.sh"], capture_output=True, text=True, check=False, timeout=1100)
    assert done.returncode == 0, done.stdout + done.stderr
    told = {line.split()[0] for line in done.stdout.splitlines() if line.split()[1:2] == ["ok"]}
    assert told == {"install", *(check.__name__.removeprefix("check_") for check in check_image.CHECKS)}
