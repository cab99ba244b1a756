"""A driver that says everything a run can say, for Prometheus to read: ``python -m tests.monitoring.driver ADDRESS``.

Two runs fail first. The third stays at work, in trouble of every kind, until its standard input is closed.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import ray

from flts_ray.config import Settings
from flts_ray.data.storage import Store
from flts_ray.errors import StorageError
from flts_ray.telemetry.logging import configure, event
from flts_ray.telemetry.metrics import RunMetrics
from serve.instruments import RayInstruments
from tests.serve.test_instruments import exercise
from tests.telemetry.test_metrics import EPOCH, beat, worker

SETTINGS = Settings.model_validate({"data": {"train": ("a.csv",)}})


def say_everything(metrics: RunMetrics) -> None:
    metrics.follow(lambda: 250)
    event("run_started", run_id="r", dataset_id="d0090099bd17c8ec", config_hash="c")
    event("stage_started", stage="preprocess", limit_s=7200.0)
    event("stage_done", stage="preprocess", seconds=3.0)
    event("stage_started", stage="train", limit_s=43200.0)
    metrics.beat(beat("gru", "starting"))
    metrics.beat(worker("epoch", **{**EPOCH, "gpu_mb": 12.0}))
    metrics.beat(beat("prophet", "training", done=7, failed=2, total=20))
    metrics.beat(beat("sweep", "trials", done=9, running=2, failed=3, total=20, best=0.25))
    metrics.beat(beat("backtest", "windows", done=2, total=9))
    event("stalled", candidate="gru", rank=0)
    for _ in range(3):
        event("workers_restarting", candidate="gru")
    event("candidate_failed", candidate="lstm", error="TrainingError", reason="x")
    event("tracker_down", reason="x", retry_s=1)
    event("storage_retry", place="s3://b", reason="x", deadline_s=60)


def read_and_write() -> None:
    """What a worker does to a store."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        store.write_bytes("a/b", bytes(1000))
        store.read_bytes("a/b")


def main(address: str) -> None:
    configure(quiet=True)
    root = str(Path(__file__).resolve().parents[2])
    ray.init(address=address, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": root}})
    exercise(RayInstruments("replica-1"))
    ray.get(ray.remote(read_and_write).remote())
    read_and_write()
    try:
        with RunMetrics("failed", SETTINGS):
            raise StorageError("the store is away")
    except StorageError:
        pass
    with RunMetrics("at-work", SETTINGS, submission="job-1") as metrics:
        say_everything(metrics)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.read()
    ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
