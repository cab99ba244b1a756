"""Progress bars for a person at a terminal; fed by the same heartbeats as the log."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from flts_ray.telemetry.heartbeat import Beat

QUIET = ("controller", "running", "shutting_down", "finished", "fitting")
"""Stages that say nothing to a person: another line of the same candidate says more."""


class ProgressBars:
    """One line a candidate. Use as a context manager; draws nothing where the console is no terminal."""

    def __init__(self, console: Console, epochs: int) -> None:
        """Prepare bars on a console for trainings of so many epochs."""
        self._epochs = epochs
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("[bold]{task.fields[candidate]:<8}"),
            BarColumn(bar_width=30),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def beat(self, beat: Beat) -> None:
        """Show one heartbeat."""
        name, stage = str(beat["candidate"]), str(beat["stage"])
        if stage in QUIET or beat.get("rank", 0) > 0:
            return
        if name not in self._tasks:
            total = None if name in ("run", "prophet") or "total" in beat else self._epochs
            self._tasks[name] = self._progress.add_task(stage, candidate=name, total=total)
        task = self._tasks[name]
        if stage == "epoch":
            text = f"epoch {beat['epoch']}/{self._epochs}  val RMSE {beat['val_rmse_scaled']:.5f}  "
            text += f"{beat['windows_per_s']:,.0f} windows/s"
            self._progress.update(task, completed=int(beat["epoch"]), description=text)
        elif "total" in beat:
            text = f"{beat['done']} of {beat['total']} {'fits' if stage == 'training' else stage}"
            if beat.get("best") is not None:
                text += f"  best {beat['best']:.5f}"
            self._progress.update(task, total=beat["total"], completed=beat["done"], description=text)
        elif stage == "fitted":
            self._progress.update(task, total=1, completed=1, description=f"fitted in {beat['fit_s']:.1f} s")
        elif stage != "training":
            self._progress.update(task, description=stage)
