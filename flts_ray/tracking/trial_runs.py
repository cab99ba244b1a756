"""The child runs of a sweep: one a trial, opened when it begins, fed as it goes, ended as it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Protocol, Self

from flts_ray.errors import TrackingError
from flts_ray.tracking.candidate_runs import EPOCH_METRICS
from flts_ray.tracking.run import TrackedRun

CUT_OFF = 5000
"""Characters of a reason that are kept as a tag."""


class TrialLike(Protocol):
    """What is read of a trial; see :class:`flts_ray.training.sweep_ledger.Trial`."""

    @property
    def number(self) -> int:
        """In the order in which trials were begun."""

    @property
    def key(self) -> str:
        """Digest of the combination."""

    @property
    def params(self) -> Mapping[str, bool | int | float | str]:
        """The combination."""

    @property
    def state(self) -> str:
        """``running``, ``finished``, ``stopped`` or ``failed``."""

    @property
    def reason(self) -> str:
        """Why it failed."""

    @property
    def history(self) -> Sequence[Mapping[str, float]]:
        """One mapping an epoch."""

    @property
    def best(self) -> float | None:
        """Lowest validation composite."""


class TrialRuns:
    """Keeps the children of one run. Use as a context manager: whatever is still open at the end is ended.

    A trial that an earlier attempt at the run has recorded is found again; what was said of it is not said twice.
    """

    def __init__(self, parent: TrackedRun) -> None:
        """Prepare children of ``parent``."""
        self._parent = parent
        self._stacks: dict[str, ExitStack] = {}
        self._runs: dict[str, TrackedRun] = {}
        self._told: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for key in list(self._stacks):
            self._stacks.pop(key).__exit__(kind, error, trace)

    def take(self, trial: TrialLike) -> None:
        """Record what is new of a trial.

        Raises:
            StorageError: If the disk refuses.
        """
        if trial.key not in self._stacks:
            self._open(trial)
        run = self._runs[trial.key]
        for metrics in trial.history[self._told[trial.key] :]:
            values = {name: float(metrics[name]) for name in EPOCH_METRICS if name in metrics}
            run.log_metrics(values, step=int(metrics["epoch"]))
        self._told[trial.key] = max(self._told[trial.key], len(trial.history))
        if trial.state != "running":
            self._end(trial)

    def _open(self, trial: TrialLike) -> None:
        stack = ExitStack()
        tags = {"kind": "trial", "cell": str(trial.params["cell"]), "trial": str(trial.number)}
        run = stack.enter_context(self._parent.child(f"trial-{trial.key}", tags=tags))
        self._stacks[trial.key], self._runs[trial.key], self._told[trial.key] = stack, run, 0
        run.log_params(dict(trial.params))

    def _end(self, trial: TrialLike) -> None:
        run, stack = self._runs[trial.key], self._stacks.pop(trial.key)
        run.set_tags({"state": trial.state, "stopped_early": str(trial.state == "stopped").lower()})
        if trial.best is not None:
            run.log_metrics({"best_val_composite": trial.best}, step=len(trial.history))
        if trial.state == "failed":
            run.set_tags({"failure": trial.reason[:CUT_OFF]})
            failure = TrackingError(trial.reason)
            stack.__exit__(type(failure), failure, None)
        else:
            stack.close()
