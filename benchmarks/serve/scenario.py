"""What the scenarios share: options, payloads, the shape of a result."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import Row, machine
from benchmarks.serve.home import Home
from benchmarks.serve.payloads import Payloads, histories, make_payloads
from benchmarks.serve.plan import Outcome, Plan
from benchmarks.serve.servers import Kind, Server, software

Cells = Sequence[str | float | int | None]
SHORT_ROWS = 30
"""Rows that clients of the old interface send."""
SHORT_BODIES, FULL_BODIES = 50, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to measure.

    Attributes:
        home: Whose champion is served; written to.
        kinds: Servers; empty: what the scenario is about.
        clients: Closed loops.
        seconds: That one cell counts.
        rounds: How often everything is repeated.
        settings: ``key=value`` for ``flts serve``.
    """

    home: Home
    kinds: tuple[Kind, ...] = ()
    clients: tuple[int, ...] = (1, 8, 32, 128)
    seconds: float = 5.0
    rounds: int = 3
    settings: tuple[str, ...] = ()

    def profiles(self) -> tuple[Kind, ...]:
        """The service's profiles among ``kinds``; both if none is given."""
        chosen = tuple(kind for kind in self.kinds if kind in ("local", "throughput"))
        return chosen or ("local", "throughput")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Figures as they are printed; None is an empty cell."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[Cells, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a scenario found.

    Attributes:
        name: Of the scenario.
        rows: What is judged.
        tables: Figures for the record.
        detail: Everything measured.
    """

    name: str
    rows: Sequence[Row]
    tables: Sequence[Table] = ()
    detail: dict[str, Any] = field(default_factory=dict)

    def document(self, options: Options, load_before: float) -> dict[str, Any]:
        """The result with what is needed to repeat it."""
        return {
            "scenario": self.name,
            "command": shlex.join(["python", "-m", "benchmarks.serve", *sys.argv[1:]]),
            "machine": machine() | {"load_1min_before": round(load_before, 2)},
            "software": software(),
            "rounds": options.rounds,
            "seconds": options.seconds,
            "settings": list(options.settings),
            "rows": [row.document() for row in self.rows],
            "tables": [{"title": t.title, "columns": t.columns, "rows": t.rows} for t in self.tables],
            "detail": self.detail,
        }


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="flts-bench-serve-") as folder:
        yield Path(folder)


def short_payloads(
    home: Home, versions: Sequence[str] = (), *, together: int = 1, count: int = SHORT_BODIES
) -> Payloads:
    """Histories of 30 rows that end at random test rows.

    Args:
        home: Whose rows and models.
        versions: Which may answer; none: the champion.
        together: Histories in a request.
        count: Requests.
    """
    return _payloads(home, versions, SHORT_ROWS, count, together)


def full_payloads(home: Home, versions: Sequence[str] = ()) -> Payloads:
    """Histories as long as the features look back."""
    rows = home.bundle(home.champion).context_rows
    return _payloads(home, versions, rows, FULL_BODIES, 1)


def plan_for(server: Server, payloads: Payloads, **options: Any) -> Plan:
    """A plan against this server."""
    return Plan(
        host=server.host,
        port=server.port,
        path=server.path,
        unwrap=server.unwrap,
        bodies=payloads.mlflow if server.kind == "mlflow" else payloads.ours,
        expected=payloads.expected,
        **options,
    )


def load_now() -> float:
    """Load average of the last minute."""
    return os.getloadavg()[0]


def failures(outcome: Outcome) -> dict[str, int]:
    """Requests that were neither answered rightly nor refused, by kind."""
    return {
        kind: n
        for kind, n in outcome.kinds.items()
        if kind not in ("ok", "unconnected") and not kind.startswith("refused")
    }


def _payloads(home: Home, versions: Sequence[str], rows: int, count: int, together: int) -> Payloads:
    bundles = {version: home.bundle(version) for version in versions or (home.champion,)}
    lookback = max(bundle.manifest.lookback for bundle in bundles.values())
    stretches = histories(home.dataset, rows=rows, count=count * together, lookback=lookback)
    return make_payloads(stretches, bundles, adapt_rows=home.settings.serve.interval_rows, together=together)
