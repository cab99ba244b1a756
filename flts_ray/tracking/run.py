"""MLflow runs that the driver owns: one parent a job, one child a candidate, none left running, none doubled."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from flts_ray.config import TrackingSettings
from flts_ray.errors import TrackingError
from flts_ray.tracking.client import RUNNING, Gateway, now_ms

RUN_KEY = "flts.run_key"
ATTEMPT = "flts.attempt"
PARENT = "mlflow.parentRunId"
BUNDLE = "bundle"
_KEY = re.compile(r"[\w.:/@+-]{1,250}", re.ASCII)


class TrackedRun:
    """One MLflow run, addressed by its id. Made by :meth:`Tracker.run` and :meth:`TrackedRun.child`.

    Attributes:
        run_id: MLflow's id.
        run_key: What makes a retry find this run again.
        attempt: 1 for the first, one more for every retry that continued the run.
    """

    def __init__(self, gateway: Gateway, experiment_id: str, run_id: str, run_key: str, *, attempt: int) -> None:
        self.gateway = gateway
        self.experiment_id = experiment_id
        self.run_id = run_id
        self.run_key = run_key
        self.attempt = attempt

    @contextmanager
    def child(self, candidate: str, *, tags: Mapping[str, str] | None = None) -> Iterator[TrackedRun]:
        """A candidate's run under this one; same rules as :meth:`Tracker.run`.

        Args:
            candidate: Name of the candidate; with the parent's key it makes the child's.
            tags: More tags.
        """
        with _owned(
            self.gateway, self.experiment_id, f"{self.run_key}/{candidate}", candidate,
            {**(tags or {}), PARENT: self.run_id},
        ) as run:  # fmt: skip
            yield run

    def running_children(self) -> list[str]:
        """Ids of the runs under this one that have not ended."""
        condition = f"tags.`{PARENT}` = '{self.run_id}' AND attributes.status = '{RUNNING}'"
        return [run.run_id for run in self.gateway.find_runs(self.experiment_id, condition)]

    def log_params(self, settings: Mapping[str, Any]) -> None:
        """Store settings as parameters; nested mappings become dotted names."""
        self.gateway.log_params(self.run_id, flatten(settings))

    def log_metrics(self, values: Mapping[str, float], *, step: int = 0, at_ms: int | None = None) -> None:
        """Store metrics of one step.

        Args:
            values: Names, unit included (``val_rmse_bits``), and values. What is not finite is stored as NaN.
            step: Epoch or other counter.
            at_ms: When they were measured, in milliseconds since 1970; now if None. The same values with the same time
                are stored once, however often they are sent.
        """
        at = now_ms() if at_ms is None else at_ms
        self.gateway.log_metrics(self.run_id, [(key, float(value), step, at) for key, value in values.items()])

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, replacing older values."""
        self.gateway.set_tags(self.run_id, tags)

    def log_dataset(self, *, name: str, digest: str, source: str, context: str = "training") -> None:
        """Name the dataset that the run used, by its digest (the first 36 characters are kept)."""
        self.gateway.log_dataset(self.run_id, name=name, digest=digest, source=source, context=context)

    def log_bundle(self, folder: Path) -> None:
        """Store a model bundle's files under ``bundle/``, where the registry looks for them."""
        if not folder.is_dir():
            raise TrackingError(f"The model bundle {folder} is not a folder: write it before logging it.")
        self.gateway.log_folder(self.run_id, folder, BUNDLE)

    def log_bytes(self, path: str, data: bytes) -> None:
        """Store one artifact, such as a plot, at a relative ``path``; an older one is replaced."""
        target = PurePosixPath(path)
        if target.is_absolute() or ".." in target.parts or not target.name:
            raise TrackingError(f"The artifact path '{path}' is not a relative path inside the run: correct it.")
        folder = None if target.parent == PurePosixPath() else str(target.parent)
        with tempfile.TemporaryDirectory(prefix="flts-artifact-") as scratch:
            file = Path(scratch) / target.name
            file.write_bytes(data)
            self.gateway.log_file(self.run_id, file, folder)

    def log_text(self, path: str, text: str) -> None:
        """Store one text artifact, such as the HTML report, as UTF-8."""
        self.log_bytes(path, text.encode())

    def log_json(self, path: str, value: Any) -> None:
        """Store one JSON artifact, such as the leaderboard; a NaN in it is an error, since JSON has none."""
        self.log_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


