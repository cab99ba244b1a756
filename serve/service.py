"""What the parts of a replica know of each other: the model it holds, and what the HTTP side may ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from flts_ray.config import Settings
from flts_ray.errors import FltsError
from flts_ray.inference.engine import Engine
from flts_ray.inference.queries import Forecast, Query
from serve.admission import Admission
from serve.joining import Joining


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A registered version, loaded and tried.

    Attributes:
        name: Registered model, ``flts-<identifier>``.
        version: Version as text.
        run_id: Tracking run that made it.
        engine: Computes its forecasts.
        loaded_at: UTC, ISO 8601.
        details: More of its story for ``/v1/model``: tags, metrics, training window.
    """

    name: str
    version: str
    run_id: str
    engine: Engine
    loaded_at: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """How the replica stands with the registry.

    Attributes:
        state: ``waiting`` for a first champion, or ``ready``.
        wanted: Version that the alias names, as last seen; empty if there is none.
        loaded: Version that answers; empty if there is none.
        error: Why the wanted version is not the loaded one; empty if it is.
        checked_at: UTC time of the last look at the registry that succeeded; empty before the first.
        swaps: Changes of the model since the replica started.
    """

    state: Literal["waiting", "ready"]
    wanted: str = ""
    loaded: str = ""
    error: str = ""
    checked_at: str = ""
    swaps: int = 0


class Models(Protocol):
    """The models of a replica; ``current`` is replaced as a whole, so read it once a request."""

    @property
    def current(self) -> LoadedModel | None:
        """The model that answers."""

    @property
    def previous(self) -> LoadedModel | None:
        """The one before it."""

    def status(self) -> ModelStatus:
        """How the replica stands with the registry."""


class Instruments(Protocol):
    """Figures of the replica. Every call returns at once."""

    def request(self, *, route: str, outcome: str, seconds: float) -> None:
        """A request ended; ``seconds`` counts from its arrival, waiting included.

        ``outcome`` is ok, invalid (4xx), unauthorized, not_ready, refused (429, 503), deadline, error or disconnected.
        """

    def batch(self, *, size: int, waited_s: float, compute_s: float) -> None:
        """A batch was computed; ``waited_s`` is how long its oldest query had waited."""

    def queue(self, depth: int) -> None:
        """Queries waiting or being computed."""

    def model(self, *, wanted: str, loaded: str) -> None:
        """Versions that the alias names and that answers; differing ones are skew."""

    def swap(self, *, outcome: str, lag_s: float) -> None:
        """A new champion was taken (``ok``) or refused (``failed``), ``lag_s`` after the alias was seen to change."""

    def predictions_lost(self, rows: int) -> None:
        """Rows of the prediction log were dropped."""

    def drift(self, *, series: str, column: str, psi: float) -> None:
        """Population stability index of a live column against training."""

    def residuals(
        self, *, series: str, target: str, step: int, bias_std: float, spread_ratio: float, coverage: float
    ) -> None:
        """Errors of one step against training, and the coverage of its intervals; NaN where it is not known."""


class Service(Protocol):
    """A replica, as its HTTP side sees it."""

    @property
    def settings(self) -> Settings:
        """The whole configuration."""

    @property
    def models(self) -> Models:
        """What answers."""

    @property
    def instruments(self) -> Instruments:
        """What is told of requests."""

    @property
    def admission(self) -> Admission:
        """Who is let in."""

    @property
    def replica(self) -> str:
        """Its name, for whoever looks into one of several."""

    @property
    def joining(self) -> Joining:
        """Told when somebody heard that it is ready."""

    @property
    def draining(self) -> bool:
        """Whether it is about to end, and answers only who comes late."""

    async def forecast(
        self, model: LoadedModel, queries: Sequence[Query], *, deadline_s: float
    ) -> list[Forecast | FltsError]:
        """Compute forecasts, batched with those of other requests; each query fails alone.

        Raises:
            DeadlineError: If ``deadline_s`` seconds passed first.
        """

    def record(self, request_id: str, model: LoadedModel, query: Query, forecast: Forecast) -> None:
        """Note an answer in the prediction log; never waits, never raises."""
