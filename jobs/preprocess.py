"""Job: turn the sources into a dataset (``flts preprocess``)."""

from __future__ import annotations

from jobs.entry import Job, run_job

if __name__ == "__main__":
    run_job(Job.PREPROCESS)
