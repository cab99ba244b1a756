"""One replica of the service: the champion it holds, the lanes that compute, the log of what it answered."""

from __future__ import annotations

import asyncio
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import serve

from flts_ray.build import build_id, code_version
from flts_ray.config import Settings
from flts_ray.data.storage import open_store
from flts_ray.drift.monitor import DriftMonitor
from flts_ray.errors import ConfigError, FltsError
from flts_ray.inference.prediction_log import PredictionLog
from flts_ray.inference.queries import Forecast, Query
from flts_ray.telemetry import logging as log
from serve.address import reuse_address, wait_until_free
from serve.admission import Admission
from serve.api import create_app
from serve.compute import Lanes
from serve.draining import on_draining
from serve.environment import has_own_port
from serve.instruments import RayInstruments
from serve.joining import Joining
from serve.lifecycle import ChampionWatcher
from serve.pages import router
from serve.service import LoadedModel
from serve.tracing import request_traces

DRIFT_REFRESH_S = 15.0
SWITCH_INTERVAL_S = 0.002
"""How long a computing thread may keep the event loop waiting for the interpreter; Python's own 5 ms add up."""
MAX_LONG_QUERIES = 16
"""Recursive forecasts that may wait or run in one replica; each can take as long as many direct ones."""


def read_token() -> str:
    """The bearer token, from the environment or from the file that it names; empty if there is none.

    Raises:
        ConfigError: If that file cannot be read or is empty.
    """
    path = os.environ.get("FLTS_SERVE_TOKEN_FILE", "")
    if not path:
        return os.environ.get("FLTS_SERVE_TOKEN", "")
    try:
        token = Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"FLTS_SERVE_TOKEN_FILE cannot be read ({error}): mount the secret there") from error
    if not token:
        raise ConfigError(f"FLTS_SERVE_TOKEN_FILE={path} is empty: write the token into it")
    return token


def _with_drift(outcome: Forecast | FltsError, monitor: DriftMonitor) -> Forecast | FltsError:
    if isinstance(outcome, Forecast) and (drifting := monitor.notices(outcome.series)):
        return replace(outcome, notices=(*outcome.notices, *drifting))
    return outcome


def _write_log(text: str) -> None:
    """To the process's own stderr: the one that Ray Serve puts in its place looks for the caller of every line."""
    stream = sys.__stderr__ or sys.stderr
    stream.write(text)
    stream.flush()


