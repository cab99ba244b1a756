"""How the workers of one candidate add up their numbers. The loop needs nothing else from a cluster."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.distributed as dist


class Communicator(Protocol):
    """Ranks that run the same loop in step.

    Attributes:
        rank: This worker, from 0.
        world_size: Number of workers.
    """

    rank: int
    world_size: int

    def sum_(self, values: torch.Tensor) -> None:
        """Replace ``values`` by its sum over all ranks, the same bits on each."""


class Alone:
    """One worker: its sum is its own value."""

    rank = 0
    world_size = 1

    def sum_(self, values: torch.Tensor) -> None:
        """Leave ``values`` as they are."""


class TorchCommunicator:
    """The default process group of ``torch.distributed``, which the caller has set up."""

    def __init__(self) -> None:
        """Read rank and size from the process group."""
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()

    def sum_(self, values: torch.Tensor) -> None:
        """All-reduce ``values`` in place."""
        dist.all_reduce(values)
