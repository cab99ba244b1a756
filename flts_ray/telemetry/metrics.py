"""The figures of one run, made of its heartbeats and events, handed to Ray by a thread of their own.

Whoever trains, tracks or stores tells the log and the pulse as before: this only listens. Nothing here waits for Ray,
and nothing that goes wrong here reaches the run.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from flts_ray.config import Settings
from flts_ray.errors import FltsError
from flts_ray.telemetry import run_figures as of
from flts_ray.telemetry.figures import ray_is_up
from flts_ray.telemetry.heartbeat import PLACE, Beat
from flts_ray.telemetry.logging import LOGGER
from flts_ray.telemetry.memory import rss_mb
from flts_ray.telemetry.readings import Readings

PUSH_EVERY_S = 2.0
"""Ray itself sends what it has every 10 s."""

STOP_S = 5.0
RUN = "run"
"""The candidate in beats that tell of stages."""

OVER = ("fitted", "waiting")
"""Stages of a candidate that is no longer, or not yet, at work."""

AGAIN = frozenset({"workers_restarting", "fit_interrupted", "prophet_retry"})
COUNTS = {"done": of.TASKS_DONE, "failed": of.TASKS_FAILED, "running": of.TASKS_RUNNING, "total": of.TASKS_EXPECTED}
OF_AN_EPOCH = {
    "epoch": of.EPOCH,
    "train_loss_scaled": of.TRAIN_LOSS,
    "val_loss_scaled": of.VAL_LOSS,
    "val_composite": of.VAL_COMPOSITE,
    "val_rmse_bits": of.VAL_RMSE,
}
SWITCHES = {
    "tracker_down": (of.TRACKER_DOWN, 1),
    "tracking_failed": (of.TRACKER_DOWN, 1),
    "tracker_back": (of.TRACKER_DOWN, 0),
    "storage_retry": (of.STORAGE_DOWN, 1),
    "storage_recovered": (of.STORAGE_DOWN, 0),
}


class RunMetrics:
    """Figures of one attempt at a run. Use as a context manager inside the Ray session, around the work.

    Args:
        run_id: Label ``run`` of everything.
        settings: Limits and budgets that are told beside what is measured.
        attempt: Which attempt this is.
        submission: Name of the job, if a cluster gave it one.
        readings: Where the figures go.
        is_up: Whether there is a Ray to hand them to.
        clock: Unix time in seconds.

    Attributes:
        readings: The present values.
    """

    def __init__(
        self,
        run_id: str,
        settings: Settings,
        *,
        attempt: int = 1,
        submission: str = "",
        readings: Readings | None = None,
        is_up: Callable[[], bool] = ray_is_up,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.readings = Readings(run=run_id) if readings is None else readings
        self._settings, self._attempt, self._submission = settings, str(attempt), submission
        self._is_up, self._clock = is_up, clock
        self._backlog: Callable[[], int] | None = None
        self._places: dict[tuple[str, Any], tuple[Any, ...]] = {}
        self._over: set[str] = set()
        self._ear = _Ear(self.hear)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="run-metrics", daemon=True)
        self._complained = False

    def __enter__(self) -> Self:
        self.readings.set(of.STALL_LIMIT, self._settings.watchdog.stall_timeout_s)
        LOGGER.addHandler(self._ear)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        LOGGER.removeHandler(self._ear)
        outcome, code = _ending(error)
        self.readings.add(of.RUN_ENDS, attempt=self._attempt, outcome=outcome, exit_code=code)
        self._stop.set()
        self._thread.join(STOP_S)

    def follow(self, backlog: Callable[[], int]) -> None:
        """From now on, tell how many records the tracker has not got yet."""
        self._backlog = backlog
        self.readings.set(of.TRACKER_DOWN, 0)

    def beat(self, beat: Beat) -> None:
        """Take one heartbeat; a listener of :class:`flts_ray.telemetry.heartbeat.Pulse`."""
        name, stage = str(beat["candidate"]), str(beat["stage"])
        if name == RUN:
            return  # stages are told by events, with their limits
        if stage in OVER:
            self._over.add(name)
            self.readings.end(*of.OF_A_FIT, candidate=name)
            return
        if name in self._over and "rank" in beat:
            return  # of a worker that ended: its beat was still on its way
        self._over.discard(name)
        now = self._clock()
        self.readings.set(of.BEAT, now, candidate=name)
        place, sender = tuple(beat.get(field) for field in PLACE), (name, beat.get("rank"))
        if self._places.get(sender) != place:
            self._places[sender] = place
            self.readings.set(of.PROGRESS, now, candidate=name)
        self._numbers(name, stage, beat)

    def hear(self, name: str, fields: Mapping[str, Any]) -> None:
        """Take one event."""
        candidate = str(fields.get("candidate", "prophet"))  # a retry names its series instead
        if name in SWITCHES:
            self.readings.set(*SWITCHES[name])
        if name == "storage_retry":
            self.readings.add(of.STORAGE_OUTAGES)
        elif name == "stalled":
            self.readings.add(of.STALLS, candidate=candidate)
        elif name in AGAIN:
            self.readings.add(of.RESTARTS, candidate=candidate)
        elif name == "candidate_failed":
            self.readings.add(of.CANDIDATES_FAILED, candidate=candidate)
            self._over.add(candidate)
            self.readings.end(*of.OF_A_FIT, candidate=candidate)
        elif name == "run_started":
            who = {"attempt": self._attempt, "submission": self._submission, "dataset": str(fields["dataset_id"])}
            self.readings.set(of.RUN_INFO, 1, **who)
        elif name == "stage_started":
            self._end_stage()
            stage = str(fields["stage"])
            self.readings.set(of.STAGE_START, self._clock(), stage=stage)
            if fields.get("limit_s") is not None:
                self.readings.set(of.STAGE_LIMIT, float(fields["limit_s"]), stage=stage)
        elif name == "stage_done":
            self._end_stage()
            self.readings.set(of.STAGE_SECONDS, float(fields["seconds"]), stage=str(fields["stage"]))

    def _end_stage(self) -> None:
        """No fit outlives the stage that it belongs to."""
        self.readings.end(of.STAGE_START, of.STAGE_LIMIT, *of.OF_A_FIT)
        self._over.update(name for name, _ in self._places)

    def _numbers(self, name: str, stage: str, beat: Beat) -> None:
        if "rss_mb" in beat and "rank" in beat:
            rank = str(beat["rank"])
            self.readings.set(of.WORKER_MEMORY, float(beat["rss_mb"]) * 1e6, candidate=name, rank=rank)
            if beat.get("gpu_mb"):
                self.readings.set(of.ACCELERATOR_MEMORY, float(beat["gpu_mb"]) * 1e6, candidate=name, rank=rank)
        if "windows_per_s" in beat and beat.get("rank", 0) == 0:  # the rate of all workers, by the first one's clock
            self.readings.set(of.WINDOWS_PER_S, float(beat["windows_per_s"]), candidate=name)
        if stage == "epoch":
            for field, figure in OF_AN_EPOCH.items():
                self.readings.set(figure, float(beat[field]), candidate=name)
            self.readings.set(of.EPOCHS, self._settings.training.epochs, candidate=name)
        if "total" in beat:
            for field, figure in COUNTS.items():
                if field in beat:
                    self.readings.set(figure, float(beat[field]), candidate=name)
            if beat.get("best") is not None:
                self.readings.set(of.SWEEP_BEST, float(beat["best"]))

    def _run(self) -> None:
        while not self._stop.wait(PUSH_EVERY_S):
            self._tell()
        self.readings.end(*(figure for figure in of.FIGURES if figure.kind == "gauge"))
        self._push()

    def _tell(self) -> None:
        self.readings.set(of.RUN_SEEN, self._clock(), attempt=self._attempt)
        self.readings.set(of.DRIVER_MEMORY, rss_mb() * 1e6)
        if self._backlog is not None:
            self.readings.set(of.TRACKER_BACKLOG, self._backlog())
        self._push()

    def _push(self) -> None:
        if not self._is_up():
            return
        try:
            self.readings.push()
        except Exception:  # noqa: BLE001  whatever Ray makes of it, figures must not end a run
            if not self._complained:
                self._complained = True
                LOGGER.exception("metrics_failed")


class _Ear(logging.Handler):
    """Hands events on."""

    def __init__(self, hear: Callable[[str, Mapping[str, Any]], None]) -> None:
        super().__init__(logging.INFO)
        self._hear = hear

    def emit(self, record: logging.LogRecord) -> None:
        """Hand one event on; heartbeats come another way."""
        if record.msg != "heartbeat":
            try:
                self._hear(record.getMessage(), getattr(record, "fields", {}))
            except (KeyError, TypeError, ValueError):  # an event of that name with other fields
                self.handleError(record)


def _ending(error: BaseException | None) -> tuple[str, str]:
    """How an attempt ended, and the exit code of the error behind it."""
    if error is None:
        return "done", "0"
    if isinstance(error, FltsError):
        return "failed", str(error.exit_code)
    return ("failed", "1") if isinstance(error, Exception) else ("stopped", "")
