"""The way of finished spans to an OpenTelemetry collector: in batches, off the path of the work, and never for long."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from flts_ray import __version__
from flts_ray.redaction import masked
from flts_ray.telemetry.logging import WARNING, event

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.trace import Tracer

EXPORT_S = 2.0
"""Seconds that the collector has to take a batch."""

PAUSE_S = 30.0
"""After a batch that it did not take, the collector is left alone for so long; what ends meanwhile is lost."""

BATCH_EVERY_S = 1.0
MOST_WAITING = 8_192
TRACES_PATH = "/v1/traces"


class Collector:
    """A collector as this process sees it. Made by :func:`collector_of`, once a process.

    Attributes:
        endpoint: Its address, as it was set.
        tracer: Makes spans that go there.
    """

    def __init__(self, endpoint: str, service: str, fraction: float) -> None:
        """Prepare to send; nothing is sent before a span has ended.

        Args:
            endpoint: URL of the collector; ``/v1/traces`` is added unless it ends so.
            service: What this process is part of, such as ``flts``.
            fraction: Share of the traces begun here that is kept; those begun elsewhere are kept if they were there.
        """
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it would tell of every batch; we tell once
        self.endpoint = endpoint
        self._outlet = _Outlet(endpoint)
        host, pid = socket.gethostname(), os.getpid()
        resource = Resource.create(
            {
                "service.name": service,
                "service.version": __version__,
                "service.instance.id": f"{host}:{pid}",
                "host.name": host,
                "process.pid": pid,
            }
        )
        self._provider: TracerProvider = TracerProvider(
            sampler=ParentBasedTraceIdRatio(fraction), resource=resource, shutdown_on_exit=False
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                _exporter(self._outlet), max_queue_size=MOST_WAITING, schedule_delay_millis=BATCH_EVERY_S * 1000
            )
        )
        self.tracer: Tracer = self._provider.get_tracer("flts_ray", __version__)

    def flush(self, timeout_s: float = EXPORT_S) -> None:
        """Send what has ended and waits, or give up after ``timeout_s`` seconds."""
        thread = threading.Thread(target=self._provider.force_flush, name="flush-traces", daemon=True)
        thread.start()
        thread.join(timeout_s)


@cache
def collector_of(endpoint: str, service: str, fraction: float = 1.0) -> Collector:
    """The collector at this address: one a process, so that what was learnt of its health outlives a task."""
    return Collector(endpoint, service, fraction)


class _Outlet:
    """Sends batches; leaves a collector that does not take them alone for a while."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._client: Any = None
        self._closed_until_s = 0.0
        self._lost = 0

    def send(self, spans: Sequence[ReadableSpan]) -> bool:
        """Send a batch; False if it is lost. Called by one thread at a time."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import SpanExportResult

        if time.monotonic() < self._closed_until_s:
            self._lost += len(spans)
            return False
        if self._client is None:
            base = self._endpoint.rstrip("/")
            url = base if base.endswith(TRACES_PATH) else base + TRACES_PATH
            self._client = OTLPSpanExporter(endpoint=url, timeout=EXPORT_S)
        if self._client.export(spans) is SpanExportResult.SUCCESS:
            if self._lost:
                event("traces_sent_again", endpoint=masked(self._endpoint), lost_spans=self._lost)
                self._lost = 0
            return True
        if not self._lost:
            event("traces_lost", level=WARNING, endpoint=masked(self._endpoint), again_in_s=PAUSE_S)
        self._lost += len(spans)
        self._closed_until_s = time.monotonic() + PAUSE_S
        return False


def _exporter(outlet: _Outlet) -> Any:
    """The outlet as the SDK wants it; its base class is only imported where there is a collector."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Exporter(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            return SpanExportResult.SUCCESS if outlet.send(spans) else SpanExportResult.FAILURE

    return Exporter()
