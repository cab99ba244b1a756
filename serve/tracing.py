"""One span a request, in the trace of whoever asked, with a link to the run that made the model which answered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flts_ray.config_experiments import TelemetrySettings
from flts_ray.telemetry import tracing
from flts_ray.telemetry.collector import Collector, collector_of
from serve.exchange import Exchange

SERVICE = "flts-serve"


class RequestTraces:
    """Makes the spans of requests. Costs nothing but memory while a collector does not answer.

    Args:
        collector: Where they go.
    """

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    @contextmanager
    def request(self, exchange: Exchange) -> Iterator[None]:
        """Trace a request: the span is a child of its ``traceparent``, if it came with one that makes sense."""
        from opentelemetry.trace import SpanKind, Status, StatusCode

        parent = exchange.headers.get(b"traceparent", b"").decode("latin-1")
        method = exchange.scope["method"]
        with tracing.served(self._collector, parent, method, kind=SpanKind.SERVER) as span:
            context = span.get_span_context()
            if context.is_valid:
                exchange.trace_id = f"{context.trace_id:032x}"
            try:
                yield
            finally:
                if span.is_recording():
                    span.update_name(f"{method} {exchange.route}")
                    span.set_attributes(_attributes(exchange))
                    if exchange.status >= 500:
                        span.set_status(Status(StatusCode.ERROR))
                    tracing.link(exchange.made_by)

    def close(self) -> None:
        """Send what waits."""
        self._collector.flush()


def request_traces(settings: TelemetrySettings) -> RequestTraces | None:
    """The traces of a replica; None without a collector."""
    if not settings.otlp_endpoint:
        return None
    return RequestTraces(collector_of(settings.otlp_endpoint, SERVICE, settings.trace_fraction))


def _attributes(exchange: Exchange) -> dict[str, str | int]:
    """By OpenTelemetry's names where it has one."""
    found: dict[str, str | int] = {
        "http.request.method": exchange.scope["method"],
        "http.route": exchange.route,
        "http.response.status_code": exchange.status,
        "http.response.body.size": exchange.bytes_sent,
        "flts.request_id": exchange.request_id,
        "flts.outcome": exchange.counted_as,
        "flts.series": exchange.series,
    }
    if exchange.model_version:
        found["flts.model.version"] = exchange.model_version
    if exchange.status >= 500:
        found["error.type"] = str(exchange.status)
    return found
