"""Job: score the fitted candidates of a dataset and promote the best (``flts evaluate --dataset``)."""

from __future__ import annotations

from jobs.entry import Job, run_job

if __name__ == "__main__":
    run_job(Job.EVALUATE)
