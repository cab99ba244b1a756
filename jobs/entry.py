"""What all jobs share: each is a command of ``flts`` whose answer is one JSON document at the end of stdout."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum

from flts_ray.cli import main


class Job(StrEnum):
    """The jobs, by the name of their module in this package."""

    PREPROCESS = "preprocess"
    TRAIN = "train"
    EVALUATE = "evaluate"
    TUNE = "tune"
    FORECAST = "forecast"
    PIPELINE = "pipeline"

    @property
    def command(self) -> str:
        """The command of ``flts`` that the job runs."""
        return "run" if self is Job.PIPELINE else self.value


def run_job(job: Job, arguments: Sequence[str] | None = None) -> None:
    """Run a job to its end; the process takes the exit code of its command.

    Args:
        job: Which.
        arguments: Those of its command; those of the process if None.
    """
    given = sys.argv[1:] if arguments is None else arguments
    main([job.command, "--json", *given])
