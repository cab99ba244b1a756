"""The model of a replica follows the alias ``champion``: a thread looks, loads beside what answers, and swaps."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from flts_ray.config import Settings
from flts_ray.data.claims import now_utc
from flts_ray.errors import FltsError, InfrastructureError
from flts_ray.telemetry.logging import ERROR, WARNING, event
from flts_ray.tracking.client import Gateway
from flts_ray.tracking.registry import ChampionRef, ModelRegistry
from serve.loading import load_version, warm
from serve.service import Instruments, LoadedModel, ModelStatus

LONGEST_PAUSE_S = 60.0
"""Between two attempts to load a version that could not be fetched."""

STOP_S = 1.0
"""Seconds to wait for a thread that may be inside a call to the registry; it changes nothing afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """All that readers see, replaced as a whole by the one thread that writes."""

    current: LoadedModel | None = None
    previous: LoadedModel | None = None
    wanted: str = ""
    error: str = ""
    checked_at: str = ""
    swaps: int = 0


@dataclass(kw_only=True)
class _Pursuit:
    """A version that the alias names and that does not answer yet; times are those of ``time.monotonic``."""

    version: str
    seen: float
    attempts: int = 0
    next_attempt: float = 0.0
    refused: bool = False
    error: str = ""


class ChampionWatcher:
    """Holds the models of a replica. Implements ``serve.service.Models``.

    A version that cannot be fetched is tried again after a growing pause. One that is not fit to serve is not tried
    again until the alias has named another. Neither touches the model that answers.

    Args:
        settings: The whole configuration.
        identifier: What is served, such as a station.
        replica: Name of the replica, for events.
        instruments: What is told of versions and swaps.

    Raises:
        ConfigError: If the identifier or the address of the tracking store cannot be used.
    """

    def __init__(self, settings: Settings, *, identifier: str, replica: str, instruments: Instruments) -> None:
        gateway = Gateway(settings.tracking, Path(settings.run.home).absolute())
        self._registry = ModelRegistry(gateway, identifier, wait_s=0)
        self._settings = settings
        self._replica = replica
        self._instruments = instruments
        self._view = _View()
        self._pursuit: _Pursuit | None = None
        self._unreachable = ""
        self._absent = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="champion-watcher", daemon=True)

    @property
    def current(self) -> LoadedModel | None:
        """The model that answers. Read it once a request: the next read may give another."""
        return self._view.current

    @property
    def previous(self) -> LoadedModel | None:
        """The one before it, ready to answer again at once."""
        return self._view.previous

    @property
    def alive(self) -> bool:
        """Whether the champion is being watched."""
        return self._thread.is_alive()

    @property
    def settled(self) -> bool:
        """Whether a model answers, or the registry has said that there is no champion."""
        view = self._view
        return view.current is not None or (bool(view.checked_at) and not view.wanted)

    def status(self) -> ModelStatus:
        """How the replica stands with the registry."""
        view = self._view
        return ModelStatus(
            state="waiting" if view.current is None else "ready",
            wanted=view.wanted,
            loaded=_version(view.current),
            error=view.error,
            checked_at=view.checked_at,
            swaps=view.swaps,
        )

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; the models stay."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def look(self) -> None:
        """Look at the alias once, and do what it takes to follow it. The thread does this every ``serve.poll_s``."""
        try:
            ref = self._registry.champion()
        except InfrastructureError as error:
            self._lost(str(error))
        else:
            self._found(ref)
        view = self._view
        self._instruments.model(wanted=view.wanted, loaded=_version(view.current))

    def _run(self) -> None:
        warm(self._settings)
        while not self._stopped.is_set():
            self.look()
            self._stopped.wait(self._settings.serve.poll_s)

    def _lost(self, reason: str) -> None:
        if not self._unreachable:
            self._event("registry_unreachable", level=WARNING, reason=reason, checked_at=self._view.checked_at)
        self._unreachable = reason
        if self._view.current is None:
            self._view = replace(self._view, error=reason)

    def _found(self, ref: ChampionRef | None) -> None:
        if self._unreachable:
            self._event("registry_back", unseen_since=self._view.checked_at)
            self._unreachable = ""
        wanted, loaded = "" if ref is None else ref.version, _version(self._view.current)
        if self._pursuit is not None and (wanted != self._pursuit.version or wanted == loaded):
            self._pursuit = None
        error = "" if self._pursuit is None else self._pursuit.error
        if ref is None and loaded:
            error = f"{self._registry.name} has no champion any more, so version {loaded} goes on: promote one"
        if ref is None and not self._absent:
            self._event("champion_absent", level=WARNING, name=self._registry.name, loaded=loaded)
        self._absent = ref is None
        self._view = replace(self._view, wanted=wanted, error=error, checked_at=now_utc())
        if ref is not None and wanted != loaded:
            self._follow(ref)

    def _follow(self, ref: ChampionRef) -> None:
        now = time.monotonic()
        if self._pursuit is None:
            self._pursuit = _Pursuit(version=ref.version, seen=now)
        pursuit = self._pursuit
        if pursuit.refused or now < pursuit.next_attempt:
            return
        pursuit.attempts += 1
        present, model = self._view.current, self._view.previous
        try:
            if model is None or model.version != ref.version:
                contract = None if present is None else present.engine.bundle.manifest
                model = load_version(ref, self._registry, self._settings, present=contract)
        except InfrastructureError as error:
            self._delay(pursuit, str(error))
        except FltsError as error:
            self._refuse(pursuit, ref, error.name, str(error))
        except Exception as error:  # noqa: BLE001 (whatever a candidate does, the model that answers goes on)
            self._refuse(pursuit, ref, type(error).__name__, f"{type(error).__name__}: {error}")
        else:
            self._take(pursuit, ref, model)

    def _take(self, pursuit: _Pursuit, ref: ChampionRef, model: LoadedModel) -> None:
        if self._stopped.is_set():
            return
        before, first = self._view, self._view.current is None
        self._view = replace(
            before, current=model, previous=before.current, error="", swaps=before.swaps + (0 if first else 1)
        )
        lag_s, self._pursuit = time.monotonic() - pursuit.seen, None
        if not first:
            self._instruments.swap(outcome="ok", lag_s=lag_s)
        self._event(
            "champion_loaded",
            name=model.name,
            version=model.version,
            run_id=model.run_id,
            before=_version(before.current),
            lag_s=round(lag_s, 3),
            registered_at=ref.registered_at,
            runtime=model.engine.runtime,
            lookback=model.engine.bundle.manifest.lookback,
            horizon=model.engine.bundle.manifest.horizon,
        )

    def _delay(self, pursuit: _Pursuit, reason: str) -> None:
        pause_s = min(self._settings.serve.poll_s * 2**pursuit.attempts, LONGEST_PAUSE_S)
        pursuit.next_attempt = time.monotonic() + pause_s
        if pursuit.attempts == 1:
            self._event("champion_delayed", level=WARNING, version=pursuit.version, reason=reason)
        self._say(pursuit, f"version {pursuit.version} cannot be fetched yet: {reason}")

    def _refuse(self, pursuit: _Pursuit, ref: ChampionRef, kind: str, reason: str) -> None:
        pursuit.refused = True
        self._say(pursuit, f"version {ref.version} is refused: {reason}")
        self._instruments.swap(outcome="failed", lag_s=time.monotonic() - pursuit.seen)
        self._event(
            "champion_refused",
            level=ERROR,
            name=ref.name,
            version=ref.version,
            run_id=ref.run_id,
            loaded=_version(self._view.current),
            error=kind,
            reason=reason,
        )

    def _say(self, pursuit: _Pursuit, error: str) -> None:
        pursuit.error = error
        self._view = replace(self._view, error=error)

    def _event(self, name: str, /, *, level: int = logging.INFO, **fields: object) -> None:
        event(name, level=level, replica=self._replica, **fields)


def _version(model: LoadedModel | None) -> str:
    return "" if model is None else model.version
