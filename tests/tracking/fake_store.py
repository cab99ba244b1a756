"""An MLflow store in memory, with MLflow's rules and with faults on demand."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from flts_ray.errors import TrackingError
from flts_ray.tracking.client import FoundRun, Gateway, MetricPoint

Fault = Callable[[str], str]
"""Given the method, says ``""`` (works), ``"down"`` (nothing happens) or ``"lost"`` (it happens, no answer comes)."""


class Refusal(Exception):
    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.error_code = code


def refusal(code: str) -> TrackingError:
    error = TrackingError(f"refused: {code}")
    error.__cause__ = Refusal(code)
    return error


@dataclass
class StoredRun:
    name: str
    start_ms: int
    tags: dict[str, str]
    status: str = "RUNNING"
    end_ms: int = 0
    params: dict[str, str] = field(default_factory=dict)
    metrics: set[tuple[str, int, int, str]] = field(default_factory=set)
    files: dict[str, bytes] = field(default_factory=dict)
    datasets: set[str] = field(default_factory=set)


@dataclass
class FakeStore:
    """Stands in for a Gateway."""

    store: str = "fake flts"
    fault: Fault = lambda method: ""
    runs: dict[str, StoredRun] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    made: int = 0

    @property
    def gateway(self) -> Gateway:
        return cast(Gateway, self)

    def page_of(self, experiment_id: str, run_id: str) -> str:
        return f"fake/{run_id}"

    def by_key(self, key: str) -> StoredRun:
        (run,) = (run for run in self.runs.values() if run.tags["flts.run_key"] == key)
        return run

    def statuses(self) -> dict[str, str]:
        return {run.tags["flts.run_key"]: run.status for run in self.runs.values()}

    def _do(self, method: str, effect: Callable[[], Any]) -> Any:
        self.calls.append(method)
        fault = self.fault(method)
        if fault == "down":
            raise TrackingError("the store is down")
        result = effect()
        if fault == "lost":
            raise TrackingError("no answer")
        return result

    def _run(self, run_id: str) -> StoredRun:
        if run_id not in self.runs:
            raise refusal("RESOURCE_DOES_NOT_EXIST")
        return self.runs[run_id]

    def experiment_id(self) -> str:
        return str(self._do("experiment_id", lambda: "1"))

    def find_runs(self, experiment_id: str, condition: str) -> list[FoundRun]:
        wanted = dict(re.findall(r"(?:tags\.|attributes\.)`?([\w.]+)`? = '([^']*)'", condition))

        def effect() -> list[FoundRun]:
            found = []
            for run_id, run in sorted(self.runs.items(), key=lambda item: (item[1].start_ms, item[0])):
                if all((run.status if name == "status" else run.tags.get(name)) == v for name, v in wanted.items()):
                    found.append(FoundRun(run_id, run.status, dict(run.tags), run.start_ms))
            return found

        return cast(list[FoundRun], self._do("find_runs", effect))

    def create_run(self, experiment_id: str, name: str, tags: Mapping[str, str], at_ms: int) -> str:
        def effect() -> str:
            self.made += 1
            run_id = f"id-{self.made}"
            self.runs[run_id] = StoredRun(name, at_ms, dict(tags))
            return run_id

        return str(self._do("create_run", effect))

    def reopen_run(self, run_id: str) -> None:
        self._do("reopen_run", lambda: setattr(self._run(run_id), "status", "RUNNING"))

    def delete_run(self, run_id: str) -> None:
        self._do("delete_run", lambda: self.runs.pop(run_id))

    def end_run(self, run_id: str, status: str, at_ms: int) -> None:
        def effect() -> None:
            run = self._run(run_id)
            run.status, run.end_ms = status, at_ms

        self._do("end_run", effect)

    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        def effect() -> None:
            known = self._run(run_id).params
            if any(known.get(name, value) != value for name, value in params.items()):
                raise refusal("INVALID_PARAMETER_VALUE")
            known.update(params)

        self._do("log_params", effect)

    def log_metrics(self, run_id: str, points: Iterable[MetricPoint]) -> None:
        def effect() -> None:
            run, batch = self._run(run_id), list(points)
            if any(name.startswith("bad") for name, *_ in batch):
                raise refusal("INVALID_PARAMETER_VALUE")
            run.metrics.update((name, step, at, repr(value)) for name, value, step, at in batch)

        self._do("log_metrics", effect)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        self._do("set_tags", lambda: self._run(run_id).tags.update(tags))

    def log_dataset(self, run_id: str, *, name: str, digest: str, source: str, context: str) -> None:
        self._do("log_dataset", lambda: self._run(run_id).datasets.add(digest))

    def log_file(self, run_id: str, file: Path, folder: str | None) -> None:
        path = f"{folder}/{file.name}" if folder else file.name
        self._do("log_file", lambda: self._run(run_id).files.update({path: file.read_bytes()}))
