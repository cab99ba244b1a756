"""What computes a network: ONNX Runtime where it is at hand and gives the bundle's own numbers, else PyTorch."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from flts_ray.data.frame import Float32Array, FloatArray, IntArray, SeriesFrame
from flts_ray.data.windows import histories
from flts_ray.errors import BundleError
from flts_ray.models.base import Arrays, Forecaster
from flts_ray.telemetry.logging import event

RuntimeChoice = Literal["auto", "onnx", "torch"]

PARITY = 1e-5
"""Largest difference of two runtimes' outputs, in scaled units."""

NETWORKS = ("gru", "lstm")
OPSET, IR_VERSION = 17, 8  # read by every ONNX Runtime since 1.13
CHUNK_WINDOWS = 128
"""Windows computed at once: what then stays in the processor's cache takes a tenth less time than all at once."""

_GATES = {"gru": (1, 0, 2), "lstm": (0, 3, 1, 2)}
"""ONNX's order of the gates (GRU: z r h; LSTM: i o f c) as places in PyTorch's (GRU: r z n; LSTM: i f g o)."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """A forecaster and what it runs on.

    Attributes:
        forecaster: Gives the bundle's forecasts.
        name: ``onnxruntime``, ``torch``, or ``numpy``.
        note: Why it is not ONNX Runtime although that was wanted; else empty.
    """

    forecaster: Forecaster
    name: str
    note: str = ""


def choose_runtime(forecaster: Forecaster, choice: RuntimeChoice) -> Runtime:
    """Put a network into the runtime that was chosen; other forecasters stay as they are.

    Args:
        forecaster: Of a bundle.
        choice: ``auto``: ONNX Runtime if it gives the same numbers, else PyTorch.

    Raises:
        BundleError: If ``choice`` is ``onnx`` and that cannot be had.
    """
    if forecaster.kind not in NETWORKS:
        return Runtime(forecaster, "prophet" if forecaster.kind == "prophet" else "numpy")
    if choice == "torch":
        return Runtime(forecaster, "torch")
    try:
        return Runtime(OnnxForecaster.of(forecaster), "onnxruntime")
    except (BundleError, ImportError) as error:
        reason = f"the '{forecaster.kind}' network does not run in ONNX Runtime: {error}"
        if choice == "onnx":
            raise BundleError(f"{reason}; choose serve.runtime 'auto' or 'torch'") from error
    event("runtime_fallback", level=logging.WARNING, runtime="torch", reason=reason)
    return Runtime(forecaster, "torch", reason)


class OnnxForecaster(Forecaster):
    """A recurrent forecaster whose network runs in ONNX Runtime, on the calling thread."""

    def __init__(self, original: Any, session: Any) -> None:
        """Wrap a session that was made from ``original``; use :meth:`of`."""
        self.kind = original.kind  # type: ignore[misc]  # of the instance: there is one class for both cells
        self.lookback, self.horizon = original.lookback, original.horizon
        self._scalers, self._shape = original.scalers, original.net.shape
        self._session = session

    @classmethod
    def of(cls, original: Any) -> Self:
        """Translate a :class:`~flts_ray.models.recurrent.RecurrentForecaster` and try it on random rows.

        Raises:
            ImportError: If the packages are not installed.
            BundleError: If the outputs differ.
        """
        import onnxruntime as ort

        meta, weights = original.state()
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # requests run beside each other
        options.log_severity_level = 3
        try:
            session = ort.InferenceSession(
                network_graph(meta["shape"], weights), options, providers=["CPUExecutionProvider"]
            )
            made = cls(original, session)
            _check_parity(made, original)
        except _session_errors() as error:
            raise BundleError(f"the network cannot be translated ({str(error)[:200]})") from error
        return made

    def scaled(self, windows: Float32Array, numbers: IntArray) -> Float32Array:
        """The network alone.

        Args:
            windows: ``(m, lookback, n_features)``.
            numbers: ``(m,)`` of the stations, as the network counts them.

        Returns:
            ``(m, horizon, n_targets)`` in scaled units.
        """
        inputs = {"histories": windows, "series": numbers} if self._shape.series else {"histories": windows}
        out: Float32Array = self._session.run(None, inputs)[0]
        return out.reshape(len(windows), self.horizon, self._shape.n_targets)

    def predict(self, frame: SeriesFrame, origins: IntArray) -> FloatArray:
        """As :meth:`flts_ray.models.recurrent.RecurrentForecaster.predict`, for a frame that was checked."""
        out = np.empty((len(origins), self.horizon, self._shape.n_targets))
        for start in range(0, len(origins), CHUNK_WINDOWS):
            part = origins[start : start + CHUNK_WINDOWS]
            windows = histories(frame.features, part, self.lookback)
            out[start : start + len(part)] = self.scaled(windows, self._shape.numbers(frame.series, len(part)))
        for k, scaler in enumerate(self._scalers[frame.series]):
            if self._shape.target == "delta":
                out[:, :, k] += scaler.forward(frame.targets[origins, k])[:, None]
            out[:, :, k] = scaler.inverse(out[:, :, k])
        return out

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Not kept: the bundle holds the original's."""
        raise NotImplementedError("save the forecaster that this was made from")

    @classmethod
    def from_state(cls, meta: dict[str, Any], arrays: Arrays) -> Self:
        """Not kept: the bundle holds the original's."""
        raise NotImplementedError("load the bundle and use OnnxForecaster.of")


