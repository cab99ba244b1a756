"""Learning rates as pure functions of the step, so that a checkpoint needs no scheduler."""

from __future__ import annotations

import math

WARM_UP_SHARE = 0.3
START_DIVISOR = 25.0
END_DIVISOR = 1e4


def onecycle(step: int, total_steps: int, peak: float) -> float:
    """The one-cycle policy with cosine annealing, as ``torch.optim.lr_scheduler.OneCycleLR`` defines it.

    Rises from ``peak / 25`` to ``peak`` over the first 30 % of the steps, then falls to ``peak / 250,000``.
    Source: Smith and Topin, Super-Convergence (2018).

    Args:
        step: From 0 to ``total_steps - 1``.
        total_steps: Steps of the whole training.
        peak: Highest learning rate.
    """
    turn, last = WARM_UP_SHARE * total_steps - 1, total_steps - 1
    start, end = peak / START_DIVISOR, peak / START_DIVISOR / END_DIVISOR
    if step <= turn:
        return _cosine(start, peak, step / turn if turn > 0 else 1.0)
    return _cosine(peak, end, (step - turn) / (last - turn))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2.0 * (1.0 + math.cos(math.pi * share))
