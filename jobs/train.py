"""Job: fit the candidates of a dataset, or of sources (``flts train``)."""

from __future__ import annotations

from jobs.entry import Job, run_job

if __name__ == "__main__":
    run_job(Job.TRAIN)
