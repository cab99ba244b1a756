"""Figures of a replica, exported by Ray to Prometheus.

One observation costs 2 to 5 µs, since Ray adds it up in C++ and sends the sums from a thread of its own. Gauges are
told again and again, because Ray drops one that has not been set for 20 s.
"""

from __future__ import annotations

import threading
import time

from flts_ray.telemetry.figures import Figure, instrument, ray_is_up
from flts_ray.telemetry.readings import Readings

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LAGS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
REPEAT_S = 2.0

REQUESTS = Figure(
    name="flts_requests", kind="counter", tags=("route", "outcome"), meaning="Requests, by how they ended."
)
REQUEST_SECONDS = Figure(
    name="flts_request_seconds",
    kind="histogram",
    tags=("route",),
    buckets=SECONDS,
    meaning="Seconds from a request's arrival to its end, waiting included.",
)
QUEUE_WAIT_SECONDS = Figure(
    name="flts_queue_wait_seconds",
    kind="histogram",
    buckets=SECONDS,
    meaning="Seconds that the oldest query of a batch had waited.",
)
BATCH_SIZE = Figure(name="flts_batch_size", kind="histogram", buckets=SIZES, meaning="Queries computed together.")
BATCH_COMPUTE_SECONDS = Figure(
    name="flts_batch_compute_seconds", kind="histogram", buckets=SECONDS, meaning="Seconds to compute a batch."
)
QUEUE_DEPTH = Figure(name="flts_queue_depth", kind="gauge", meaning="Queries waiting or being computed.")
MODEL_VERSION = Figure(
    name="flts_model_version",
    kind="gauge",
    tags=("state",),
    meaning="Version that the alias names (wanted) and that answers (loaded); 0 if there is none.",
)
MODEL_SKEW = Figure(name="flts_model_skew", kind="gauge", meaning="1 while these two versions differ.")
SWAPS = Figure(
    name="flts_swaps", kind="counter", tags=("outcome",), meaning="Champions taken (ok) or refused (failed)."
)
SWAP_LAG_SECONDS = Figure(
    name="flts_swap_lag_seconds",
    kind="histogram",
    buckets=LAGS_S,
    meaning="Seconds from seeing that the alias had moved to answering with its version.",
)
PREDICTIONS_LOST = Figure(
    name="flts_predictions_lost", kind="counter", meaning="Rows that the prediction log had to drop."
)
DRIFT_PSI = Figure(
    name="flts_drift_psi",
    kind="gauge",
    tags=("series", "column"),
    meaning="Population stability index of a live column against training.",
)
RESIDUAL_BIAS_STD = Figure(
    name="flts_residual_bias_std",
    kind="gauge",
    tags=("series", "target", "step"),
    meaning="Mean live error less that of training, in standard deviations of training.",
)
RESIDUAL_SPREAD_RATIO = Figure(
    name="flts_residual_spread_ratio",
    kind="gauge",
    tags=("series", "target", "step"),
    meaning="Spread of the live errors as a multiple of that in training.",
)
INTERVAL_COVERAGE = Figure(
    name="flts_interval_coverage",
    kind="gauge",
    tags=("series", "target", "step"),
    meaning="Share of outcomes inside their intervals of the calibrated level.",
)
FIGURES = (
    REQUESTS,
    REQUEST_SECONDS,
    QUEUE_WAIT_SECONDS,
    BATCH_SIZE,
    BATCH_COMPUTE_SECONDS,
    QUEUE_DEPTH,
    MODEL_VERSION,
    MODEL_SKEW,
    SWAPS,
    SWAP_LAG_SECONDS,
    PREDICTIONS_LOST,
    DRIFT_PSI,
    RESIDUAL_BIAS_STD,
    RESIDUAL_SPREAD_RATIO,
    INTERVAL_COVERAGE,
)


