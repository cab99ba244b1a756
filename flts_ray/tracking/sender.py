"""The thread that delivers a run's journal while the run goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from logging import ERROR, WARNING
from typing import TYPE_CHECKING

from flts_ray.config import TrackingSettings
from flts_ray.errors import TrackingError
from flts_ray.telemetry.logging import event
from flts_ray.tracking.delivery import Delivery
from flts_ray.tracking.journal import Journal
from flts_ray.tracking.replay import Replay

if TYPE_CHECKING:
    from pybreaker import CircuitBreaker

RETRY_S, HELD_RETRY_S, IDLE_S, IN_FLIGHT_S = 0.2, 0.5, 0.5, 0.05


Leftovers = Generator[Journal, None, None]


class Sender:
    """Delivers one journal, and what earlier runs left behind when there is nothing else to do.

    Failures in a row open a breaker: the store is left alone for a while, then tried again. Nobody ever waits for this
    thread unless they ask to (:meth:`wait`); it is a daemon, so it cannot keep the process from ending.

    Args:
        journal: What to deliver.
        delivery: To where.
        settings: When the breaker opens and for how long.
        written: Number of operations in the journal by now.
        leftovers: Journals of dead runs, each held while it is worked on.

    Attributes:
        replay: How far the journal is delivered.
        down: Whether the store failed so often that it is left alone.
        reason: The last failure; empty once it works again.
        working: Whether the thread is there to deliver anything.
    """

    def __init__(
        self,
        journal: Journal,
        delivery: Delivery,
        settings: TrackingSettings,
        *,
        written: Callable[[], int],
        leftovers: Callable[[], Leftovers] | None = None,
    ) -> None:
        self.replay = Replay(journal, delivery)
        self.reason = ""
        self.down = False
        self.working = False
        self._journal = journal
        self._delivery = delivery
        self._settings = settings
        self._written = written
        self._leftovers = leftovers or _none
        self._leftover: Replay | None = None
        self._changed = threading.Condition()
        self._stopping = False
        self._probing = False
        self._failing_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="tracking-sender", daemon=True)

    @property
    def pending(self) -> int:
        """Operations that are not delivered yet."""
        return max(0, self._written() - self.replay.cursor.ops)

    def start(self) -> None:
        """Begin to deliver."""
        self.working = True
        self._thread.start()

    def wake(self) -> None:
        """Say that there is something new."""
        with self._changed:
            self._changed.notify_all()

    def wait(self, limit_s: float, *, even_if_down: bool) -> bool:
        """Wait until everything is delivered.

        Args:
            limit_s: Seconds to wait at most.
            even_if_down: Whether to wait for a store that fails; if not, it gets one more try.

        Returns:
            Whether everything is delivered.
        """
        deadline = time.monotonic() + limit_s
        with self._changed:
            self._probing = True
            self._changed.notify_all()
            while self.pending and self.working:
                left = deadline - time.monotonic()
                if left <= 0 or (self.down and not self._probing and not even_if_down):
                    break
                self._changed.wait(min(left, 0.5))
            return not self.pending

    def stop(self, limit_s: float) -> None:
        """End after the operation at hand; a thread that hangs in it is left behind."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(limit_s)

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:  # noqa: BLE001 (nobody else would say that the thread is gone)
            self.reason = f"{type(error).__name__}: {error}"
            event("tracking_failed", level=ERROR, reason=self.reason)
        finally:
            self.working = False
            self.wake()

    def _serve(self) -> None:
        from pybreaker import CircuitBreaker

        breaker = CircuitBreaker(
            fail_max=self._settings.breaker_failures,
            reset_timeout=self._settings.breaker_reset_s,
            throw_new_error_on_trip=False,
        )
        while not self._stopping:
            with self._journal.held() as held:
                if held:
                    # Whoever held it before may have delivered some of it.
                    self.replay = Replay(self._journal, self._delivery)
                    with closing(self._leftovers()) as dead:
                        self._deliver(breaker, dead)
                    return
            self._rest(HELD_RETRY_S)

    def _deliver(self, breaker: CircuitBreaker, dead: Leftovers) -> None:
        from pybreaker import CircuitBreakerError

        while not self._stopping:
            if self._probing and breaker.current_state == "open":
                breaker.half_open()
            try:
                worked = bool(breaker.call(self._step, dead))
            except CircuitBreakerError:
                self._rest(min(RETRY_S, self._settings.breaker_reset_s))
            except TrackingError as error:
                self._failed(breaker, str(error))
                self._rest(RETRY_S)
            else:
                self._succeeded(worked)

    def _step(self, dead: Leftovers) -> bool:
        """Deliver something of this run, else of a dead one; whether there was anything."""
        if self.replay.step():
            return True
        try:
            if self._leftover is None:
                journal = next(dead, None)
                if journal is None:
                    return False
                self._leftover = Replay(journal, self._delivery, until=journal.size())
            if not self._leftover.step():
                event("tracking_caught_up", run=self._leftover.journal.folder.name, rejected=self._leftover.rejected)
                self._leftover = None
            return True
        except (TrackingError, OSError) as error:  # it keeps for `flts sync` or the next run
            event("tracking_leftovers_postponed", level=WARNING, reason=str(error))
            self._leftover = None
            dead.close()
            return False

    def _failed(self, breaker: CircuitBreaker, reason: str) -> None:
        with self._changed:
            self.reason = reason
            self._failing_since = self._failing_since or time.monotonic()
            tell = breaker.current_state == "open" and not self.down
            self.down = self.down or tell
            self._probing = False
            self._changed.notify_all()
        if tell:
            event("tracker_down", level=WARNING, reason=reason, retry_s=self._settings.breaker_reset_s)

    def _succeeded(self, worked: bool) -> None:
        with self._changed:
            if worked:
                self.reason = ""
                back, since = self.down, self._failing_since or 0.0
                self.down, self._failing_since, self._probing = False, None, False
            else:
                # What is counted but cannot be read yet is on its way to the disk.
                if not self._stopping:
                    self._changed.wait(IN_FLIGHT_S if self.pending else IDLE_S)
                back = False
            self._changed.notify_all()
        if back:
            event("tracker_back", seconds=round(time.monotonic() - since, 1), backlog=self.pending)

    def _rest(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._probing, seconds)


def _none() -> Leftovers:
    yield from ()
