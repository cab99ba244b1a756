"""Makes a process die by SIGKILL at an exact place of the program: imported by the command that is to die."""

from __future__ import annotations

import importlib
import os
import signal
from typing import Any


def at(module: str, name: str, *, call: int = 1, after: bool = False) -> None:
    """Die when ``module.name`` is called for the ``call``-th time, before its work or after it.

    Args:
        module: Where the function is looked up when it is called.
        name: Its name there, with a class before a dot for a method.
        call: Which call.
        after: Do its work first.
    """
    owner: Any = importlib.import_module(module)
    *outer, last = name.split(".")
    for part in outer:
        owner = getattr(owner, part)
    function = getattr(owner, last)
    left = [call]

    def deadly(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            if after:
                function(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    setattr(owner, last, deadly)
