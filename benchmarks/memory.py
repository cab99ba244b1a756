"""How much memory the workers of this process's Ray take at most, sampled while something runs."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import psutil

SAMPLE_EVERY_S = 0.05


class PeakMemory:
    """Samples the resident memory of every Ray worker below this process. Use as a context manager.

    Attributes:
        worker_mb: The most that one worker held, in MB (1e6 bytes).
        total_mb: The most that all workers held at one time.
    """

    def __init__(self) -> None:
        self.worker_mb = self.total_mb = 0.0
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._sample, name="peak-memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        stopped = False
        while not stopped:
            stopped = self._stop.wait(SAMPLE_EVERY_S)
            sizes = [size for worker in _workers() if (size := _resident_mb(worker)) is not None]
            self.worker_mb = max([self.worker_mb, *sizes])
            self.total_mb = max(self.total_mb, sum(sizes))


def _workers() -> list[psutil.Process]:
    return [process for process in psutil.Process().children(recursive=True) if _is_worker(process)]


def _is_worker(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[:1] != [] and process.cmdline()[0].startswith("ray::")
    except psutil.Error:  # it has ended
        return False


def _resident_mb(process: psutil.Process) -> float | None:
    try:
        return float(process.memory_info().rss) / 1e6
    except psutil.Error:
        return None
