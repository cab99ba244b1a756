"""Is the MLflow store there, of our version, and does it take runs and files?"""

from __future__ import annotations

import secrets
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flts_ray.config import Settings, TrackingSettings
from flts_ray.doctor.clock import Greeting, greet, report_skew
from flts_ray.doctor.findings import Check, Report
from flts_ray.errors import InfrastructureError
from flts_ray.redaction import masked
from flts_ray.tracking.client import Gateway, tracking_uri
from flts_ray.tracking.probe import client_version, probe_artifacts

PATIENCE_S = 3.0
OPEN_LIMIT_S = 20.0  # MLflow's import takes seconds on a busy machine


def tracking_checks(settings: Settings) -> list[Check]:
    """What to look at, in order."""
    home = Path(settings.run.home).absolute()
    uri = tracking_uri(settings.tracking, home)
    gateway = Gateway(hasty(settings.tracking), home)
    experiment = _Experiment(gateway, settings.tracking.experiment)
    name = settings.tracking.experiment
    later = [
        Check(name="tracker: experiment", place=name, run=experiment.active, limit_s=OPEN_LIMIT_S, gate=True),
        Check(name="tracker: artifacts", place=name, run=experiment.takes_files, limit_s=OPEN_LIMIT_S),
    ]
    if uri.startswith("http"):
        server = _Server(uri)
        return [
            Check(name="tracker: server", place=uri, run=server.reachable, gate=True),
            Check(name="tracker: clock", place=uri, run=server.clock),
            Check(name="tracker: version", place=uri, run=server.version),
            *later,
        ]
    if uri.startswith("sqlite"):
        file = Path(uri.partition(":///")[2])
        return [Check(name="tracker: database", place=str(file), run=_Database(file), gate=True), *later]
    return later


def hasty(settings: TrackingSettings) -> TrackingSettings:
    """The same store, with less patience."""
    return settings.model_copy(update={"timeout_s": min(settings.timeout_s, PATIENCE_S)})


class _Server:
    """``mlflow server`` as anyone sees it."""

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        self._base = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
        self._greeting: Greeting | None = None

    def reachable(self, report: Report) -> None:
        try:
            self._greeting = greet(f"{self._base}/version", timeout_s=PATIENCE_S)
        except InfrastructureError as error:
            report.trouble(str(error), "start it, or correct tracking.uri")
            return
        status, body = self._greeting.status, self._greeting.body
        if status == 403 and "Host" in body:
            host = urlsplit(self._base).netloc
            report.trouble(f"does not know itself as {host}", f"start it with --allowed-hosts '{host}'")
        elif status >= 500:
            report.trouble(f"answers {status}", "see the server's log")
        else:
            report.ok("answers")

    def clock(self, report: Report) -> None:
        assert self._greeting is not None
        report_skew(report, self._greeting)

    def version(self, report: Report) -> None:
        assert self._greeting is not None
        there, here = self._greeting.body.strip(), client_version()
        if self._greeting.status != 200 or not there[:1].isdigit():
            report.skipped(f"the server does not tell its version (status {self._greeting.status})")
        elif there.split(".")[0] != here.split(".")[0]:
            report.trouble(f"MLflow {there} there, {here} here", "use the same major version on both sides")
        elif there.split(".")[:2] != here.split(".")[:2]:
            report.warning(f"MLflow {there} there, {here} here", "use the same version on both sides")
        else:
            report.ok(f"MLflow {there} there, {here} here")


class _Experiment:
    """The experiment that runs go into, and the place of its files."""

    def __init__(self, gateway: Gateway, name: str) -> None:
        self._gateway = gateway
        self._name = name
        self._found: Any = None

    def active(self, report: Report) -> None:
        doing = f"look up experiment '{self._name}'"
        self._found = self._gateway.call(doing, "get_experiment_by_name", self._name)
        if self._found is None:
            report.ok("not there yet: the first run makes it")  # files can be tried all the same
        elif self._found.lifecycle_stage != "active":
            number = self._found.experiment_id
            report.trouble("it was deleted", f"mlflow experiments restore -x {number}, or set tracking.experiment")
        else:
            report.ok("active")

    def takes_files(self, report: Report) -> None:
        remote = self._gateway.uri.startswith("http")
        if self._found is not None:
            location = str(self._found.artifact_location)
        elif remote:
            location = "mlflow-artifacts:/"
        else:
            report.ok("they lie in run.home")
            return
        scheme = urlsplit(location).scheme
        if remote and scheme in ("", "file"):
            report.trouble(
                f"the server tells clients to write to {location} on their own disks",
                "start it with --serve-artifacts, and use a new experiment: this one keeps its place",
            )
            return
        folder = f"{location.rstrip('/')}/.flts-doctor-{secrets.token_hex(8)}"
        probe_artifacts(self._gateway.uri, folder, limit_s=OPEN_LIMIT_S - 2)
        if remote and scheme != "mlflow-artifacts":
            report.warning(
                f"clients write to {masked(location)} themselves, with credentials of their own",
                "start the server with --serve-artifacts and --artifacts-destination",
            )
        else:
            report.ok("a file was stored, read back and removed")


@dataclass(frozen=True, slots=True)
class _Database:
    """An SQLite file."""

    file: Path

    def __call__(self, report: Report) -> None:
        if not self.file.exists():
            report.not_yet()
            return
        try:
            with closing(sqlite3.connect(f"{self.file.as_uri()}?mode=ro", uri=True, timeout=3)) as database:
                answers = [str(row[0]) for row in database.execute("PRAGMA quick_check(3)")]
        except sqlite3.Error as error:
            answers = [str(error)]
        if answers == ["ok"]:
            report.ok("sound")
        else:
            report.trouble("; ".join(answers), "restore it from a copy; `sqlite3 FILE .recover` saves what is legible")
