"""Between Ray Tune and the ledger: what to try next, what was heard of each trial, and which are worth going on."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch
from ray.tune.stopper import Stopper

from flts_ray.config import Settings
from flts_ray.errors import FltsError
from flts_ray.redaction import redacted
from flts_ray.telemetry.heartbeat import Pulse
from flts_ray.telemetry.logging import event
from flts_ray.training.checkpoint import newest_checkpoint
from flts_ray.training.sweep_ledger import Ledger, Trial
from flts_ray.training.sweep_space import Params, applied, distributions, first_params, params_key
from flts_ray.training.sweep_worker import EPOCH, METRIC, METRICS, REFUSED, SWEEP

DRAWS = 100
"""Times the search is asked for a combination that has not been tried; then the space counts as used up."""


class Asha(ASHAScheduler):  # type: ignore[misc]
    """Successive halving that can be told of trials of an earlier attempt."""

    def __init__(self, settings: Settings) -> None:
        """Take budget, grace and reduction from the settings."""
        epochs, grace = settings.training.epochs, settings.tune.grace_epochs
        # A Ray Train run whose driver is stopped leaves its placement group behind: such a trial ends by itself.
        first = min(grace, epochs) if settings.training.workers == 1 else epochs + 1
        super().__init__(
            time_attr=EPOCH,
            metric=METRIC,
            mode="min",
            max_t=epochs + 1,  # the last epoch ends a trial anyway
            grace_period=first,
            reduction_factor=settings.tune.reduction_factor,
        )

    def remember(self, trial_id: str, history: Sequence[dict[str, float]]) -> None:
        """Enter the epochs of a trial on the rungs where it was compared then."""
        best = float("inf")
        for metrics in history:
            best = min(best, metrics["val_composite"])
            self._brackets[0].on_result(SimpleNamespace(trial_id=trial_id), metrics["epoch"], -best)


class Desk:
    """The driver's view of a sweep: writes the ledger, tells the pulse and whoever else listens.

    Attributes:
        ledger: The trials.
        settings: Of the sweep.
    """

    def __init__(self, ledger: Ledger, settings: Settings, pulse: Pulse, on_trial: Callable[[Trial], None]) -> None:
        """Tell of what earlier attempts have kept."""
        self.ledger, self.settings = ledger, settings
        self._pulse, self._on_trial = pulse, on_trial
        self._running: dict[str, Trial] = {}  # by Tune's id
        self._trouble: FltsError | None = None
        for trial in ledger.in_order():
            if trial.ended:
                self._on_trial(trial)
        self.beat()

    @property
    def done(self) -> int:
        """Trials that are not to be run (again)."""
        return len(list(self.ledger.ended()))

    def running_numbers(self) -> list[int]:
        """Numbers of the trials that Tune runs just now."""
        return [trial.number for trial in list(self._running.values())]

    def beat(self) -> None:
        """Tell how far the sweep is."""
        ended = list(self.ledger.ended())
        scores = [t.best for t in [*ended, *self._running.values()] if t.best is not None]
        self._pulse.beat(
            {
                "candidate": SWEEP,
                "stage": "trials",
                "done": len(ended),
                "running": len(self._running),
                "failed": sum(trial.state == "failed" for trial in ended),
                "total": self.settings.tune.trials,
                "best": min(scores, default=None),
            }
        )

    def unfinished(self) -> list[Trial]:
        """Trials that an earlier attempt began, with the epochs that their checkpoints hold."""
        found = []
        for trial in self.ledger.in_order():
            if not trial.ended:
                newest = newest_checkpoint(self.ledger.checkpoints(trial))
                history = () if newest is None else tuple(newest[1].meta["history"])
                found.append(trial.model_copy(update={"state": "running", "reason": "", "history": history}))
        return found

    def new(self, params: Params) -> Trial:
        """A trial of a combination that has none yet."""
        number = max((trial.number for trial in self.ledger.trials.values()), default=0) + 1
        trial = Trial(number=number, key=params_key(params), params=params)
        self.ledger.trials[trial.key] = trial
        return trial

    def started(self, trial_id: str, trial: Trial) -> None:
        """A trial begins, or begins again."""
        if trial_id in self._running:
            return
        self._running[trial_id] = trial.model_copy(update={"history": ()})
        self._told(trial)
        event("trial_started", trial=trial.number, params=trial.params, epochs_done=len(trial.history))

    def reported(self, trial_id: str, result: dict[str, Any]) -> None:
        """A trial has ended an epoch, or refused to go on."""
        trial = self._running[trial_id]
        if REFUSED in result:
            self._running[trial_id] = trial.model_copy(update={"reason": str(result[REFUSED])})
            return
        if len(trial.history) < result[EPOCH]:  # a trial that was restarted tells its epochs again
            trial = trial.model_copy(update={"history": (*trial.history, result[METRICS])})
            self._running[trial_id] = trial
            self._on_trial(trial)
            self.beat()

    def ended(self, trial_id: str, reason: str = "") -> None:
        """A trial is over: by itself, stopped, or failed."""
        trial = self._running.pop(trial_id)
        refused = trial.reason
        if refused or reason:
            changed = {"state": "failed", "reason": refused or reason, "again": not refused}
        else:
            changed = {"state": "finished" if self._ran_out(trial) else "stopped"}
        trial = trial.model_copy(update=changed)
        self._told(trial)
        self.beat()
        event(
            "trial_done",
            level=logging.WARNING if trial.state == "failed" else logging.INFO,
            trial=trial.number,
            state=trial.state,
            epochs=len(trial.history),
            val_composite=trial.best,
            **({"reason": trial.reason} if trial.reason else {}),
        )

    def attempt(self, call: Callable[[], None]) -> None:
        """Call; keep what goes wrong for :meth:`check`, since Tune would turn it into text."""
        if self._trouble is None:
            try:
                call()
            except FltsError as error:
                self._trouble = error

    def check(self) -> None:
        """Raise what went wrong.

        Raises:
            FltsError: The first trouble.
        """
        if self._trouble is not None:
            raise self._trouble

    def stopper(self) -> Stopper:
        """Ends the sweep once something went wrong."""
        return _Stopper(self)

    def _told(self, trial: Trial) -> None:
        self.ledger.keep(trial)
        self._on_trial(trial)

    def _ran_out(self, trial: Trial) -> bool:
        training = applied(self.settings, trial.params).training
        stale = len(trial.history) - trial.best_epoch
        return len(trial.history) >= training.epochs or (training.early_stopping and stale >= training.patience)


class Search(Searcher):  # type: ignore[misc]
    """First what is given: unfinished trials, then the settings as they are. Then what Optuna proposes."""

    def __init__(self, desk: Desk, scheduler: Asha) -> None:
        """Teach the search and the scheduler what is known."""
        import optuna

        super().__init__(metric=METRIC, mode="min")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        known = desk.ledger.trials
        # The seed's first draws are those that an earlier attempt has tried already.
        self._space = distributions(desk.settings)
        seed = desk.settings.seed + 1_000 * len(known)
        self._optuna = OptunaSearch(self._space, metric=METRIC, mode="min", seed=seed)
        self._desk, self._scheduler = desk, scheduler
        self._given = deque(desk.unfinished())
        for trial in desk.ledger.ended():
            scheduler.remember(f"known-{trial.key}", trial.history)
            self._teach(trial.params, trial.best)
        for params in first_params(desk.settings):
            if params_key(params) not in known:
                self._given.append(desk.new(params))
        self._by_hand: dict[str, Trial] = {}  # by Tune's id, of which Optuna knows nothing
        self._asked: dict[str, str] = {}  # by Tune's id, the id under which Optuna proposed it

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial as its document, without the epochs that its checkpoint holds."""
        if self._given:
            trial = self._given.popleft()
            self._by_hand[trial_id] = trial
            # It has passed these rungs once: only at its last epoch is it compared again.
            self._scheduler.remember(trial_id, trial.history[:-1])
            return trial.model_dump(mode="json", exclude={"history"})
        for draw in range(DRAWS):
            ask = trial_id if draw == 0 else f"{trial_id}-{draw}"
            params = self._optuna.suggest(ask)
            earlier = self._desk.ledger.trials.get(params_key(params))
            if earlier is None:
                self._asked[trial_id] = ask
                return self._desk.new(params).model_dump(mode="json", exclude={"history"})
            score = earlier.best
            self._optuna.on_trial_complete(ask, None if score is None else {METRIC: score}, error=score is None)
        return Searcher.FINISHED  # type: ignore[no-any-return]

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: only the end of a trial says what its combination is worth."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Teach Optuna."""
        if trial_id in self._by_hand:
            score = None if error or result is None else result.get(METRIC)
            self._teach(self._by_hand[trial_id].params, score)
            return
        self._optuna.on_trial_complete(self._asked[trial_id], result, error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a sweep is taken up from its ledger."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a sweep is taken up from its ledger."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing of this outlives the process."""
        return {}

    def _teach(self, params: Params, score: float | None) -> None:
        space = self._space
        if score is not None and score != float("inf") and all(map(_contains, space.values(), map(params.get, space))):
            self._optuna.add_evaluated_point(params, score)


class Teller(tune.Callback):  # type: ignore[misc]
    """Hands what Tune does to the desk."""

    def __init__(self, desk: Desk) -> None:
        """Take the desk."""
        self._desk = desk

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process is there."""
        known = self._desk.ledger.trials[trial.config["key"]]
        self._desk.attempt(lambda: self._desk.started(trial.trial_id, known))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial has reported."""
        self._desk.attempt(lambda: self._desk.reported(trial.trial_id, result))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has ended or was stopped."""
        self._desk.attempt(lambda: self._desk.ended(trial.trial_id))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has failed more often than allowed."""
        error = trial.get_error()
        self._desk.attempt(lambda: self._desk.ended(trial.trial_id, _reason(error)))

    def __getstate__(self) -> dict[str, Any]:
        """Nothing of this outlives the process."""
        return {}


class _Stopper(Stopper):  # type: ignore[misc]
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._desk._trouble is not None

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _contains(distribution: Any, value: Any) -> bool:
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except ValueError:  # a choice that is not among those offered
        return False


def _reason(error: BaseException | None) -> str:
    lines = [line.strip() for line in str(error or "its process was lost").splitlines() if line.strip()]
    return redacted(lines[-1].partition(" Worker exit type:")[0]) if lines else type(error).__name__
