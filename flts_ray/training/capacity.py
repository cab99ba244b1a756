"""Run fits side by side while CPUs last, and one after another when they do not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job(Generic[T]):
    """One fit and the CPUs it holds while it runs."""

    name: str
    cpus: float
    run: Callable[[], T]


def run_jobs(jobs: Sequence[Job[T]], cpus: float) -> dict[str, T | Exception]:
    """Run every job; no two ever wait for each other's CPUs.

    A job starts, in the order given, as soon as its CPUs are free; a later, smaller one may overtake. A job
    that needs more than there are runs alone. What a job raises is its result.

    Args:
        jobs: With distinct names.
        cpus: CPUs to share.

    Returns:
        Per name, what the job returned or the exception it raised.
    """
    waiting = list(jobs)
    running: dict[Future[T], Job[T]] = {}
    results: dict[str, T | Exception] = {}
    stop = threading.Event()

    def guarded(job: Job[T]) -> T:
        if stop.is_set():
            raise RuntimeError(f"{job.name} was not started because the run was interrupted")
        return job.run()

    with ThreadPoolExecutor(max_workers=max(1, len(jobs)), thread_name_prefix="fit") as pool:
        try:
            while waiting or running:
                free = cpus - sum(job.cpus for job in running.values())
                for job in list(waiting):
                    if job.cpus <= free or not running:
                        waiting.remove(job)
                        running[pool.submit(guarded, job)] = job
                        free -= job.cpus
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    job = running.pop(future)
                    error = future.exception()
                    if error is not None and not isinstance(error, Exception):
                        raise error
                    results[job.name] = error if error is not None else future.result()
        except BaseException:
            stop.set()
            raise
    return {job.name: results[job.name] for job in jobs}