class Replica:
    """What Ray Serve runs, one a process. Implements ``serve.service.Service``.

    Args:
        settings: The whole configuration, as JSON.
        identifier: What is served, such as a station.
    """

    def __init__(self, settings: dict[str, Any], identifier: str) -> None:
        log.configure(stream=sys.__stderr__)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self.settings = Settings.model_validate(settings)
        self.draining = False
        self.joining = Joining()
        on_draining(self._drain)
        wanted = self.settings.serve
        if has_own_port(wanted):
            reuse_address()
            wait_until_free(wanted.address, wanted.port, limit_s=wanted.drain_s + wanted.shutdown_s)
        context = serve.get_replica_context()
        self.replica = context.replica_id.unique_id
        log.event("replica_started", replica=self.replica, code_version=code_version(), build=build_id())
        self.instruments = RayInstruments(self.replica)
        self.models = ChampionWatcher(
            self.settings, identifier=identifier, replica=self.replica, instruments=self.instruments
        )
        self.admission = Admission(self.settings.serve.max_ongoing_requests)
        self._traces = request_traces(self.settings.telemetry)
        self._lanes = Lanes(
            self.instruments,
            self.admission,
            max_batch_size=self.settings.serve.max_batch_size,
            max_long=MAX_LONG_QUERIES,
        )
        self._log = (
            PredictionLog(
                open_store(self.settings),
                self.settings.predictions,
                identifier=identifier,
                replica=self.replica,
                on_lost=self.instruments.predictions_lost,
            )
            if self.settings.predictions.enabled
            else None
        )
        self._monitor: tuple[LoadedModel, DriftMonitor] | None = None
        self._drift_task: asyncio.Task[None] | None = None
        self.models.look()  # before the first request: a replica that joins others must not answer "not ready"
        self.models.start()

    def __serve_build_asgi_app__(self) -> Any:  # Ray Serve asks for it by this name, after the constructor
        return create_app(self, token=read_token(), pages=router(self), write_log=_write_log, traces=self._traces)

    async def forecast(
        self, model: LoadedModel, queries: Sequence[Query], *, deadline_s: float
    ) -> list[Forecast | FltsError]:
        """See ``serve.service.Service``."""
        outcomes = await self._lanes.run(model.engine, queries, deadline_s=deadline_s)
        monitor = self._monitor_of(model)
        return outcomes if monitor is None else [_with_drift(outcome, monitor) for outcome in outcomes]

    def record(self, request_id: str, model: LoadedModel, query: Query, forecast: Forecast) -> None:
        """See ``serve.service.Service``."""
        if self._log is not None:
            self._log.record(request_id, model.name, model.version, query, forecast)
        if (monitor := self._monitor_of(model)) is not None:
            monitor.observe(query, forecast)

    def _monitor_of(self, model: LoadedModel) -> DriftMonitor | None:
        """The monitor of the model that answers now; None for one that a swap has just replaced."""
        if model is not self.models.current:
            return None
        if self._monitor is None or self._monitor[0] is not model:
            level = next(iter(model.engine.levels), None)
            monitor = DriftMonitor(model.engine.bundle.manifest, self.settings.drift, level=level)
            self._monitor = (model, monitor)
        if self._drift_task is None:
            self._drift_task = asyncio.get_running_loop().create_task(self._follow_drift())
        return self._monitor[1]

    async def _follow_drift(self) -> None:
        told: set[tuple[str, str, int]] = set()
        while True:
            await asyncio.sleep(DRIFT_REFRESH_S)
            if self._monitor is not None:
                monitor = self._monitor[1]
                await asyncio.to_thread(monitor.refresh)
                for series, columns in monitor.figures().items():
                    for column, psi in columns.items():
                        self.instruments.drift(series=series, column=column, psi=psi)
                told = self._tell_residuals(monitor, told)

    def _tell_residuals(self, monitor: DriftMonitor, told: set[tuple[str, str, int]]) -> set[tuple[str, str, int]]:
        found = {(f.series, f.target, f.step): f for f in monitor.residuals()}
        for (series, target, step), f in found.items():
            self.instruments.residuals(
                series=series, target=target, step=step,
                bias_std=f.bias_std, spread_ratio=f.spread_ratio, coverage=f.coverage,
            )  # fmt: skip
        for series, target, step in told - found.keys():  # a gauge would go on with the errors of the model before
            self.instruments.residuals(
                series=series, target=target, step=step, bias_std=math.nan, spread_ratio=math.nan, coverage=math.nan
            )
        return set(found)

    def _drain(self) -> None:
        self.draining = True
        log.event("replica_draining", replica=self.replica)

    async def check_health(self) -> None:
        """Asked by Ray Serve every few seconds: a replica whose watcher or drift task died is replaced.

        It is asked first when the replica listens and before it counts as started.

        Raises:
            RuntimeError: If one did.
        """
        if not self.models.alive:
            raise RuntimeError("the champion watcher has ended")
        if self._drift_task is not None and self._drift_task.done():
            raise RuntimeError("the drift task has ended") from self._drift_task.exception()
        profile = self.settings.serve.profile
        if profile != "local":  # a local one takes nobody's place, and says by /readyz what it lacks
            await self.joining.settle(self.models)
        if profile != "cluster" or self.models.current is None:
            self.joining.heard()  # nobody asks, or would be told that it is ready
        await self.joining.wait()

    async def __del__(self) -> None:  # Ray Serve's last call, after the requests in progress have ended
        if self._drift_task is not None:
            self._drift_task.cancel()
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self.models.stop()
        self._lanes.close()
        if self._traces is not None:
            self._traces.close()
        if self._log is not None:
            self._log.close(timeout_s=self.settings.serve.shutdown_s / 2)
