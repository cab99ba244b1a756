"""A replica in this process: the real engine and the real HTTP side, without Ray between them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fastapi import APIRouter
from starlette.testclient import TestClient

from flts_ray.config import Settings
from flts_ray.data.frame import RawFrame
from flts_ray.errors import DeadlineError, FltsError
from flts_ray.inference.engine import Engine
from flts_ray.inference.queries import Forecast, Query
from flts_ray.models.bundle import Bundle
from serve.admission import Admission
from serve.answers import time_texts
from serve.api import create_app
from serve.instruments import NullInstruments
from serve.joining import Joining
from serve.service import LoadedModel, ModelStatus


@dataclass
class HereModels:
    """The models of a replica, set by hand."""

    current: LoadedModel | None = None
    previous: LoadedModel | None = None
    error: str = ""

    def status(self) -> ModelStatus:
        loaded = self.current.version if self.current else ""
        return ModelStatus(state="ready" if self.current else "waiting", wanted=loaded, loaded=loaded, error=self.error)


class HereInstruments(NullInstruments):
    """Remembers the requests it is told of."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []

    def request(self, *, route: str, outcome: str, seconds: float) -> None:
        assert seconds > 0
        self.requests.append((route, outcome))


@dataclass
class HereService:
    """Computes forecasts at once, in a thread; ``delay_s`` makes it slow, ``failure`` makes it fail.

    ``failure`` raised as it is if it is not an ``FltsError``, else the outcome of every query.
    """

    settings: Settings
    models: HereModels
    instruments: HereInstruments = field(default_factory=HereInstruments)
    admission: Admission = field(default_factory=lambda: Admission(256))
    replica: str = "here"
    joining: Joining = field(default_factory=Joining)
    draining: bool = False
    delay_s: float = 0.0
    failure: Exception | None = None
    recorded: list[tuple[str, str, Query, Forecast]] = field(default_factory=list)

    async def forecast(
        self, model: LoadedModel, queries: Sequence[Query], *, deadline_s: float
    ) -> list[Forecast | FltsError]:
        if self.delay_s >= deadline_s:
            await asyncio.sleep(deadline_s / 2)
            raise DeadlineError(f"no forecast within {deadline_s:g} s")
        await asyncio.sleep(self.delay_s)
        if isinstance(self.failure, FltsError):
            return [self.failure for _ in queries]
        if self.failure is not None:
            raise self.failure
        return await asyncio.to_thread(model.engine.forecast, queries)

    def record(self, request_id: str, model: LoadedModel, query: Query, forecast: Forecast) -> None:
        self.recorded.append((request_id, model.version, query, forecast))


def loaded(bundle: Bundle, version: str = "3") -> LoadedModel:
    """A bundle as the registry would give it."""
    return LoadedModel(
        name="flts-alpha",
        version=version,
        run_id="run-1",
        engine=Engine(bundle),
        loaded_at="2026-01-01T00:00:00+00:00",
        details={"scaler_sha256": "0" * 64, "metrics": {"mae": float("nan")}},
    )


def here(settings: Settings, bundle: Bundle | None, **limits: Any) -> HereService:
    """A replica with one model, or with none; ``limits`` change ``settings.serve``."""
    serve = settings.serve.model_copy(update=limits)
    models = HereModels(current=loaded(bundle) if bundle else None)
    return HereService(settings.model_copy(update={"serve": serve}), models)


def client(service: HereService, *, token: str = "", pages: APIRouter | None = None) -> TestClient:
    """Talks to the application of a replica; a failure of the application is an answer, as behind a server."""
    return TestClient(create_app(service, token=token, pages=pages), raise_server_exceptions=False)


def as_columns(frame: RawFrame, *, zone: str = "", time: str = "time", order: Sequence[str] = ()) -> dict[str, Any]:
    """A history by column; missing values are None."""
    times = [text + zone for text in time_texts(frame.time, None)]
    values = {name: _listed(frame.column(name)) for name in frame.columns}
    return {name: times if name == time else values[name] for name in order or (time, *frame.columns)}


def as_rows(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """The same by row."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _listed(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
