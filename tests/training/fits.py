"""A small dataset, its training by the plain loop, and trainings under Ray to hold against that."""

from __future__ import annotations

import os
import signal
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flts_ray.config import Settings
from flts_ray.data.dataset import Dataset
from flts_ray.data.storage import Store
from flts_ray.telemetry.heartbeat import Beat, Pulse
from flts_ray.training import worker
from flts_ray.training.fit import FittedRecurrent
from flts_ray.training.relay import Relay, end, look_at
from flts_ray.training.trainer import fit_on_ray
from flts_ray.training.watchdog import Watchdog

EPOCHS = 5
WORKER = worker.train_worker
Event = tuple[str, dict[str, Any]]
CLOCKS = ("seconds", "windows_per_s", "rss_mb")


@dataclass(frozen=True)
class Setup:
    store: Store
    dataset: Dataset
    settings: Settings

    def fit(
        self,
        name: str,
        *,
        workers: int = 1,
        dataset_id: str = "",
        stall_timeout_s: float = 300.0,
        beats: list[Beat] | None = None,
        **training: Any,
    ) -> tuple[FittedRecurrent, list[Beat]]:
        """Train on Ray, under watch; also the heartbeats."""
        beats = [] if beats is None else beats
        pulse = Pulse([beats.append])
        changed = {
            "training": self.settings.training.model_copy(update={"workers": workers, **training}),
            "watchdog": self.settings.watchdog.model_copy(update={"stall_timeout_s": stall_timeout_s}),
        }
        with Relay(pulse.beat) as relay, Watchdog(pulse, look=look_at, kill=end) as watchdog:
            fitted = fit_on_ray(
                "gru",
                store=self.store,
                dataset_id=dataset_id or self.dataset.dataset_id,
                settings=self.settings.model_copy(update=changed),
                run_name=name,
                relay=relay,
                watchdog=watchdog,
            )
        return fitted, beats


def numbers(fitted: FittedRecurrent) -> list[dict[str, float]]:
    """The history without what a clock measured."""
    return [{k: v for k, v in asdict(metrics).items() if k not in CLOCKS} for metrics in fitted.result.history]


def weights(fitted: FittedRecurrent) -> dict[str, np.ndarray]:
    return dict(fitted.forecaster.state()[1])


def assert_same_bits(one: FittedRecurrent, other: FittedRecurrent) -> None:
    assert numbers(one) == numbers(other)
    assert one.forecaster.state()[0] == other.forecaster.state()[0]
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    assert mine
    for name, values in mine.items():
        assert values.tobytes() == theirs[name].tobytes(), name


def epochs_of(beats: list[Beat]) -> list[tuple[str, int]]:
    return [(beat["stage"], beat["epoch"]) for beat in beats if beat["stage"] in ("resumed", "epoch")]


class MortalWorker:
    """Stands in for the body of a worker: its process dies at the end of some epochs, once each.

    Args:
        folder: Where it is remembered what has happened.
        epochs: When to die.
    """

    def __init__(self, folder: Path, *epochs: int) -> None:
        for epoch in epochs:
            (folder / f"die-{epoch}").touch()
        self.folder = folder

    def __call__(self, config: dict[str, Any]) -> dict[str, Any]:
        own_epoch = worker.Progress.epoch

        def epoch(progress: Any, metrics: Any, capture: Any) -> None:
            flag = self.folder / f"die-{metrics.epoch}"
            if flag.exists():
                flag.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            own_epoch(progress, metrics, capture)

        worker.Progress.epoch = epoch  # type: ignore[method-assign]
        return WORKER(config)