class RayInstruments:
    """Implements ``serve.service.Instruments`` by Ray's metrics. Thread-safe.

    Args:
        replica: Label of everything that this one reports.
    """

    def __init__(self, replica: str = "") -> None:
        made = {figure: instrument(figure, replica=replica) for figure in FIGURES if figure.kind != "gauge"}
        self._requests, self._request_seconds = made[REQUESTS], made[REQUEST_SECONDS]
        self._queue_wait = made[QUEUE_WAIT_SECONDS]
        self._batch_size, self._batch_compute = made[BATCH_SIZE], made[BATCH_COMPUTE_SECONDS]
        self._swaps, self._swap_lag = made[SWAPS], made[SWAP_LAG_SECONDS]
        self._lost = made[PREDICTIONS_LOST]
        self._gauges = Readings(replica=replica)
        threading.Thread(target=self._repeat, name="gauges", daemon=True).start()

    def request(self, *, route: str, outcome: str, seconds: float) -> None:
        """See ``serve.service.Instruments``."""
        self._requests.inc(1, {"route": route, "outcome": outcome})
        self._request_seconds.observe(seconds, {"route": route})

    def batch(self, *, size: int, waited_s: float, compute_s: float) -> None:
        """See ``serve.service.Instruments``."""
        self._batch_size.observe(size)
        self._queue_wait.observe(waited_s)
        self._batch_compute.observe(compute_s)

    def queue(self, depth: int) -> None:
        """See ``serve.service.Instruments``."""
        self._gauges.set(QUEUE_DEPTH, depth)

    def model(self, *, wanted: str, loaded: str) -> None:
        """See ``serve.service.Instruments``."""
        for state, version in (("wanted", wanted), ("loaded", loaded)):
            self._gauges.set(MODEL_VERSION, float(version or 0), state=state)
        self._gauges.set(MODEL_SKEW, wanted != loaded)

    def swap(self, *, outcome: str, lag_s: float) -> None:
        """See ``serve.service.Instruments``."""
        self._swaps.inc(1, {"outcome": outcome})
        if outcome == "ok":
            self._swap_lag.observe(lag_s)

    def predictions_lost(self, rows: int) -> None:
        """See ``serve.service.Instruments``."""
        if rows > 0:  # Ray refuses to add nothing
            self._lost.inc(rows)

    def drift(self, *, series: str, column: str, psi: float) -> None:
        """See ``serve.service.Instruments``."""
        self._gauges.set(DRIFT_PSI, psi, series=series, column=column)

    def residuals(
        self, *, series: str, target: str, step: int, bias_std: float, spread_ratio: float, coverage: float
    ) -> None:
        """See ``serve.service.Instruments``."""
        tags = {"series": series, "target": target, "step": str(step)}
        self._gauges.set(RESIDUAL_BIAS_STD, bias_std, **tags)
        self._gauges.set(RESIDUAL_SPREAD_RATIO, spread_ratio, **tags)
        self._gauges.set(INTERVAL_COVERAGE, coverage, **tags)

    def _repeat(self) -> None:
        while True:
            if ray_is_up():
                self._gauges.push()
            time.sleep(REPEAT_S)


class NullInstruments:
    """Implements ``serve.service.Instruments`` by nothing, for where there is no Ray."""

    def request(self, *, route: str, outcome: str, seconds: float) -> None:
        """Ignore it."""

    def batch(self, *, size: int, waited_s: float, compute_s: float) -> None:
        """Ignore it."""

    def queue(self, depth: int) -> None:
        """Ignore it."""

    def model(self, *, wanted: str, loaded: str) -> None:
        """Ignore it."""

    def swap(self, *, outcome: str, lag_s: float) -> None:
        """Ignore it."""

    def predictions_lost(self, rows: int) -> None:
        """Ignore it."""

    def drift(self, *, series: str, column: str, psi: float) -> None:
        """Ignore it."""

    def residuals(
        self, *, series: str, target: str, step: int, bias_std: float, spread_ratio: float, coverage: float
    ) -> None:
        """Ignore it."""
