"""What a run tells Prometheus: one figure for each thing that a person watching it asks. All have the label ``run``.

Gauges end with the run, or with what they speak of; Ray's agent forgets them some 20 s after a driver that was killed.
Counters stay as long as the node. Moments are told rather than ages, so that they age even if nobody is left to tell.
"""

from __future__ import annotations

from flts_ray.telemetry.figures import Figure


def _gauge(name: str, meaning: str, *tags: str) -> Figure:
    return Figure(name=name, kind="gauge", meaning=meaning, tags=tags)


def _counter(name: str, meaning: str, *tags: str) -> Figure:
    return Figure(name=name, kind="counter", meaning=meaning, tags=tags)


RUN_INFO = _gauge("flts_run_info", "1: who the run is.", "attempt", "submission", "dataset")
RUN_SEEN = _gauge("flts_run_seen_timestamp_seconds", "When the driver was last at work (Unix time).", "attempt")
RUN_ENDS = _counter("flts_run_ends", "Attempts that ended, and how.", "attempt", "outcome", "exit_code")
DRIVER_MEMORY = _gauge("flts_driver_memory_bytes", "Resident memory of the driver.")

STAGE_START = _gauge("flts_stage_start_timestamp_seconds", "When the stage under way began (Unix time).", "stage")
STAGE_LIMIT = _gauge("flts_stage_limit_seconds", "How long the stage under way may take.", "stage")
STAGE_SECONDS = _gauge("flts_stage_seconds", "How long a stage took that is done.", "stage")

BEAT = _gauge("flts_beat_timestamp_seconds", "When a fit at work was last heard of (Unix time).", "candidate")
PROGRESS = _gauge("flts_progress_timestamp_seconds", "When it last had anything new to tell (Unix time).", "candidate")
STALL_LIMIT = _gauge("flts_stall_limit_seconds", "Silence after which the watchdog acts.")
STALLS = _counter("flts_stalls", "Processes that the watchdog found hanging.", "candidate")
RESTARTS = _counter("flts_restarts", "Times that workers or a fit were begun again.", "candidate")
CANDIDATES_FAILED = _counter("flts_candidates_failed", "Candidates that ended without a fit.", "candidate")

EPOCH = _gauge("flts_epoch", "Epochs done.", "candidate")
EPOCHS = _gauge("flts_epochs", "Epochs allowed.", "candidate")
TRAIN_LOSS = _gauge("flts_train_loss", "Mean training loss of the last epoch, in model units.", "candidate")
VAL_LOSS = _gauge("flts_val_loss", "The same loss on the validation tail.", "candidate")
VAL_COMPOSITE = _gauge("flts_val_composite", "Composite score on the validation tail; lower is better.", "candidate")
VAL_RMSE = _gauge("flts_val_rmse_bits", "RMSE on the validation tail, in the target's unit.", "candidate")
WINDOWS_PER_S = _gauge("flts_windows_per_second", "Training windows a second, over all workers.", "candidate")
WORKER_MEMORY = _gauge("flts_worker_memory_bytes", "Resident memory of a worker.", "candidate", "rank")
ACCELERATOR_MEMORY = _gauge(
    "flts_worker_accelerator_bytes", "Memory that its tensors hold on its accelerator.", "candidate", "rank"
)

TASKS_DONE = _gauge(
    "flts_tasks_done", "Prophet fits, trials of a sweep, windows of a backtest that ended, failed or not.", "candidate"
)
TASKS_FAILED = _gauge("flts_tasks_failed", "Those of them that failed.", "candidate")
TASKS_RUNNING = _gauge("flts_tasks_running", "Those at work.", "candidate")
TASKS_EXPECTED = _gauge("flts_tasks_expected", "How many there will be.", "candidate")
SWEEP_BEST = _gauge("flts_sweep_best_val_composite", "Best composite score of a sweep so far.")

TRACKER_DOWN = _gauge("flts_tracker_down", "1 while the breaker keeps the run away from a tracker that fails.")
TRACKER_BACKLOG = _gauge("flts_tracker_backlog", "Records in the run's journal that are not delivered yet.")
STORAGE_DOWN = _gauge("flts_storage_down", "1 while the driver waits for a store that does not answer.")
STORAGE_OUTAGES = _counter("flts_storage_outages", "Times that the driver had to wait for the store.")

OF_A_FIT = (BEAT, PROGRESS, WINDOWS_PER_S, WORKER_MEMORY, ACCELERATOR_MEMORY, TASKS_RUNNING)
"""What ends with the fit; what it came to stays until the run ends."""

FIGURES = tuple(value for value in tuple(globals().values()) if isinstance(value, Figure))
