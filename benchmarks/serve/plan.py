"""What a load generator is told and what it answers; both travel as JSON between two processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.serve.checks import TOLERANCE, Expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One measurement.

    Attributes:
        host: Where to send requests.
        port: TCP port.
        path: Path of the requests.
        bodies: Request bodies (JSON), sent in rotation.
        expected: The right answers of each body, by model version.
        unwrap: Key under which the server puts its answer.
        headers: More request headers.
        clients: Closed loop: so many clients, each with one request at a time. 0: open loop.
        rate: Open loop: requests a second, whatever the server does. A latency counts from when the request was due.
        connections: Open loop: connections at most; a request waits when all are busy.
        warmup_s: Seconds before anything counts.
        seconds: Seconds that count.
        timeout_s: Seconds after which a request counts as failed.
        samples: Whether to return every single request.
    """

    host: str
    port: int
    path: str
    bodies: Sequence[str]
    expected: Sequence[Expected]
    unwrap: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    clients: int = 0
    rate: float = 0.0
    connections: int = 512
    warmup_s: float = 1.0
    seconds: float = 5.0
    timeout_s: float = 30.0
    tolerance: float = TOLERANCE
    samples: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        if bool(self.clients) == bool(self.rate):
            raise ValueError("give either clients (closed loop) or rate (open loop)")
        if len(self.bodies) != len(self.expected) or not self.bodies:
            raise ValueError("every body needs its expected answers")

    def document(self) -> dict[str, Any]:
        """The plan as JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One request.

    Attributes:
        due_s: When it was due, by ``time.monotonic`` (one clock for all processes of a machine).
        latency_ms: Until its answer, or until it was given up.
        kind: ``ok``, ``wrong``, ``refused_503``, ``refused_429``, ``http_<status>``, ``closed`` (the connection ended
            without an answer), ``truncated`` (within one), ``malformed``, ``timeout``, or ``unconnected`` (the server
            took no connection: nothing was sent).
        version: Model version that a right answer names.
    """

    due_s: float
    latency_ms: float
    kind: str
    version: str = ""

    @property
    def ended_s(self) -> float:
        """When it ended."""
        return self.due_s + self.latency_ms / 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Milliseconds; None where there was no request."""

    n: int
    p50: float | None
    p90: float | None
    p99: float | None
    max: float | None

    @classmethod
    def of(cls, latencies_ms: Sequence[float]) -> Latency:
        """Percentiles (nearest rank) of some requests."""
        ordered = sorted(latencies_ms)
        return cls(n=len(ordered), **{name: rank(ordered, share) for name, share in _SHARES.items()})


_SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


def rank(ordered: Sequence[float], share: float) -> float | None:
    """The value below or at which ``share`` of the sorted values lie; None of nothing."""
    if not ordered:
        return None
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a measurement found. Counts are of requests that were due within the seconds that count.

    Attributes:
        seconds: Seconds that counted.
        began_s: Their start, by ``time.monotonic``.
        kinds: Requests by kind, see :class:`Sample`.
        rps: Right answers that arrived within the seconds that count, a second.
        latency: Of right answers.
        by_kind: Of every kind.
        versions: Right answers by the model version that they name.
        warmup: Requests before the seconds that count, by kind.
        reconnects: Connections that ended between two requests and had to be opened anew.
        without_retry_after: Refusals that do not say when to come again.
        largest_difference: Largest relative difference from an expected number in a right answer.
        examples: Why bodies were wrong, or what errors said; the first few.
        cpu: Cores that the generator itself used (1 means it was the bottleneck).
        late_p99_ms: Open loop: how late the generator sent requests.
        samples: Every request, warm-up included, if asked for.
    """

    seconds: float
    began_s: float
    kinds: dict[str, int]
    rps: float
    latency: Latency
    by_kind: dict[str, Latency]
    versions: dict[str, int]
    warmup: dict[str, int]
    reconnects: int
    without_retry_after: int
    largest_difference: float
    examples: tuple[str, ...]
    cpu: float
    late_p99_ms: float | None
    samples: tuple[Sample, ...] = ()

    @property
    def sent(self) -> int:
        """Requests that the server was asked."""
        return sum(n for kind, n in self.kinds.items() if kind != "unconnected")

    @property
    def ok(self) -> int:
        """Right answers."""
        return self.kinds.get("ok", 0)

    @property
    def refused(self) -> int:
        """Requests that the server said it would not take (429, 503)."""
        return sum(n for kind, n in self.kinds.items() if kind.startswith("refused"))

    @property
    def failed(self) -> int:
        """Requests that were neither answered rightly nor refused; wrong bodies are failures."""
        return self.sent - self.ok - self.refused

    def document(self) -> dict[str, Any]:
        """For the result file: all but the samples."""
        document = asdict(self)
        del document["samples"]
        return document | {"sent": self.sent, "ok": self.ok, "refused": self.refused, "failed": self.failed}


def read_outcome(document: dict[str, Any]) -> Outcome:
    """Rebuild an outcome from JSON."""
    return Outcome(
        **document
        | {
            "latency": Latency(**document["latency"]),
            "by_kind": {kind: Latency(**found) for kind, found in document["by_kind"].items()},
            "examples": tuple(document["examples"]),
            "samples": tuple(Sample(**sample) for sample in document["samples"]),
        }
    )
