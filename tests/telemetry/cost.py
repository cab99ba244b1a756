"""What traces of requests cost: CPU of the event loop a request, off, 1 % kept, all kept, in turns.

Run it with ``python -m tests.telemetry.cost``. The HTTP side is the real one, in this process, without compute lanes.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from flts_ray.config_experiments import TelemetrySettings
from serve.api import create_app
from serve.tracing import request_traces
from tests.serve.asgi import Wire
from tests.serve.conftest import Served
from tests.serve.here import here
from tests.stages import make_bench
from tests.telemetry.receiver import receiving

ROUNDS, REQUESTS = 7, 300


async def cost_us(app: Any, path: str, method: str, body: bytes) -> float:
    started = time.thread_time()
    for _ in range(REQUESTS):
        wire = Wire([body])
        await wire.request(app, path, method=method)
        assert wire.status == 200
    return (time.thread_time() - started) / REQUESTS * 1e6


def main() -> None:
    bench = make_bench(Path(tempfile.mkdtemp(prefix="flts-cost-")), ("alpha",))
    served = Served(bench.settings, bench.fit().bundle, {raw.series: raw for raw in bench.dataset.raws})
    service = here(served.settings, served.bundle)
    forecast = json.dumps({"history": served.history()}).encode()
    with receiving() as collector:
        apps = {"off": create_app(service)}
        for fraction in (0.01, 1.0):
            settings = TelemetrySettings(otlp_endpoint=collector.endpoint, trace_fraction=fraction)
            apps[f"{fraction:.0%} kept"] = create_app(service, traces=request_traces(settings))
        for path, method, body in (("/v1/model", "GET", b""), ("/v1/forecast", "POST", forecast)):
            found: dict[str, list[float]] = {name: [] for name in apps}
            for _ in range(ROUNDS):
                for name, app in apps.items():
                    found[name].append(asyncio.run(cost_us(app, path, method, body)))
            told = ", ".join(f"{name} {statistics.median(costs):.0f} µs" for name, costs in found.items())
            sys.stdout.write(f"{method} {path}: {told}\n")


if __name__ == "__main__":
    main()
