"""What each recorded operation does to MLflow. Doing it twice has the effect of doing it once."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from flts_ray.errors import IntegrityError, TrackingError
from flts_ray.telemetry.logging import event
from flts_ray.tracking.client import RUNNING, FoundRun, Gateway, MetricPoint, is_refusal
from flts_ray.tracking.journal import Op

RUN_KEY = "flts.run_key"
ATTEMPT = "flts.attempt"
START = "flts.start"
"""Tag of a run: token of the start that it carries on. A run without it was made by a call whose answer was lost."""
PARENT = "mlflow.parentRunId"
HOST, HOME = "flts.host", "flts.home"


class UnknownRunError(IntegrityError):
    """The store knows nothing of a run that was delivered to it."""


class Delivery:
    """Applies operations to a store.

    Args:
        gateway: The store.
    """

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self._experiment: str | None = None
        self._ids: dict[str, str] = {}
        self._actions: dict[str, Callable[[Op, Path], None]] = {
            "start": self._start,
            "params": self._params,
            "metrics": lambda op, folder: self._metrics([op]),
            "tags": lambda op, folder: self.gateway.set_tags(self.run_id(op.run), op.body["tags"]),
            "dataset": self._dataset,
            "file": self._file,
            "folder": self._folder,
            "end": self._end,
        }

    def known(self, run_key: str) -> str | None:
        """MLflow's id of a run, if it is known without asking."""
        return self._ids.get(run_key)

    def run_id(self, run_key: str) -> str:
        """MLflow's id of a run.

        Raises:
            UnknownRunError: If the store has none.
            TrackingError: If the store did not answer.
        """
        if run_key not in self._ids:
            found = self._find(run_key)
            if not found:
                raise UnknownRunError(f"the tracking store has no run '{run_key}'")
            self._ids[run_key] = _main(found).run_id
        return self._ids[run_key]

    def deliver(self, ops: Sequence[Op], folder: Path) -> None:
        """Apply one operation, or several of kind ``metrics`` with one call a run.

        Args:
            ops: What to apply.
            folder: The run's own, where the files lie.

        Raises:
            IntegrityError: If the operation or its files are not what was recorded.
            TrackingError: If the store refused or did not answer.
        """
        try:
            if len(ops) > 1:
                self._metrics(ops)
            else:
                self._actions[ops[0].kind](ops[0], folder)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise IntegrityError(f"the operation is incomplete ({type(error).__name__}: {error})") from error

    def forget(self) -> None:
        """Look everything up anew: the store may be another one behind the same address."""
        self._experiment = None
        self._ids.clear()

    @property
    def _experiment_id(self) -> str:
        if self._experiment is None:
            self._experiment = self.gateway.experiment_id()
        return self._experiment

    def _find(self, run_key: str) -> list[FoundRun]:
        return self.gateway.find_runs(self._experiment_id, f"tags.`{RUN_KEY}` = '{run_key}'")

    def _start(self, op: Op, folder: Path) -> None:
        token = str(op.body["id"])
        parent = op.body.get("parent")
        tags = {**op.body["tags"], RUN_KEY: op.run, **({PARENT: self.run_id(parent)} if parent else {})}
        found = self._find(op.run)
        if found:
            run = _main(found)
        else:
            run = FoundRun(self.gateway.create_run(self._experiment_id, op.body["name"], tags, op.at_ms), RUNNING, {})
        if run.tags.get(START) != token:
            before = run.tags.get(ATTEMPT, "0")
            attempt = int(before) + 1 if before.isdigit() else 1
            if found:
                self.gateway.reopen_run(run.run_id)
            self.gateway.set_tags(run.run_id, {**tags, START: token, ATTEMPT: str(attempt)})
        self._ids[op.run] = run.run_id
        if not parent:
            event("tracked", run=op.run, mlflow_url=self.gateway.page_of(self._experiment_id, run.run_id))

    def _end(self, op: Op, folder: Path) -> None:
        found = self._find(op.run)
        if not found:
            raise UnknownRunError(f"the tracking store has no run '{op.run}'")
        run = _main(found)
        for twin in found:  # made by a call that was taken for lost
            if twin.run_id != run.run_id and START not in twin.tags:
                self.gateway.delete_run(twin.run_id)
        if run.tags.get(START) != op.body["start"]:
            return  # a later attempt, recorded elsewhere, carries the run on
        status = op.body["status"]
        for child in self.gateway.find_runs(
            self._experiment_id, f"tags.`{PARENT}` = '{run.run_id}' AND attributes.status = '{RUNNING}'"
        ):
            self.gateway.end_run(child.run_id, "KILLED" if status == "FINISHED" else status, op.at_ms)
        self.gateway.end_run(run.run_id, status, op.at_ms)

    def _metrics(self, ops: Sequence[Op]) -> None:
        points: dict[str, list[MetricPoint]] = {}
        for op in ops:
            for name, value in op.body["values"].items():
                number = math.nan if value is None else float(value)
                point = (str(name), number, int(op.body["step"]), int(op.body["measured_ms"]))
                points.setdefault(op.run, []).append(point)
        for run, values in points.items():
            self.gateway.log_metrics(self.run_id(run), values)

    def _params(self, op: Op, folder: Path) -> None:
        run_id, params = self.run_id(op.run), op.body["params"]
        try:
            self.gateway.log_params(run_id, params)
        except TrackingError as error:
            if not is_refusal(error):
                raise
            # MLflow refuses a batch whole: one changed value must not cost the others.
            reasons = [reason for name in params if (reason := self._param(run_id, name, params[name]))]
            raise IntegrityError("; ".join(reasons) or str(error)) from error

    def _param(self, run_id: str, name: str, value: str) -> str:
        try:
            self.gateway.log_params(run_id, {name: value})
        except TrackingError as error:
            if not is_refusal(error):
                raise
            return str(error)
        return ""

    def _dataset(self, op: Op, folder: Path) -> None:
        entry = {key: op.body[key] for key in ("name", "digest", "source", "context")}
        self.gateway.log_dataset(self.run_id(op.run), **entry)

    def _file(self, op: Op, folder: Path) -> None:
        file = _verified(folder, op.body["file"], op.body["sha256"])
        self.gateway.log_file(self.run_id(op.run), file, op.body["to"] or None)

    def _folder(self, op: Op, folder: Path) -> None:
        files = {name: _verified(folder, f"{op.body['folder']}/{name}", sha) for name, sha in op.body["files"].items()}
        for name, file in files.items():
            parents = name.rpartition("/")[0]
            to = "/".join(filter(None, (op.body["to"], parents)))
            self.gateway.log_file(self.run_id(op.run), file, to or None)


def _main(found: Sequence[FoundRun]) -> FoundRun:
    """Of several runs with one key, the one that was started; the others come from answers that were lost."""
    return next((run for run in found if START in run.tags), found[0])


def _verified(folder: Path, name: str, sha256: str) -> Path:
    file = (folder / name).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise IntegrityError(f"the file '{name}' lies outside the run's folder")
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise IntegrityError(f"the file {file} cannot be read ({error})") from error
    if digest != sha256:
        raise IntegrityError(f"the file {file} is not what was recorded (its SHA-256 differs)")
    return file
