"""Job: forecast whole files with the champion (``flts forecast``)."""

from __future__ import annotations

from jobs.entry import Job, run_job

if __name__ == "__main__":
    run_job(Job.FORECAST)
