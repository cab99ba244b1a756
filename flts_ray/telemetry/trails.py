"""Which trace made a dataset or a candidate: noted beside them, so that the traces of later jobs refer to it."""

from __future__ import annotations

from flts_ray.data.storage import Store
from flts_ray.errors import StorageError
from flts_ray.telemetry import tracing
from flts_ray.telemetry.logging import WARNING, event

TRACES = "traces"


def leave(store: Store, name: str) -> None:
    """Note that the span which is open made ``name``; without a span, nothing is noted.

    Args:
        store: Of datasets and models.
        name: Identity of what was made, such as a dataset id.
    """
    parent = tracing.traceparent()
    if not parent:
        return
    try:
        store.write_bytes(f"{TRACES}/{name}", parent.encode())
    except StorageError as error:  # a trace is not worth a run
        event("trace_not_noted", level=WARNING, name=name, reason=str(error))


def follow(store: Store, name: str) -> None:
    """Let the span that is open refer to the one that made ``name``, if that was noted."""
    if not tracing.traceparent():
        return
    try:
        found = store.read_bytes(f"{TRACES}/{name}") if store.exists(f"{TRACES}/{name}") else b""
    except StorageError as error:
        event("trace_not_found", level=WARNING, name=name, reason=str(error))
    else:
        tracing.link(found.decode("ascii", "replace"))
