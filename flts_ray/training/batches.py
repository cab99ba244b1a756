"""Batches of windows gathered from contiguous rows at the moment they are needed."""

from __future__ import annotations

import torch

from flts_ray.models.recurrent import TargetMode
from flts_ray.training.examples import Examples


class Batches:
    """The rows of :class:`Examples` on one device, seen as overlapping windows without a copy.

    A window is ``lookback`` neighbouring rows, hence one contiguous stretch of memory: gathering a batch is one
    ``memcpy`` a window.
    """

    def __init__(self, examples: Examples, target: TargetMode, device: torch.device) -> None:
        """Place the rows on ``device``."""
        self.lookback, self.horizon, self.target = examples.lookback, examples.horizon, target
        self.features = torch.from_numpy(examples.features).to(device).contiguous()  # row by row, as windows are
        self.scaled = torch.from_numpy(examples.scaled).to(device).contiguous()
        self._histories = _windows(self.features, self.lookback)
        self._futures = _windows(self.scaled, self.horizon)
        self._first_rows = torch.from_numpy(examples.first_rows).to(device)

    def inputs(self, origins: torch.Tensor) -> torch.Tensor:
        """Histories ``(m, lookback, n_features)`` that end at the origins ``(m,)``."""
        rows = self._histories.index_select(0, origins - (self.lookback - 1))
        return rows.view(len(origins), self.lookback, -1)

    def series(self, origins: torch.Tensor) -> torch.Tensor:
        """Numbers ``(m,)`` of the stations that the origins ``(m,)`` belong to."""
        return torch.bucketize(origins, self._first_rows, right=True) - 1

    def outputs(self, origins: torch.Tensor) -> torch.Tensor:
        """What the network should say at the origins: ``(m, horizon, n_targets)`` in model units."""
        levels = self._futures.index_select(0, origins + 1).view(len(origins), self.horizon, -1)
        return levels if self.target == "level" else levels - self._now(origins)

    def levels(self, outputs: torch.Tensor, origins: torch.Tensor) -> torch.Tensor:
        """Network outputs as levels in model units: the inverse of :meth:`outputs`."""
        return outputs if self.target == "level" else outputs + self._now(origins)

    def _now(self, origins: torch.Tensor) -> torch.Tensor:
        return self.scaled.index_select(0, origins)[:, None, :]


def _windows(rows: torch.Tensor, length: int) -> torch.Tensor:
    """Every stretch of ``length`` rows, flat: ``(n - length + 1, length * columns)``, a view."""
    n, columns = rows.shape
    return rows.as_strided((n - length + 1, length * columns), (columns, 1))
