"""The trials of a sweep, as they are kept: one JSON document a trial, so that a killed sweep loses none."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from flts_ray.candidates import MODEL_FORMAT
from flts_ray.config import Section, Settings, canonical_digest
from flts_ray.config_experiments import Scalar
from flts_ray.data.storage import Store
from flts_ray.errors import IntegrityError, TrainingError
from flts_ray.models.recurrent import Cell
from flts_ray.training.sweep_space import CELL, applied

State = Literal["running", "finished", "stopped", "failed"]


class Trial(Section):
    """One combination and how far it came.

    Attributes:
        number: In the order in which they were begun, from 1.
        key: Digest of the combination; names its checkpoints.
        params: The network under ``cell``, and settings by dotted name.
        state: ``finished``: ran its epochs or its patience; ``stopped``: ended for being worse than others.
        reason: Why it failed.
        again: Whether it failed for a reason that lies outside it, so that a resumed sweep tries it again.
        history: One mapping an epoch, as in ``EpochMetrics``.
    """

    number: int
    key: str
    params: dict[str, Scalar]
    state: State = "running"
    reason: str = ""
    again: bool = False
    history: tuple[dict[str, float], ...] = ()

    @property
    def cell(self) -> Cell:
        """The network."""
        return "gru" if self.params[CELL] == "gru" else "lstm"

    @property
    def ended(self) -> bool:
        """Whether it is not to be run (again)."""
        return self.state in ("finished", "stopped") or (self.state == "failed" and not self.again)

    @property
    def best(self) -> float | None:
        """Lowest validation composite so far, in scaled units."""
        return min((metrics["val_composite"] for metrics in self.history), default=None)

    @property
    def best_epoch(self) -> int:
        """Epoch of that, the first one if several tie; 0 without epochs."""
        if not self.history:
            return 0
        return int(min(self.history, key=lambda metrics: metrics["val_composite"])["epoch"])


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """A sweep that has ended.

    Attributes:
        sweep_id: Digest of the dataset and of everything that shapes the sweep.
        dataset_id: What the trials learnt from; only its train rows were read.
        settings: What the combinations were laid over.
        trials: All of them, in the order in which they were begun.
    """

    sweep_id: str
    dataset_id: str
    settings: Settings
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The trial with the lowest validation composite.

        Raises:
            TrainingError: If every trial failed.
        """
        scored = [(trial.best, trial.number, trial) for trial in self.trials if trial.ended and trial.best is not None]
        if not scored:
            reason = next((trial.reason for trial in self.trials if trial.reason), "no trial was run")
            raise TrainingError(
                f"none of {len(self.trials)} trials of sweep {self.sweep_id} could be trained; the first reason: "
                f"{reason}"
            )
        return min(scored)[2]

    @property
    def best_settings(self) -> Settings:
        """The settings with the best combination laid over them."""
        return applied(self.settings, self.best.params)

    def document(self) -> dict[str, Any]:
        """The sweep as JSON, best trial first."""
        ranked = sorted(self.trials, key=lambda trial: (trial.best is None, trial.best or 0.0, trial.number))
        return {
            "sweep_id": self.sweep_id,
            "dataset_id": self.dataset_id,
            "best": self.best.number,
            "space": {name: tried.model_dump(mode="json") for name, tried in self.settings.tune.space.items()},
            "trials": [
                {
                    "val_composite": trial.best,
                    "best_epoch": trial.best_epoch,
                    "epochs": len(trial.history),
                    **trial.model_dump(mode="json", exclude={"again"}),
                }
                for trial in ranked
            ],
        }


def sweep_id(dataset_id: str, settings: Settings) -> str:
    """Twelve hex digits: a digest of the dataset and of every setting that shapes the trials.

    How many trials are wanted is none of these: a sweep can be gone on with by asking for more.
    """
    shaping = {
        "format": MODEL_FORMAT,
        "dataset_id": dataset_id,
        "seed": settings.seed,
        "windows": settings.windows.model_dump(mode="json"),
        "recurrent": settings.recurrent.model_dump(mode="json"),
        "training": settings.training.model_dump(mode="json", exclude={"cpus_per_worker", "max_failures", "workers"}),
        "tune": settings.tune.model_dump(mode="json", exclude={"trials", "concurrent", "deadline_s"}),
    }
    return canonical_digest(shaping)[:12]


@dataclass
class Ledger:
    """All trials of one sweep, in memory and in the store.

    Attributes:
        store: Where datasets and checkpoints lie too.
        sweep: The sweep's id.
        trials: By key.
    """

    store: Store
    sweep: str
    trials: dict[str, Trial] = field(default_factory=dict)

    @classmethod
    def open(cls, store: Store, sweep: str) -> Self:
        """Read what earlier attempts have kept.

        Raises:
            IntegrityError: If a document is damaged.
            StorageError: If the store does not answer.
        """
        ledger = cls(store, sweep)
        place = store.child(ledger.folder)
        for name in place.list():
            try:
                trial = Trial.model_validate(json.loads(place.read_bytes(name)))
            except ValueError as error:
                raise IntegrityError(
                    f"{place.uri_of(name)} is damaged ({error}): delete it, so that the trial is run again"
                ) from error
            ledger.trials[trial.key] = trial
        return ledger

    @property
    def folder(self) -> str:
        """Where the documents lie in the store."""
        return f"sweeps/{self.sweep}"

    def keep(self, trial: Trial) -> None:
        """Take a new or changed trial, durably."""
        self.trials[trial.key] = trial
        self.store.write_bytes(f"{self.folder}/{trial.key}.json", trial.model_dump_json(indent=1).encode())

    def forget(self) -> None:
        """Remove everything, so that the sweep begins anew."""
        self.remove_checkpoints(self.in_order())
        self.store.delete(self.folder)
        self.trials.clear()

    def checkpoints(self, trial: Trial) -> Store:
        """Where a trial keeps its state after each epoch."""
        return self.store.child(f"checkpoints/{self.checkpoint_name(trial)}")

    def checkpoint_name(self, trial: Trial) -> str:
        """Name of a trial's checkpoints among all."""
        return f"sweep-{self.sweep}-{trial.key}"

    def remove_checkpoints(self, trials: Sequence[Trial]) -> None:
        """Free what trials kept that nobody will continue."""
        for trial in trials:
            self.store.delete(f"checkpoints/{self.checkpoint_name(trial)}")

    def in_order(self) -> tuple[Trial, ...]:
        """The trials as they were begun."""
        return tuple(sorted(self.trials.values(), key=lambda trial: trial.number))

    def ended(self) -> Iterator[Trial]:
        """Those that are not to be run (again)."""
        return (trial for trial in self.trials.values() if trial.ended)
