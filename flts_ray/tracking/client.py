"""The one door to MLflow: every call of the program goes through :class:`Gateway`.

Writes take plain data (strings, numbers, explicit timestamps) and name their run by id, so that a write can be kept
and sent again later: MLflow stores a metric with the same key, step, timestamp and value once.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from flts_ray.config import TrackingSettings
from flts_ray.errors import ConfigError, TrackingError
from flts_ray.redaction import masked, redacted
from flts_ray.tracking.bounded import within

if TYPE_CHECKING:
    from mlflow import MlflowClient

SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")
PARAMS_PER_BATCH, METRICS_PER_BATCH = 100, 1000
PARAM_CHARS, TAG_CHARS, DIGEST_CHARS = 6000, 8000, 36
RUNNING = "RUNNING"
BUNDLE = "bundle"
"""Folder of a run's artifacts that holds its model bundle."""
OPEN_LIMIT_S, DATABASE_LIMIT_S, BYTES_PER_S = 120.0, 60.0, 250_000
REFUSALS = frozenset({"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"})

MetricPoint = tuple[str, float, int, int]
"""Key, value, step, timestamp in milliseconds since 1970."""


class FoundRun(NamedTuple):
    """A run as a search returns it."""

    run_id: str
    status: str
    tags: dict[str, str]
    start_ms: int = 0


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def tracking_uri(settings: TrackingSettings, home: Path) -> str:
    """The store to use: the configured one, or SQLite under ``home``.

    Raises:
        ConfigError: If the URI names a folder (MLflow no longer keeps runs in files) or an unknown scheme.
    """
    if not settings.uri:
        return f"sqlite:///{home.resolve() / 'mlflow.db'}"
    scheme = urlsplit(settings.uri).scheme.partition("+")[0]
    if scheme not in SCHEMES:
        raise ConfigError(
            f"tracking.uri '{settings.uri}' is not a tracking server or database: MLflow no longer keeps runs in "
            f"folders, so give an http(s):// or sqlite:/// address, or leave it empty for SQLite under run.home."
        )
    return settings.uri


def configure_process(timeout_s: float) -> None:
    """Bound MLflow's HTTP calls in this process, keep it off stdout, and stop it from reporting usage.

    By default a closed port blocks one call for four minutes. After this MLflow tries once, for ``timeout_s``: trying
    again is the caller's business. Has to run before MLflow is imported to quieten its import.
    """
    os.environ.update(
        MLFLOW_HTTP_REQUEST_TIMEOUT=str(max(1, math.ceil(timeout_s))),
        MLFLOW_HTTP_REQUEST_MAX_RETRIES="0",
        MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT="true",
        MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false",
        MLFLOW_DISABLE_TELEMETRY="true",
    )
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def error_code(error: BaseException) -> str:
    """MLflow's code of the failure behind ``error``, such as ``RESOURCE_DOES_NOT_EXIST``; empty if it has none."""
    return str(getattr(error.__cause__, "error_code", ""))


def is_refusal(error: BaseException) -> bool:
    """Whether MLflow understood the call and said no for good, so that trying again is useless.

    A database in trouble answers BAD_REQUEST, a proxy anything: those are no refusals.
    """
    return error_code(error) in REFUSALS


