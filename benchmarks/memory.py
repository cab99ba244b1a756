"""How much memory this process, or the workers of its Ray, take, sampled while something runs."""

from __future__ import annotations

import statistics
import threading
from types import TracebackType
from typing import Self

import psutil

SAMPLE_EVERY_S = 0.05


class Sampler:
    """Looks at memory again and again while something runs. Use as a context manager."""

    every_s = SAMPLE_EVERY_S

    def __init__(self) -> None:
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._sample, name="memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def look(self) -> None:
        """Take one sample."""
        raise NotImplementedError

    def _sample(self) -> None:
        stopped = False
        while not stopped:
            stopped = self._stop.wait(self.every_s)
            self.look()


class PeakMemory(Sampler):
    """Samples the resident memory of every Ray worker below this process.

    Attributes:
        worker_mb: The most that one worker held, in MB (1e6 bytes).
        total_mb: The most that all workers held at one time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.worker_mb = self.total_mb = 0.0

    def look(self) -> None:
        sizes = [size for worker in _workers() if (size := _resident_mb(worker)) is not None]
        self.worker_mb = max([self.worker_mb, *sizes])
        self.total_mb = max(self.total_mb, sum(sizes))


class Resident(Sampler):
    """Samples the resident memory of this process and of all below it.

    Attributes:
        total_mb: One sum a sample, in MB (1e6 bytes).
    """

    every_s = 0.25

    def __init__(self) -> None:
        super().__init__()
        self.total_mb: list[float] = []

    @property
    def growth(self) -> float:
        """Median of the last quarter over that of the second: the first is processes starting."""
        quarter = max(1, len(self.total_mb) // 4)
        second, last = self.total_mb[quarter : 2 * quarter] or self.total_mb, self.total_mb[-quarter:]
        return statistics.median(last) / statistics.median(second)

    def look(self) -> None:
        this = psutil.Process()
        sizes = (_resident_mb(process) for process in (this, *this.children(recursive=True)))
        self.total_mb.append(sum(size for size in sizes if size is not None))


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
