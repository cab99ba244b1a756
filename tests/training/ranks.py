"""Workers of one training that are threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Result = TypeVar("Result")


class Rank:
    """One of several ranks that are threads of this process."""

    def __init__(self, rank: int, world_size: int, barrier: threading.Barrier, board: dict[int, torch.Tensor]) -> None:
        self.rank, self.world_size, self._barrier, self._board = rank, world_size, barrier, board

    def sum_(self, values: torch.Tensor) -> None:
        self._board[self.rank] = values.clone()
        self._barrier.wait(timeout=60)
        values.copy_(sum(self._board[rank] for rank in range(self.world_size)))
        self._barrier.wait(timeout=60)


def side_by_side(world_size: int, work: Callable[[Rank], Result]) -> list[Result]:
    """What every rank made of the same work."""
    barrier, board = threading.Barrier(world_size), dict[int, torch.Tensor]()
    ranks = [Rank(rank, world_size, barrier, board) for rank in range(world_size)]
    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(work, ranks))
