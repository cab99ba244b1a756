"""GRU and LSTM forecasters: one global network for all stations, each read through its own scalers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import ValidationError, model_validator
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
        series: Stations that the network tells apart, in the order of their numbers; empty: it tells none apart.
        series_embedding: Numbers learnt for each of them.
    """

    cell: Cell
    n_features: int
    n_targets: int
    lookback: int
    horizon: int
    hidden_size: int
    num_layers: int
    target: TargetMode
    series: tuple[str, ...] = ()
    series_embedding: int = 0

    @model_validator(mode="after")
    def _stations_go_with_their_vectors(self) -> Self:
        if bool(self.series) != bool(self.series_embedding):
            raise ValueError("series and series_embedding are given together or not at all")
        return self

    def document(self) -> dict[str, Any]:
        """As JSON. What is not used is left out: networks without it have the files that they have always had."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def numbers(self, series: str, windows: int) -> IntArray:
        """The number of a station, once for each of its windows: ``(windows,)``; 0 if none are told apart."""
        return np.full(windows, self.series.index(series) if self.series else 0, dtype=np.int64)


class RecurrentNet(nn.Module):
    """A recurrent encoder whose last hidden state a linear head turns into all steps at once.

    Where it tells stations apart, the encoder reads a learnt vector of the station beside the features of each row.
    All vectors start at zero, and weight decay draws them back: stations are alike until their rows say otherwise.
    """

    def __init__(self, shape: RecurrentShape, *, seed: int = 0) -> None:
        """Create the network with seeded initial weights; the global random state stays as it was."""
        super().__init__()
        self.shape = shape
        layer = nn.GRU if shape.cell == "gru" else nn.LSTM
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inputs = shape.n_features + shape.series_embedding
            self.encoder = layer(inputs, shape.hidden_size, shape.num_layers, batch_first=True)
            self.head = nn.Linear(shape.hidden_size, shape.horizon * shape.n_targets)
        if shape.series:
            self.series = nn.Parameter(torch.zeros(len(shape.series), shape.series_embedding))

    def forward(self, histories: torch.Tensor, series: torch.Tensor | None = None) -> torch.Tensor:
        """Map histories to forecasts.

        Args:
            histories: ``(m, lookback, n_features)``.
            series: ``(m,)`` int64 numbers of the stations; read only where the network tells stations apart.

        Returns:
            ``(m, horizon, n_targets)`` in scaled units.

        Raises:
            ValueError: If ``series`` is needed and missing.
        """
        if self.shape.series:
            if series is None:
                raise ValueError("this network tells stations apart: say which station each history is of")
            vectors = nn.functional.embedding(series, self.series)
            histories = torch.cat([histories, vectors[:, None].expand(-1, histories.shape[1], -1)], dim=2)
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
            ValueError: If the network's cell is not this class's kind, or it tells other stations apart.
        """
        if net.shape.cell != self.kind:
            raise ValueError(f"a {net.shape.cell} network cannot be a '{self.kind}' forecaster")
        if net.shape.series and set(net.shape.series) != set(scalers):
            raise ValueError("the stations that the network tells apart are not those with scalers")
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
                numbers = torch.from_numpy(shape.numbers(frame.series, len(part))).to(device)
                out[start : start + len(part)] = self.net(rows, numbers).cpu().numpy()
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
        return {"shape": self.net.shape.document(), "scalers": scalers}, weights

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
