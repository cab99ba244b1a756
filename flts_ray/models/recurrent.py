"""GRU and LSTM forecasters: one global network for all stations, each read through its own scalers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import ValidationError
from torch import nn

from flts_ray.config import Section
from flts_ray.data.frame import FloatArray, IntArray, SeriesFrame
from flts_ray.data.scaling import ColumnScaler
from flts_ray.data.windows import histories
from flts_ray.errors import BundleError, DataError, TooFewRowsError
from flts_ray.models.base import Arrays, Forecaster

PREDICT_WINDOWS = 4096
"""Windows put through the network at once: bounds memory, not results."""

Cell = Literal["gru", "lstm"]
TargetMode = Literal["delta", "level"]
TargetScalers = Mapping[str, tuple[ColumnScaler, ...]]


class RecurrentShape(Section):
    """Everything that fixes the shapes of a network's weights, and how its output is read.

    Attributes:
        cell: ``gru`` or ``lstm``.
        n_features: Columns of a row.
        n_targets: Columns forecast.
        lookback: Rows of history.
        horizon: Rows forecast.
        hidden_size: Units in a layer.
        num_layers: Stacked layers.
        target: ``delta``: the output is the change from the last known value; ``level``: the value itself.
    """

    cell: Cell
    n_features: int
    n_targets: int
    lookback: int
    horizon: int
    hidden_size: int
    num_layers: int
    target: TargetMode


class RecurrentNet(nn.Module):
    """A recurrent encoder whose last hidden state a linear head turns into all steps at once."""

    def __init__(self, shape: RecurrentShape, *, seed: int = 0) -> None:
        """Create the network with seeded initial weights; the global random state stays as it was."""
        super().__init__()
        self.shape = shape
        layer = nn.GRU if shape.cell == "gru" else nn.LSTM
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = layer(shape.n_features, shape.hidden_size, shape.num_layers, batch_first=True)
            self.head = nn.Linear(shape.hidden_size, shape.horizon * shape.n_targets)

    def forward(self, histories: torch.Tensor) -> torch.Tensor:
        """Map ``(m, lookback, n_features)`` to ``(m, horizon, n_targets)`` in scaled units."""
        encoded, _ = self.encoder(histories)
        out: torch.Tensor = self.head(encoded[:, -1])
        return out.view(-1, self.shape.horizon, self.shape.n_targets)


class RecurrentForecaster(Forecaster):
    """A trained network together with the scalers of the stations it was trained on."""

    def __init__(self, net: RecurrentNet, scalers: TargetScalers) -> None:
        """Wrap a network.

        Args:
            net: The network; put into evaluation mode.
            scalers: For each station, the scaler of each target.

        Raises:
            ValueError: If the network's cell is not this class's kind.
        """
        if net.shape.cell != self.kind:
            raise ValueError(f"a {net.shape.cell} network cannot be a '{self.kind}' forecaster")
        self.net = net.eval()
        self.scalers = dict(scalers)
        self.lookback = net.shape.lookback
        self.horizon = net.shape.horizon

    def predict(self, frame: SeriesFrame, origins: IntArray) -> FloatArray:
        """Forecast from each origin; see :meth:`Forecaster.predict`.

        Raises:
            DataError: If the station is unknown or its features are not those of training.
            TooFewRowsError: If an origin has too little history.
        """
        shape = self.net.shape
        scalers = self._scalers_of(frame)
        if len(origins) and int(origins.min()) < self.lookback - 1:
            raise TooFewRowsError(
                f"series '{frame.series}' has {int(origins.min()) + 1} rows up to an origin, {self.lookback} are "
                "needed: send more history"
            )
        device = self.net.head.weight.device
        out = np.empty((len(origins), shape.horizon, shape.n_targets))
        with torch.inference_mode():
            for start in range(0, len(origins), PREDICT_WINDOWS):
                part = origins[start : start + PREDICT_WINDOWS]
                rows = torch.from_numpy(histories(frame.features, part, shape.lookback)).to(device)
                out[start : start + len(part)] = self.net(rows).cpu().numpy()
        for k, scaler in enumerate(scalers):
            if shape.target == "delta":
                out[:, :, k] += scaler.forward(frame.targets[origins, k])[:, None]
            out[:, :, k] = scaler.inverse(out[:, :, k])
        return out

    def _scalers_of(self, frame: SeriesFrame) -> tuple[ColumnScaler, ...]:
        if frame.series not in self.scalers:
            known = ", ".join(sorted(self.scalers))
            raise DataError(f"series '{frame.series}' is unknown to this {self.kind} model: it was trained on {known}")
        if frame.features.shape[1] != self.net.shape.n_features:
            raise DataError(
                f"series '{frame.series}' has {frame.features.shape[1]} feature columns, this {self.kind} model reads "
                f"{self.net.shape.n_features}: use the transform that the model was trained with"
            )
        return self.scalers[frame.series]

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Shape and scalers as JSON, weights as named arrays."""
        scalers = {name: [s.model_dump() for s in own] for name, own in self.scalers.items()}
        weights = {name: value.detach().cpu().numpy().copy() for name, value in self.net.state_dict().items()}
        return {"shape": self.net.shape.model_dump(), "scalers": scalers}, weights

    @classmethod
    def from_state(cls, meta: dict[str, Any], arrays: Arrays) -> Self:
        """Rebuild from :meth:`state`; forecasts are bitwise the same.

        Raises:
            BundleError: If a part is missing or has the wrong shape.
        """
        try:
            net = RecurrentNet(RecurrentShape.model_validate(meta["shape"]))
            scalers = {
                name: tuple(ColumnScaler.model_validate(s) for s in own) for name, own in meta["scalers"].items()
            }
            net.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in arrays.items()})
            return cls(net, scalers)
        except (KeyError, AttributeError, TypeError, ValueError, ValidationError, RuntimeError) as error:
            raise BundleError(f"the state of a '{cls.kind}' model cannot be read ({error}): train it again") from error


class GRUForecaster(RecurrentForecaster):
    """A gated recurrent unit network (Cho et al., 2014)."""

    kind: ClassVar[str] = "gru"


class LSTMForecaster(RecurrentForecaster):
    """A long short-term memory network (Hochreiter and Schmidhuber, 1997)."""

    kind: ClassVar[str] = "lstm"


RECURRENT: dict[Cell, type[RecurrentForecaster]] = {"gru": GRUForecaster, "lstm": LSTMForecaster}
"""The forecaster class of each cell."""
