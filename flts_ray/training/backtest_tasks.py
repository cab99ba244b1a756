"""The backtest as Ray tasks, one for each (window, model), of one CPU each; the same table without Ray."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from pydantic import ValidationError

from flts_ray.config import Settings
from flts_ray.data.dataset import Dataset
from flts_ray.data.storage import Store
from flts_ray.errors import FltsError
from flts_ray.evaluation.backtest_table import BacktestResult, Cell, assemble
from flts_ray.evaluation.rolling_origin import Contender, backtest_id, contenders, plan
from flts_ray.telemetry.heartbeat import Beats, Pulse
from flts_ray.telemetry.logging import event
from flts_ray.telemetry.origin import Origin, joined, origin
from flts_ray.training import stacks
from flts_ray.training.backtest_fits import Fit, Rows, fit_and_score, fits_of
from flts_ray.training.prophet_tasks import SCRATCH_PREFIX, own_folder

BACKTESTS = "backtests"
NODE_LOSSES = 3
"""Times Ray sends a task again whose process or node was lost."""
BEAT_S = 5.0
COSTLY = ("lstm", "gru", "prophet", "ridge")
"""Kinds in the order in which they are sent: the longest first, so that no CPU waits for one that began last."""

Outcome = dict[int, Cell] | str
"""By window, or why there is nothing."""
Take = Callable[[Fit, Outcome], None]


def run_backtest(
    dataset: Dataset,
    settings: Settings,
    *,
    store: Store,
    ensure: Callable[[], None],
    pulse: Pulse,
    tuned: tuple[str, Settings] | None = None,
) -> BacktestResult:
    """Backtest every model of ``backtest.models`` on the train rows, as Ray tasks.

    A model that fails in a window, hangs, or loses its node more than :data:`NODE_LOSSES` times, is a row with its
    reason. A table without such rows is kept in the store and taken from there the next time, unless ``run.force``.

    Args:
        dataset: Its test rows are not read.
        settings: The whole configuration.
        store: Where tables are kept.
        ensure: Starts Ray; called only if there is something to compute.
        pulse: Told how many of all (window, model) pairs are done.
        tuned: Kind and settings of the winner of a sweep, which takes part as ``tuned``.

    Raises:
        ConfigError: If ``backtest.models`` names an unknown model.
        TooFewRowsError: If no station is long enough.
        ClusterError: If Ray cannot be started or reached.
    """
    models = contenders(settings, tuned=tuned)
    name = backtest_id(dataset.dataset_id, settings, models)
    known = None if settings.run.force else _known(store, name)
    if known is not None:
        event("backtest_reused", backtest_id=name)
        return known

    def on_ray(fits: Sequence[Fit], rows: Rows, take: Take) -> None:
        ensure()
        _on_ray(fits, rows, take, pulse, settings.watchdog.stall_timeout_s)

    result = _backtest(dataset, settings, models, pulse, on_ray)
    if result.complete:
        store.write_bytes(f"{BACKTESTS}/{name}.json", result.model_dump_json(indent=1).encode())
    return result


def run_backtest_local(
    dataset: Dataset, settings: Settings, *, pulse: Pulse | None = None, tuned: tuple[str, Settings] | None = None
) -> BacktestResult:
    """The same table, and the same numbers, made in this process. Arguments and errors as in :func:`run_backtest`."""

    def one_by_one(fits: Sequence[Fit], rows: Rows, take: Take) -> None:
        for fit in fits:
            take(fit, _outcome(fit, rows))

    return _backtest(dataset, settings, contenders(settings, tuned=tuned), pulse or Pulse(), one_by_one)


def _backtest(
    dataset: Dataset,
    settings: Settings,
    models: Sequence[Contender],
    pulse: Pulse,
    work: Callable[[Sequence[Fit], Rows, Take], None],
) -> BacktestResult:
    started = time.perf_counter()
    planned = plan(dataset, settings)
    for series, reason in planned.left_out.items():
        event("backtest_series_left_out", level=logging.WARNING, series=series, reason=reason)
    fits = fits_of(models, settings.backtest.windows, refit=settings.backtest.refit)
    cells: dict[tuple[str, int], Cell] = {}
    total = sum(len(fit.windows) for fit in fits)

    def tell() -> None:
        pulse.beat({"candidate": "backtest", "stage": "windows", "done": len(cells), "total": total})

    def take(fit: Fit, outcome: Outcome) -> None:
        if isinstance(outcome, str):
            event(
                "backtest_fit_failed",
                level=logging.WARNING, model=fit.model.name, windows=list(fit.windows), reason=outcome,
            )  # fmt: skip
            outcome = {number: Cell(sums={}, failure=outcome) for number in fit.windows}
        cells.update({(fit.model.name, number): cell for number, cell in outcome.items()})
        tell()

    tell()
    work(fits, Rows.of(dataset, planned, models), take)
    result = assemble(dataset, settings, planned, models, cells)
    seconds = round(time.perf_counter() - started, 3)
    event("backtest_done", backtest_id=result.backtest_id, cells=total, complete=result.complete, seconds=seconds)
    return result


def _known(store: Store, name: str) -> BacktestResult | None:
    path = f"{BACKTESTS}/{name}.json"
    if not store.exists(path):
        return None
    try:
        return BacktestResult.model_validate_json(store.read_bytes(path))
    except ValidationError as error:
        event("backtest_damaged", level=logging.WARNING, backtest_id=name, reason=str(error).splitlines()[0])
        return None


def _outcome(fit: Fit, rows: Rows, on_step: Callable[[int], None] = lambda step: None) -> Outcome:
    try:
        return fit_and_score(fit, rows, on_step=on_step)
    except FltsError as error:
        return f"{type(error).__name__}: {error}"
    except Exception as error:  # noqa: BLE001  one model must not end the table; the reason is its row
        return f"{type(error).__name__}: {error}"


def _on_ray(fits: Sequence[Fit], rows: Rows, take: Take, pulse: Pulse, stall_s: float) -> None:
    """Send every fit, the longest first; hand on each outcome as it comes."""
    import ray

    from flts_ray.training.relay import Relay, end, look_at
    from flts_ray.training.watchdog import Watchdog

    order = sorted(range(len(fits)), key=lambda i: (_cost(fits[i]), -fits[i].windows[0]))
    hung: set[int] = set()
    pending: dict[Any, int] = {}

    def give_up(ranks: Sequence[int]) -> None:
        """Called by the watchdog, before it ends their processes: Ray must not send them again."""
        hung.update(ranks)
        for ref, i in list(pending.items()):
            if i in ranks:
                ray.cancel(ref, force=True)

    with (
        _scratch() as scratch,
        Relay(pulse.beat) as relay,
        Watchdog(pulse, look=look_at, kill=end) as watchdog,
        watchdog.watch("backtest", lambda stages: stall_s, ranks=lambda: list(pending.values()), on_stall=give_up),
    ):
        task = ray.remote(num_cpus=1, max_retries=NODE_LOSSES)(_task)  # Ray pins it to one thread
        shared, place = ray.put(rows), (scratch, ray.get_runtime_context().get_node_id())
        pending.update({task.remote(fits[i], shared, place, relay.mailbox, i, origin()): i for i in order})
        try:
            while pending:
                ready, _ = ray.wait(list(pending), timeout=BEAT_S)
                for ref in ready:
                    i = pending.pop(ref)
                    take(fits[i], f"StalledError: it made no progress for {stall_s:g} s" if i in hung else _taken(ref))
        finally:
            for ref in pending:
                ray.cancel(ref, force=True)


def _cost(fit: Fit) -> int:
    return COSTLY.index(fit.model.kind) if fit.model.kind in COSTLY else len(COSTLY)


@contextmanager
def _scratch() -> Iterator[str]:
    """A folder for what CmdStan writes; what processes that were killed left behind is removed here."""
    folder = tempfile.mkdtemp(prefix=SCRATCH_PREFIX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _task(fit: Fit, rows: Rows, place: tuple[str, str], mailbox: Any, rank: int, sender: Origin) -> Outcome:
    """What runs in a worker. Failures come back as data: trying again at once would change nothing."""
    import ray

    stacks.listen()
    node_id = ray.get_runtime_context().get_node_id()
    beats = Beats(mailbox.post.remote, candidate="backtest", rank=rank, node_id=node_id)
    names = {"model": fit.model.name, "window": fit.windows[0]}
    beats("fitting", **names, force=True)
    with (
        joined(sender, "backtest.worker", node_id=node_id, rank=rank, **names),
        own_folder(*place) if fit.model.kind == "prophet" else nullcontext(),
    ):
        return _outcome(fit, rows, lambda step: beats("fitting", step=step))


def _taken(ref: Any) -> Outcome:
    import ray

    try:
        outcome: Outcome = ray.get(ref)
    except ray.exceptions.RayError as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return outcome
