"""What is asked of a cluster: the command of a job, what the dashboard shows of it, and that neither tells a secret."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.main import get_command

from flts_ray import __version__
from flts_ray.build import BUILD_ID, GIT_COMMIT
from flts_ray.cli import app
from flts_ray.cli_options import run_options
from flts_ray.config import canonical_digest
from flts_ray.config_layers import Resolved, load_settings
from flts_ray.env_names import FLTS_NAMES, LEGACY_NAMES, PREFIX
from flts_ray.errors import ConfigError
from flts_ray.redaction import redacted
from flts_ray.telemetry.tracing import TRACEPARENT
from jobs.entry import Job

STOP_WAIT_S = 60
"""Seconds that a stopped job has to close its run before Ray kills it; Ray's own default is 3."""

CREDENTIALS = frozenset({"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"})


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """One job as a cluster is asked to run it.

    Attributes:
        job: Which.
        submission_id: Its name on the cluster, and that of its run.
        arguments: Of its command, as on the cluster.
        digest: SHA-256 of job, arguments and configuration: the same request has the same.
        facts: More of what the dashboard shows.
        commit: Git commit of the code that travels, or empty.
        build: Build that the code that travels is from, or empty.
        trace: The trace that the job belongs to, as a W3C traceparent, or empty.
    """

    job: Job
    submission_id: str
    arguments: tuple[str, ...]
    digest: str
    facts: Mapping[str, str]
    commit: str
    build: str = ""
    trace: str = ""

    @property
    def entrypoint(self) -> str:
        """The shell command; ``exec``, so that signals and exit codes are those of Python."""
        return "exec " + shlex.join(["python", "-m", f"jobs.{self.job}", *self.arguments])

    @property
    def metadata(self) -> dict[str, str]:
        """What the cluster keeps beside the job."""
        return {"job": self.job.value, "request": self.digest, "version": __version__, **self.facts}

    @property
    def env_vars(self) -> dict[str, str]:
        """What is set for the job: whose code it is, and of the environment that it is sent from only the trace.

        The build is set even if it is empty: that of the cluster's image is not the build of this code.
        """
        commit = {GIT_COMMIT: self.commit} if self.commit else {}
        trace = {TRACEPARENT: self.trace} if self.trace else {}
        return {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), BUILD_ID: self.build, **commit, **trace}


def make_request(
    job: Job,
    *,
    submission_id: str | None,
    config: Path | None,
    config_name: str,
    assignments: Sequence[str],
    extra: Sequence[str],
    commit: str,
    build: str = "",
) -> JobRequest:
    """Read the arguments as the job will, so that what it would refuse is refused before anything is sent.

    Args:
        job: Which.
        submission_id: Its name; None: a new one.
        config: The configuration file here.
        config_name: Where it lies in the job's working directory.
        assignments: Texts of ``--set``.
        extra: The job's other arguments.
        commit: Git commit of the code.
        build: Build that the code is from.

    Raises:
        ConfigError: If a setting is wrong, or something holds a secret.
    """
    resolved = _resolve(job, config, assignments, extra)
    if submission_id is not None and not re.fullmatch(r"[\w.-]{1,200}", submission_id, re.ASCII):
        raise ConfigError(f"--submission-id '{submission_id}' names a folder: letters, digits, '.', '_' and '-' only")
    for text in (*assignments, *extra, submission_id or ""):
        refuse_secret(f"the argument {redacted(text)}", text)
    content = b"" if config is None else config.read_bytes()
    refuse_secret(f"the configuration file {config}", content.decode("utf-8"))
    options = [] if config is None else ["--config", config_name]
    arguments = (*options, *(part for text in assignments for part in ("--set", text)), *extra)
    return JobRequest(
        job=job,
        submission_id=submission_id or f"flts-{job}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}",
        arguments=arguments,
        digest=canonical_digest([job, arguments, hashlib.sha256(content).hexdigest()]),
        facts={
            "config_hash": resolved.settings.config_hash(),
            "recipe": resolved.settings.recipe,
            "commit": commit or "unknown",
        },
        commit=commit,
        build=build,
        trace=os.environ.get(TRACEPARENT, ""),
    )


def _resolve(job: Job, config: Path | None, assignments: Sequence[str], extra: Sequence[str]) -> Resolved:
    """The settings of a job as far as they are known here: the cluster's environment may set others."""
    group: Any = get_command(app)  # a group of commands, which its type does not say
    given = group.commands[job.command].make_context(f"jobs.{job}", list(extra)).params
    if given.get("config") or given.get("assignments"):
        raise ConfigError("--config and --set stand before `--`: flts submit sends the file along")
    options = run_options(
        train=given.get("train"),
        test=given.get("test"),
        recipe=given.get("recipe"),
        home=given.get("home"),
        force=bool(given.get("force")),
    )
    return load_settings(file=config, assignments=assignments, options=options, environ={})


def refuse_secret(where: str, text: str) -> None:
    """Keep passwords out of what everyone who sees the cluster's dashboard can read.

    Raises:
        ConfigError: If there is an address with a password in ``text``, or the value of a secret variable.
    """
    if redacted(text) != text:
        raise ConfigError(
            f"{where} holds a password, which the dashboard would show to everyone: set it in the environment of the "
            "cluster's nodes instead"
        )


def left_behind(environ: Iterable[str]) -> list[str]:
    """Names of the variables that configure ``flts`` here and do not travel with a job."""
    return sorted(
        name
        for name in environ
        if name in LEGACY_NAMES
        or name in CREDENTIALS
        or name.startswith("MLFLOW_")
        or (name.startswith(PREFIX) and name not in FLTS_NAMES)
    )
