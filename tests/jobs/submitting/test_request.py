from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from typer import BadParameter

from flts_ray.config_layers import load_settings
from flts_ray.errors import ConfigError
from jobs.entry import Job
from jobs.submitting.request import JobRequest, left_behind, make_request

pytestmark = pytest.mark.unit

UsageError = BadParameter.__mro__[1]  # typer brings click along under a name of its own


def request(
    *extra: str,
    job: Job = Job.PIPELINE,
    config: Path | None = None,
    sets: tuple[str, ...] = (),
    name: str | None = "r1",
) -> JobRequest:
    return make_request(
        job, submission_id=name, config=config, config_name="c.yaml", assignments=sets, extra=extra, commit="abc"
    )


def test_the_job_is_told_what_the_submitter_was(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("training: {epochs: 3}\n")
    made = request("--train", "s3://b/a file.csv", config=config, sets=("seed=3",))
    assert shlex.split(made.entrypoint) == [
        *("exec", "python", "-m", "jobs.pipeline", "--config", "c.yaml", "--set", "seed=3"),
        *("--train", "s3://b/a file.csv"),
    ]


def test_the_hash_is_that_of_the_same_settings_here(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("scaling: {scaler: minmax}\n")
    made = request("--recipe", "classic", "--train", "a.csv", config=config, sets=("seed=3",))
    here = load_settings(file=config, assignments=["seed=3"], options={"recipe": "classic"}, environ={}).settings
    assert made.metadata["config_hash"] == here.config_hash()
    assert made.metadata["recipe"] == "classic"
    assert set(made.metadata) == {"job", "request", "version", "config_hash", "recipe", "commit"}


def test_the_job_names_the_build_of_the_code_that_travels_and_not_that_of_the_clusters_image() -> None:
    assert request().env_vars["FLTS_BUILD_ID"] == ""
    made = make_request(
        Job.PIPELINE, submission_id="r1", config=None, config_name="", assignments=(), extra=(), commit="", build="v7"
    )
    assert made.env_vars["FLTS_BUILD_ID"] == "v7"
    assert "FLTS_GIT_COMMIT" not in made.env_vars
    assert (made.digest, made.metadata["commit"]) == (request(name="r1").digest, "unknown")


def test_the_submitting_shell_sets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = request()
    monkeypatch.setenv("SCALER", "robust")
    monkeypatch.setenv("FLTS_SEED", "77")
    after = request()
    assert (after.metadata, after.env_vars) == (before.metadata, before.env_vars)
    assert left_behind(["SCALER", "FLTS_SEED", "PATH", "AWS_REGION", "FLTS_CONFIG"]) == [
        "AWS_REGION",
        "FLTS_SEED",
        "SCALER",
    ]


def test_what_the_job_would_refuse_is_refused_here() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'training\.epochs'"):
        request(sets=("training.epoch=3",))
    with pytest.raises(UsageError, match="--trian"):
        request("--trian", "a.csv")
    with pytest.raises(UsageError, match="dataset_id"):
        request(job=Job.EVALUATE)
    with pytest.raises(ConfigError, match="before `--`"):
        request("--set", "seed=3")
    with pytest.raises(ConfigError, match="submission-id 'a/b'"):
        request(name="a/b")


@pytest.mark.parametrize("text", ["postgresql://flts:hunter2@db/mlflow", "s3-key-0123456789"])
def test_no_secret_reaches_the_cluster(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3-key-0123456789")
    config = tmp_path / "mine.yaml"
    config.write_text(f"tracking: {{uri: '{text}'}}\n")
    for refused in (
        lambda: request(config=config),
        lambda: request(sets=(f"tracking.uri={text}",)),
        lambda: request("--train", text),
    ):
        with pytest.raises(ConfigError, match="holds a password") as caught:
            refused()
        assert "hunter2" not in str(caught.value)
        assert "s3-key" not in str(caught.value)


def test_requests_are_told_apart(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("seed: 3\n")
    digests = [request(config=config).digest, request().digest, request("--force").digest]
    config.write_text("seed: 4\n")
    digests.append(request(config=config).digest)
    assert len(set(digests)) == 4
    assert request().digest == request(name=None).digest
    assert request(name=None).submission_id != request(name=None).submission_id
