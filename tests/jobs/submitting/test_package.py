from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from flts_ray.errors import ConfigError
from jobs.entry import Job
from jobs.submitting.package import CONFIG_NAME, commit_of, installed_commit, working_directory
from tests.helpers import REPOSITORY, clean_environment

SMALL_BYTES = 4_000_000
"""Ray packs without compression, sends this with every new version of the code, and keeps it in the head's memory."""


@pytest.mark.unit
def test_code_and_configuration_travel_and_little_else(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("seed: 3\n")
    with working_directory(None, config) as (folder, name):
        assert {path.name for path in folder.iterdir()} == {"flts_ray", "jobs", "serve", CONFIG_NAME}
        assert (folder / name).read_bytes() == config.read_bytes()
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files) < SMALL_BYTES
        assert not any("__pycache__" in path.parts for path in files)
    assert not folder.exists()


@pytest.mark.unit
@pytest.mark.parametrize("job", Job)
def test_every_job_runs_from_the_folder_alone(job: Job) -> None:
    with working_directory(None, None) as (folder, _):
        done = subprocess.run(
            [sys.executable, "-m", f"jobs.{job}", "--help"],
            cwd=folder,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout


@pytest.mark.unit
def test_a_folder_of_ones_own_holds_the_configuration(tmp_path: Path) -> None:
    inside, outside = tmp_path / "code" / "conf" / "a.yaml", tmp_path / "b.yaml"
    inside.parent.mkdir(parents=True)
    for file in (inside, outside):
        file.write_text("seed: 1\n")
    with working_directory(tmp_path / "code", inside) as found:
        assert found == (tmp_path / "code", "conf/a.yaml")
    for folder, config in ((tmp_path / "code", outside), (tmp_path / "nix", None), (None, tmp_path / "nix.yaml")):
        with pytest.raises(ConfigError, match=r"nix|b\.yaml"), working_directory(folder, config):
            pass


@pytest.mark.unit
def test_an_image_without_a_checkout_was_told_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.submitting.package.source_of", lambda package: tmp_path / package)
    monkeypatch.setenv("FLTS_GIT_COMMIT", "0123456789abcdef")
    assert installed_commit() == "0123456789ab"
    monkeypatch.delenv("FLTS_GIT_COMMIT")
    assert installed_commit() == ""


def test_the_commit_is_that_of_a_checkout_only(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=x", "-c", "user.email=x@x", *arguments],
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )

    assert commit_of(tmp_path) == ""
    git("init")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "a.py").write_text("")
    git("add", ".")
    git("commit", "-m", "x")
    assert len(commit_of(tmp_path)) == 12
    (tmp_path / "jobs" / "a.py").write_text("1")
    assert commit_of(tmp_path).endswith("-changed")
    assert commit_of(tmp_path / "jobs") == ""


@pytest.mark.ray  # no Ray is started, but importing it takes seconds
def test_what_a_plain_submission_of_the_checkout_uploads_is_small(tmp_path: Path) -> None:
    """By Ray's own packaging, with ``.gitignore`` and ``.rayignore``."""
    from ray._private.runtime_env.packaging import create_package

    package = tmp_path / "package.zip"
    create_package(str(REPOSITORY), package, include_gitignore=True, include_parent_dir=False, excludes=[])
    names = zipfile.ZipFile(package).namelist()
    assert package.stat().st_size < SMALL_BYTES
    assert {"flts_ray/cli.py", "jobs/pipeline.py"} <= set(names)
    assert [name for name in names if name.startswith(("tests/", "docs/", ".git/", ".venv/", "flts_home/"))] == []
