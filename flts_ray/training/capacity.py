"""Run fits side by side while CPUs last, and one after another when they do not."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job(Generic[T]):
    """One fit and the CPUs it holds while it runs."""

    name: str
    cpus: float
    run: Callable[[], T]


def run_jobs(
    jobs: Sequence[Job[T]], cpus: float, *, on_idle: Callable[[float], None] = lambda cpus: None
) -> dict[str, T | Exception]:
    """Run every job; no two ever wait for each other's CPUs.

    A job starts, in the order given, as soon as its CPUs are free; a later, smaller one may overtake. A job
    that needs more than there are runs alone. What a job raises is its result. An interruption of the caller
    (KeyboardInterrupt, SystemExit) is raised at once: jobs that run are left to themselves, on daemon threads, so
    the caller must take away what they work with.

    Args:
        jobs: With distinct names.
        cpus: CPUs to share.
        on_idle: Told, whenever it changes, how many CPUs no job holds and none waits for: a job that can use more
            than it asked for may take these.

    Returns:
        Per name, what the job returned or the exception it raised.
    """
    waiting = list(jobs)
    running: dict[str, Job[T]] = {}
    results: dict[str, T | Exception] = {}
    done: queue.SimpleQueue[tuple[str, T | BaseException]] = queue.SimpleQueue()

    def work(job: Job[T]) -> None:
        try:
            done.put((job.name, job.run()))
        except BaseException as error:  # noqa: BLE001 (handed to the caller, who raises or returns it)
            done.put((job.name, error))

    while waiting or running:
        free = cpus - sum(job.cpus for job in running.values())
        for job in list(waiting):
            if job.cpus <= free or not running:
                waiting.remove(job)
                running[job.name] = job
                free -= job.cpus
                here = contextvars.copy_context()  # so that its spans are children of what is open here
                threading.Thread(target=here.run, args=(work, job), name=f"fit-{job.name}", daemon=True).start()
        on_idle(0.0 if waiting else max(0.0, free))
        name, result = done.get()
        del running[name]
        if isinstance(result, BaseException) and not isinstance(result, Exception):
            raise result
        results[name] = result
    return {job.name: results[job.name] for job in jobs}