def network_graph(shape: Mapping[str, Any], weights: Arrays) -> bytes:
    """The network as a serialised ONNX model: from ``histories (m, lookback, n_features)`` to ``(m, -1)``.

    One that tells stations apart has a second input, their numbers: ``series (m,)`` int64.

    Args:
        shape: A :class:`~flts_ray.models.recurrent.RecurrentShape` as a mapping.
        weights: PyTorch's, by name.
    """
    from onnx import TensorProto, helper, numpy_helper

    kind, hidden = str(shape["cell"]), int(shape["hidden_size"])
    inputs = [
        helper.make_tensor_value_info("histories", TensorProto.FLOAT, ["m", shape["lookback"], shape["n_features"]])
    ]
    nodes = [helper.make_node("Transpose", ["histories"], ["rows.0"], perm=[1, 0, 2])]
    constants: dict[str, Any] = {"directions": np.array([1], dtype=np.int64)}
    if "series" in weights:
        inputs.append(helper.make_tensor_value_info("series", TensorProto.INT64, ["m"]))
        nodes = [
            helper.make_node("Transpose", ["histories"], ["rows"], perm=[1, 0, 2]),
            helper.make_node("Gather", ["vectors", "series"], ["vector"]),
            helper.make_node("Expand", ["vector", "each_row"], ["repeated"]),
            helper.make_node("Concat", ["rows", "repeated"], ["rows.0"], axis=2),
        ]
        constants |= {"vectors": weights["series"], "each_row": np.array([shape["lookback"], 1, 1], np.int64)}
    layers = int(shape["num_layers"])
    for layer in range(layers):
        names = [f"{part}.{layer}" for part in ("W", "R", "B")]
        parts = [
            _in_onnx_order(weights[f"encoder.{name}_l{layer}"], kind)
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ]
        constants |= dict(zip(names, [*parts[:2], np.concatenate(parts[2:])], strict=True))
        # linear_before_reset: as in PyTorch, the recurrent bias of the candidate is added before the reset gate.
        attributes: dict[str, Any] = {"hidden_size": hidden} | ({"linear_before_reset": 1} if kind == "gru" else {})
        outputs = [f"all.{layer}", f"last.{layer}"]
        nodes.append(helper.make_node(kind.upper(), [f"rows.{layer}", *names], outputs, **attributes))
        nodes.append(helper.make_node("Squeeze", [outputs[0], "directions"], [f"rows.{layer + 1}"]))
    constants |= {"head.W": weights["head.weight"], "head.B": weights["head.bias"], "first": np.array([0], np.int64)}
    nodes = nodes[:-1]  # of the top layer only the last row is read
    nodes.append(helper.make_node("Squeeze", [f"last.{layers - 1}", "first"], ["encoded"]))
    nodes.append(helper.make_node("Gemm", ["encoded", "head.W", "head.B"], ["steps"], transB=1))
    for name in [name for name, value in constants.items() if value.ndim > 1 and name[0] in "WR"] + [
        f"B.{layer}" for layer in range(layers)
    ]:
        constants[name] = constants[name][None]  # ONNX counts directions first
    graph = helper.make_graph(
        nodes,
        kind,
        inputs,
        [helper.make_tensor_value_info("steps", TensorProto.FLOAT, ["m", shape["horizon"] * shape["n_targets"]])],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    serialised: bytes = model.SerializeToString()
    return serialised


def _session_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: classes without a base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))


def _in_onnx_order(stacked: Any, kind: str) -> Any:
    """Gate blocks, stacked along the first axis, in ONNX's order."""
    gates = _GATES[kind]
    blocks = np.split(stacked, len(gates))
    return np.concatenate([blocks[gate] for gate in gates])


def _check_parity(made: OnnxForecaster, original: Any, *, windows: int = 64) -> None:
    """Raise BundleError where the two networks differ on random rows by more than rounding."""
    import torch

    shape = original.net.shape
    rows = np.random.default_rng(0).normal(0.0, 1.5, (windows, shape.lookback, shape.n_features)).astype(np.float32)
    numbers = np.arange(windows) % max(1, len(shape.series))
    with torch.inference_mode():
        wanted = original.net(torch.from_numpy(rows), torch.from_numpy(numbers)).numpy()
    difference = float(np.abs(made.scaled(rows, numbers) - wanted).max())
    if not difference <= PARITY * max(1.0, float(np.abs(wanted).max())):
        raise BundleError(f"its outputs differ from PyTorch's by {difference:.2g} scaled units")
