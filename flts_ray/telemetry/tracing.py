"""Traces: where the time of a run or a request went, over all its processes.

Without a collector (``telemetry.otlp_endpoint``) every call here does nothing and imports nothing. With one, spans
follow the context of the code: what is called inside a span becomes its child. Threads have a context of their own:
start them with ``contextvars.copy_context().run``. Processes are told by :mod:`flts_ray.telemetry.origin`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flts_ray.config_experiments import TelemetrySettings
from flts_ray.redaction import redacted
from flts_ray.telemetry.logging import bind

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanKind

    from flts_ray.telemetry.collector import Collector

TRACEPARENT = "TRACEPARENT"
"""Environment variable that puts what a process does under a span of whoever started it (W3C Trace Context)."""

FLUSH_S = 5.0
"""Seconds that the end of a run may wait for a collector."""

NOTHING = nullcontext()

_COLLECTOR: ContextVar[Collector | None] = ContextVar("flts_collector", default=None)


@contextmanager
def traced(settings: TelemetrySettings, name: str, **attributes: Any) -> Iterator[None]:
    """Trace what happens inside, as one span and all below it, and send it before leaving.

    The span is a child of that in the environment variable ``TRACEPARENT``, if there is one: several commands become
    one trace by it. Every line of the log carries its ``trace_id``. A collector that does not answer costs at most
    :data:`FLUSH_S` seconds at the end.
    """
    if not settings.otlp_endpoint:
        yield
        return
    from flts_ray.telemetry.collector import collector_of

    collector = collector_of(settings.otlp_endpoint, "flts")
    with below(collector, os.environ.get(TRACEPARENT, ""), flush_s=FLUSH_S), span(name, **attributes):
        if parent := traceparent():
            bind(trace_id=parent.split("-")[1])
        yield


@contextmanager
def below(collector: Collector, parent: str, *, flush_s: float) -> Iterator[None]:
    """Let the spans that begin inside go to a collector, as children of ``parent`` (a traceparent, or nothing)."""
    from opentelemetry import context

    token = context.attach(_context_of(parent))
    active = _COLLECTOR.set(collector)
    try:
        yield
    finally:
        _COLLECTOR.reset(active)
        context.detach(token)
        collector.flush(flush_s)


def span(name: str, **attributes: Any) -> AbstractContextManager[None]:
    """What happens inside is a span; an exception that leaves it makes it a failed one."""
    collector = _COLLECTOR.get()
    return NOTHING if collector is None else _span(collector, name, attributes)


def annotate(**attributes: Any) -> None:
    """Add attributes to the span that is open."""
    if _COLLECTOR.get() is not None:
        _current().set_attributes(clean(attributes))


def note(name: str, **attributes: Any) -> None:
    """Mark a moment in the span that is open, such as the end of an epoch."""
    if _COLLECTOR.get() is not None:
        _current().add_event(name, clean(attributes))


def link(parent: str) -> None:
    """Refer from the span that is open to one of another trace, by its traceparent; what is none is ignored."""
    if _COLLECTOR.get() is None:
        return
    from opentelemetry import trace

    other = trace.get_current_span(_context_of(parent)).get_span_context()
    if other.is_valid:
        _current().add_link(other)


def traceparent() -> str:
    """The span that is open, as W3C Trace Context writes it; empty if there is none."""
    if _COLLECTOR.get() is None:
        return ""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent", "")


def tags() -> dict[str, str]:
    """The tag by which a registered version names the span that made it; none if there is no span."""
    parent = traceparent()
    return {"traceparent": parent} if parent else {}


def endpoint() -> str:
    """Address of the collector that spans go to just now; empty if there is none."""
    collector = _COLLECTOR.get()
    return "" if collector is None else collector.endpoint


@dataclass(frozen=True, slots=True)
class Open:
    """A span that is open and will be sent, for whoever ends its children in another context; from :func:`here`."""

    span: Span
    collector: Collector


def here() -> Open | None:
    """The span that is open, if it will be sent."""
    collector = _COLLECTOR.get()
    if collector is None:
        return None
    current = _current()
    return Open(current, collector) if current.is_recording() else None


def past(parent: Open, name: str, started_s: float, ended_s: float, **attributes: Any) -> None:
    """A child of ``parent`` that has already ended.

    Args:
        parent: From :func:`here`.
        name: Of the child.
        started_s: When it began, by ``time.monotonic``.
        ended_s: When it ended, by the same clock.
        attributes: Of the child.
    """
    from opentelemetry.trace import set_span_in_context

    epoch_s = time.time() - time.monotonic()
    child = parent.collector.tracer.start_span(
        name,
        context=set_span_in_context(parent.span),
        start_time=int((epoch_s + started_s) * 1e9),
        attributes=attributes,
    )
    child.end(int((epoch_s + ended_s) * 1e9))


def clean(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as spans take them: what is not known is left out, and what is no number is text without secrets."""
    return {name: _plain(value) for name, value in attributes.items() if value is not None}


def failed(current: Span, error: BaseException) -> None:
    """Mark a span as failed."""
    from opentelemetry.trace import Status, StatusCode

    current.set_attribute("error.type", type(error).__name__)
    current.set_status(Status(StatusCode.ERROR, redacted(error)))


@contextmanager
def served(collector: Collector, parent: str, name: str, kind: SpanKind) -> Iterator[Span]:
    """One span of a service, below whoever asked; it is sent with others, later, and nothing waits for it.

    Args:
        collector: Where it goes.
        parent: Traceparent of the request, or nothing.
        name: Of the span, for now.
        kind: Of the span.
    """
    from opentelemetry.trace import use_span

    opened = collector.tracer.start_span(
        name, context=_context_of(parent), kind=kind, record_exception=False, set_status_on_exception=False
    )
    active = _COLLECTOR.set(collector if opened.is_recording() else None)  # what is not kept has no children either
    try:
        with use_span(opened, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            yield opened
    finally:
        _COLLECTOR.reset(active)


@contextmanager
def _span(collector: Collector, name: str, attributes: Mapping[str, Any]) -> Iterator[None]:
    with collector.tracer.start_as_current_span(
        name, attributes=clean(attributes), record_exception=False, set_status_on_exception=False
    ) as current:
        try:
            yield
        except BaseException as error:
            failed(current, error)
            raise


def _current() -> Span:
    from opentelemetry import trace

    return trace.get_current_span()


def _context_of(parent: str) -> Any:
    """A context in which ``parent`` is open, and nothing else is."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    if not parent:
        return Context()
    return TraceContextTextMapPropagator().extract({"traceparent": parent}, Context())


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [str(part) for part in value]
    return redacted(value)
