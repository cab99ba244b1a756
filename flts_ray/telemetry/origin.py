"""What a process of a cluster is told by the one that sends it work: whose its log lines are, and whose child its span.

The driver takes :func:`origin` and sends it with the work; the worker does the work inside :func:`joined`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from flts_ray.telemetry import tracing
from flts_ray.telemetry.logging import bound, configure_worker, event, whereabouts

OF_THE_PROCESS = frozenset({"host", "build", "node_id", "rank", "pid"})
"""Fields of log lines that do not travel: a worker has its own."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where work comes from.

    Attributes:
        fields: What the log lines about it have in common, such as ``run`` and ``dataset``.
        traceparent: The span that it belongs to; empty without one.
        endpoint: The collector that spans go to; empty without one.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    traceparent: str = ""
    endpoint: str = ""


def origin() -> Origin:
    """That of work which is sent from here and now."""
    fields = {name: value for name, value in whereabouts().items() if name not in OF_THE_PROCESS}
    return Origin(fields, tracing.traceparent(), tracing.endpoint())


@contextmanager
def joined(sender: Origin, name: str, *, node_id: str, rank: int | None = None, **attributes: Any) -> Iterator[None]:
    """Do work for somebody else: one span, a child of the sender's, and log lines that name both, the first at once.

    The span is sent before leaving, since Ray ends its processes without warning. A collector that does not answer
    costs at most :data:`flts_ray.telemetry.collector.EXPORT_S`, and then nothing for a while.

    Args:
        sender: Where the work comes from.
        name: Of the span.
        node_id: Ray's name of this node.
        rank: Number of this worker, if it is one of several.
        attributes: Of the span.
    """
    configure_worker()
    with (
        bound(**sender.fields, node_id=node_id, rank=rank, pid=os.getpid()),
        _below(sender),
        tracing.span(name, node_id=node_id, rank=rank, **attributes),
    ):
        started = time.perf_counter()
        event("work_started", work=name, **attributes)
        yield
        event("work_done", work=name, seconds=round(time.perf_counter() - started, 3))


def _below(sender: Origin) -> Any:
    if not sender.endpoint:
        return nullcontext()
    from flts_ray.telemetry.collector import EXPORT_S, collector_of

    collector = collector_of(sender.endpoint, "flts")
    return tracing.below(collector, sender.traceparent, flush_s=EXPORT_S)
