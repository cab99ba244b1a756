"""A call that ends in time, whatever it waits for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any


def within(limit_s: float, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call ``function`` on a thread of its own and wait ``limit_s`` for it.

    A socket's own limit starts anew with every byte, so a server that trickles would hold its caller for ever. The
    thread is a daemon: what is given up on does not keep the process from ending.

    Returns:
        What the function returns; what it raises is raised here.

    Raises:
        TimeoutError: If it has not returned in time. It may still take effect later.
    """
    answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put((function(*args, **kwargs), None))
        except BaseException as error:  # noqa: BLE001 (raised again on the caller's thread)
            answers.put((None, error))

    threading.Thread(target=work, name="tracking-call", daemon=True).start()
    try:
        value, error = answers.get(timeout=limit_s)
    except queue.Empty:
        raise TimeoutError(f"no answer within {limit_s:g} s") from None
    if error is not None:
        raise error
    return value