class Gateway:
    """Calls to one MLflow store, each bounded in time. Failures become :class:`TrackingError` with a sentence.

    Making one opens nothing: the first call does, which takes seconds for MLflow's import and for a new database. It
    applies :func:`configure_process`, since MLflow takes its time limits from the environment only.

    Args:
        settings: Which store and experiment, and how long a call may take.
        home: Folder of the embedded store and of artifacts that no server keeps.

    Raises:
        ConfigError: If the store's URI cannot be used.
    """

    def __init__(self, settings: TrackingSettings, home: Path) -> None:
        self.uri = tracking_uri(settings, home)
        self.settings = settings
        self.home = home.absolute()
        self._client: MlflowClient | None = None
        self._opening = threading.Lock()
        # A call is a request or two, each of which may wait for the connection and for the answer.
        self._limit_s = 4 * settings.timeout_s if self.uri.startswith("http") else DATABASE_LIMIT_S
        configure_process(settings.timeout_s)

    @property
    def store(self) -> str:
        """Name of the store and experiment, without passwords."""
        return f"{masked(self.uri)} {self.settings.experiment}"

    def call(self, doing: str, method: str, /, *args: Any, limit_s: float | None = None, **kwargs: Any) -> Any:
        """Call one method of MLflow's client.

        Args:
            doing: What is being done, for the error sentence ("Could not <doing>").
            method: Name of the ``MlflowClient`` method.
            *args: Its arguments.
            limit_s: Seconds it may take in all; the usual limit if None.
            **kwargs: Its keyword arguments.

        Raises:
            TrackingError: If the store refused the call or did not answer in time.
        """
        function = getattr(self._opened(), method)
        return self._guard(doing, limit_s or self._limit_s, function, *args, **kwargs)

    def _opened(self) -> MlflowClient:
        with self._opening:
            if self._client is None:
                self._client = self._guard("open the tracking store", OPEN_LIMIT_S, self._open)
            return self._client

    def _open(self) -> MlflowClient:
        from mlflow import MlflowClient

        with warnings.catch_warnings(), self._alone():
            # MLflow 3.17 on SQLAlchemy 2.1; nothing that a user of either could act on.
            warnings.filterwarnings("ignore", message=r"The ``noload`` loader strategy is deprecated")
            return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from making the tables of an embedded store at the same time: MLflow does not."""
        if self.settings.uri:
            yield
            return
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "mlflow.db.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # let go when the file is closed
            yield

    def _guard(self, doing: str, limit_s: float, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        try:
            return within(limit_s, function, *args, **kwargs)
        except Exception as exc:  # MLflow, its database and its artifact stores each raise errors of their own
            lines = redacted(str(exc)).splitlines()
            reason = next((line.strip() for line in lines if line.strip()), type(exc).__name__)
            advice = "Check that the store is up and that tracking.uri is right."
            if "Invalid Host header" in reason:
                host = urlsplit(self.uri).netloc.rpartition("@")[2]
                advice = f"The server does not know itself by that name: start it with --allowed-hosts '{host}'."
            raise TrackingError(
                f"Could not {doing} in the tracking store {masked(self.uri)}: {reason.rstrip('.')[:500]}. {advice}"
            ) from exc

    # Experiments and runs -----------------------------------------------------------------------------------------

    def experiment_id(self) -> str:
        """The experiment's id; it is created when absent, with its artifacts under home unless a server keeps them."""
        name = self.settings.experiment
        found = self.call(f"look up experiment '{name}'", "get_experiment_by_name", name)
        if found is None:
            remote = self.uri.startswith(("http://", "https://"))
            location = None if remote else (self.home / "mlartifacts").resolve().as_uri()
            try:
                created = self.call(
                    f"create experiment '{name}'", "create_experiment", name, artifact_location=location
                )
                return str(created)
            except TrackingError as exc:
                if error_code(exc) != "RESOURCE_ALREADY_EXISTS":
                    raise
                # Another driver created it between the two calls.
                found = self.call(f"look up experiment '{name}'", "get_experiment_by_name", name)
        if found.lifecycle_stage != "active":
            raise TrackingError(
                f"The experiment '{name}' in {masked(self.uri)} is deleted: restore it with `mlflow experiments "
                f"restore -x {found.experiment_id}`, or set tracking.experiment to another name."
            )
        return str(found.experiment_id)

    def page_of(self, experiment_id: str, run_id: str) -> str:
        """Address of a run's page; that of the store where this is a database without pages."""
        pages = self.uri.startswith(("http://", "https://"))
        return masked(f"{self.uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}" if pages else self.uri)

    def find_runs(self, experiment_id: str, condition: str) -> list[FoundRun]:
        """The runs that meet an MLflow filter, oldest first (a thousand at most)."""
        runs = self.call(
            "search for runs", "search_runs", [experiment_id], filter_string=condition, max_results=1000,
            order_by=["attributes.start_time ASC"],
        )  # fmt: skip
        return [
            FoundRun(run.info.run_id, run.info.status, dict(run.data.tags), int(run.info.start_time or 0))
            for run in runs
        ]

    def create_run(self, experiment_id: str, name: str, tags: Mapping[str, str], at_ms: int) -> str:
        """Start a run and return its id."""
        run = self.call(
            f"create run '{name}'", "create_run", experiment_id, start_time=at_ms, tags=dict(tags), run_name=name
        )
        return str(run.info.run_id)

    def reopen_run(self, run_id: str) -> None:
        """Mark an ended run as running again."""
        self.call(f"reopen run {run_id}", "update_run", run_id, status=RUNNING)

    def delete_run(self, run_id: str) -> None:
        """Remove a run that holds nothing, ended first."""
        self.end_run(run_id, "KILLED", now_ms())
        self.call(f"delete run {run_id}", "delete_run", run_id)

    def end_run(self, run_id: str, status: str, at_ms: int) -> None:
        """End a run: ``FINISHED``, ``FAILED`` or ``KILLED``."""
        self.call(f"end run {run_id} as {status}", "set_terminated", run_id, status=status, end_time=at_ms)

    # Records ------------------------------------------------------------------------------------------------------

    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """Store parameters; the same value twice is fine, another value is refused by MLflow."""
        from mlflow.entities import Param

        entities = [Param(key, value[:PARAM_CHARS]) for key, value in params.items()]
        # Never with metrics: a refused parameter would take the whole batch with it.
        for batch in _batches(entities, PARAMS_PER_BATCH):
            self.call(f"log parameters of run {run_id}", "log_batch", run_id, params=batch)

    def log_metrics(self, run_id: str, points: Iterable[MetricPoint]) -> None:
        """Store metric points; the same points again leave one copy."""
        from mlflow.entities import Metric

        # Infinity would be stored as the largest float, which reads like a measurement.
        entities = [
            Metric(key, value if math.isfinite(value) else math.nan, at, step) for key, value, step, at in points
        ]
        for batch in _batches(entities, METRICS_PER_BATCH):
            self.call(f"log metrics of run {run_id}", "log_batch", run_id, metrics=batch)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags, replacing older values."""
        from mlflow.entities import RunTag

        entities = [RunTag(key, value[:TAG_CHARS]) for key, value in tags.items()]
        for batch in _batches(entities, PARAMS_PER_BATCH):
            self.call(f"set tags of run {run_id}", "log_batch", run_id, tags=batch)

    def log_dataset(self, run_id: str, *, name: str, digest: str, source: str, context: str) -> None:
        """Name the dataset that a run used; the same one again leaves one copy."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        # MLflow keeps 36 characters of a digest; the full id is in the source and in the run's tags.
        dataset = Dataset(name=name[:500], digest=digest[:DIGEST_CHARS], source_type="flts", source=source)
        entry = DatasetInput(dataset, [InputTag("mlflow.data.context", context)])
        self.call(f"log the dataset of run {run_id}", "log_inputs", run_id, [entry])

    def log_file(self, run_id: str, file: Path, folder: str | None) -> None:
        """Store one file as an artifact under ``folder``."""
        limit_s = 4 * self._limit_s + file.stat().st_size / BYTES_PER_S
        self.call(f"store {file.name} of run {run_id}", "log_artifact", run_id, str(file), folder, limit_s=limit_s)

    def fetch(self, doing: str, run_id: str, path: str, destination: str) -> None:
        """Copy a run's artifacts under ``path`` to an existing folder."""
        self.call(doing, "download_artifacts", run_id, path, destination, limit_s=self.settings.flush_timeout_s)

    def artifacts(self, run_id: str, folder: str | None = None) -> tuple[str, ...]:
        """Paths of the artifacts right under ``folder``."""
        listed = self.call(f"list the artifacts of run {run_id}", "list_artifacts", run_id, folder)
        return tuple(item.path for item in listed)


def _batches(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