class Tracker:
    """The runs of one experiment.

    Args:
        settings: Store, experiment, time limit.
        home: Folder of the embedded store (``mlflow.db``) and its artifacts (``mlartifacts``).

    Raises:
        ConfigError: If the store's URI cannot be used.
        TrackingError: If the store refused or did not answer.
    """

    def __init__(self, settings: TrackingSettings, home: Path) -> None:
        self.gateway = Gateway(settings, home)
        self.experiment_id = self.gateway.experiment_id(settings.experiment)

    @property
    def uri(self) -> str:
        """The store's address."""
        return self.gateway.uri

    @contextmanager
    def run(self, run_key: str, *, name: str = "", tags: Mapping[str, str] | None = None) -> Iterator[TrackedRun]:
        """The run of ``run_key``: continued if an earlier attempt made it, created otherwise, ended in any case.

        It ends ``FINISHED``, ``KILLED`` after KeyboardInterrupt or SystemExit, ``FAILED`` after any other exception.
        Children that still run by then end too: with the same status, or ``KILLED`` if this run finished, since nobody
        is left to end them. Search and creation are two calls, so only one process at a time may use a key.

        Args:
            run_key: What identifies this job over retries, such as the submission id.
            name: Shown in MLflow; the key if empty.
            tags: More tags.

        Raises:
            TrackingError: If the store refused or did not answer. An exception from inside the block is never replaced
                by it; it carries the tracking failure as a note.
        """
        with _owned(self.gateway, self.experiment_id, run_key, name or run_key, tags or {}) as run:
            yield run


@contextmanager
def _owned(
    gateway: Gateway, experiment_id: str, run_key: str, name: str, tags: Mapping[str, str]
) -> Iterator[TrackedRun]:
    run = _find_or_create(gateway, experiment_id, run_key, name, tags)
    try:
        if run.attempt > 1:
            gateway.reopen_run(run.run_id)
            run.set_tags({**tags, ATTEMPT: str(run.attempt)})
        yield run
    except BaseException as exc:
        killed = isinstance(exc, (KeyboardInterrupt, SystemExit, GeneratorExit))
        try:
            _close(run, "KILLED" if killed else "FAILED")
        except TrackingError as failure:
            exc.add_note(str(failure))
        raise
    _close(run, "FINISHED")


def _find_or_create(
    gateway: Gateway, experiment_id: str, run_key: str, name: str, tags: Mapping[str, str]
) -> TrackedRun:
    if not _KEY.fullmatch(run_key):
        raise TrackingError(
            f"The run key {run_key!r} cannot be searched for: use up to 250 letters, digits and the signs _.:/@+-."
        )
    found = gateway.find_runs(experiment_id, f"tags.`{RUN_KEY}` = '{run_key}'")
    if found:
        before = found[0].tags.get(ATTEMPT, "1")
        attempt = int(before) + 1 if before.isdigit() else 2
        return TrackedRun(gateway, experiment_id, found[0].run_id, run_key, attempt=attempt)
    run_id = gateway.create_run(experiment_id, name, {**tags, RUN_KEY: run_key, ATTEMPT: "1"}, now_ms())
    return TrackedRun(gateway, experiment_id, run_id, run_key, attempt=1)


def _close(run: TrackedRun, status: str) -> None:
    """End the run's children that still run, then the run itself, whether or not the children could be ended."""
    try:
        for child in run.running_children():
            run.gateway.end_run(child, "KILLED" if status == "FINISHED" else status, now_ms())
    finally:
        run.gateway.end_run(run.run_id, status, now_ms())


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names and text: None is empty, a sequence is comma-separated, a flag is lower-case."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = _text(value)
    return flat


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ",".join(_text(item) for item in value)
    return str(value)
