"""The child runs of one pipeline run: opened together, fed while candidates train, each ended with its own status."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from flts_ray.errors import StorageError, TrackingError
from flts_ray.tracking.run import TrackedRun

EPOCH_METRICS = (
    "train_loss_scaled",
    "val_loss_scaled",
    "val_rmse_scaled",
    "val_rmse_bits",
    "val_mae_bits",
    "val_composite",
    "lr",
    "windows_per_s",
    "rss_mb",
)


class CandidateRuns:
    """One child run a candidate. Use as a context manager: whatever is still open at the end is ended."""

    def __init__(self, parent: TrackedRun, kinds: Sequence[str]) -> None:
        """Prepare children of ``parent`` for these kinds."""
        self._parent = parent
        self._kinds = kinds
        self._stacks: dict[str, ExitStack] = {}
        self._runs: dict[str, TrackedRun] = {}
        self._trouble: StorageError | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        try:
            for kind in self._kinds:
                stack = ExitStack()
                self._runs[kind] = stack.enter_context(self._parent.child(kind, tags={"kind": kind}))
                self._stacks[kind] = stack
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in list(self._stacks):
            self._stacks.pop(name).__exit__(kind, error, trace)

    def __getitem__(self, kind: str) -> TrackedRun:
        return self._runs[kind]

    def beat(self, beat: Mapping[str, Any]) -> None:
        """Take a heartbeat; the end of an epoch becomes metrics. Trouble with the disk is kept for :meth:`check`."""
        if beat.get("stage") != "epoch" or beat["candidate"] not in self._runs:
            return
        with self._lock:
            if self._trouble is None:
                try:
                    self._log_epoch(str(beat["candidate"]), beat, at_ms=int(beat["time_ms"]))
                except StorageError as error:
                    self._trouble = error

    def log_history(self, kind: str, history: Sequence[Mapping[str, float]]) -> None:
        """Log epochs that may not have arrived as heartbeats; those that have are left out by the run itself."""
        for metrics in history:
            self._log_epoch(kind, metrics, at_ms=None)

    def fail(self, kind: str, reason: str) -> None:
        """End one child as FAILED, with the reason as a tag."""
        self._runs[kind].set_tags({"failure": reason[:5000]})
        failure = TrackingError(reason)
        self._stacks.pop(kind).__exit__(type(failure), failure, None)

    def check(self) -> None:
        """Raise what went wrong while heartbeats were recorded.

        Raises:
            StorageError: The first trouble.
        """
        if self._trouble is not None:
            raise self._trouble

    def _log_epoch(self, kind: str, metrics: Mapping[str, Any], *, at_ms: int | None) -> None:
        values = {name: float(metrics[name]) for name in EPOCH_METRICS if name in metrics}
        self._runs[kind].log_metrics(values, step=int(metrics["epoch"]), at_ms=at_ms)
