"""Signs of life: what each fit is doing, kept by the driver and shown while it runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Beat = dict[str, Any]


@dataclass
class Pulse:
    """Collects heartbeats from every fit, hands each to the listeners, and remembers when the last one came."""

    listeners: list[Callable[[Beat], None]] = field(default_factory=list)
    last_beat_s: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def beat(self, beat: Beat) -> None:
        """Record one heartbeat: a mapping with at least ``candidate`` and ``stage``."""
        with self._lock:
            self.last_beat_s[str(beat["candidate"])] = time.monotonic()
            for listener in self.listeners:
                listener(beat)
