"""ONNX Runtime gives PyTorch's numbers, or is not used."""

from __future__ import annotations

import builtins
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flts_ray.errors import BundleError
from flts_ray.inference import runtime
from flts_ray.inference.engine import Engine
from flts_ray.inference.runtime import OnnxForecaster, choose_runtime, network_graph
from flts_ray.models.bundle import Bundle
from tests.inference.bundles import make_bundle

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("kind", ["gru", "lstm"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("target", ["delta", "level"])
def test_the_translated_network_gives_the_same_forecasts(kind: str, layers: int, target: str) -> None:
    made = make_bundle(kind=kind, layers=layers, target=target, horizon=4, calibrated=False)
    frame, origins = made.frames["north"], np.arange(9, 500)
    chosen = choose_runtime(made.bundle.forecaster, "onnx")
    assert (chosen.name, chosen.note) == ("onnxruntime", "")
    wanted = made.bundle.forecaster.predict(frame, origins)
    np.testing.assert_allclose(chosen.forecaster.predict(frame, origins), wanted, rtol=1e-5)
    assert chosen.forecaster.predict(frame, origins[:0]).shape == (0, 4, 1)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
@pytest.mark.parametrize("layers", [1, 2])
def test_stations_are_told_apart_by_both_runtimes_alike(kind: str, layers: int, tmp_path: Path) -> None:
    made = make_bundle(kind=kind, layers=layers, horizon=2, series=("south", "north"), vectors=3, calibrated=False)
    made.bundle.save(tmp_path)
    forecaster = Bundle.load(tmp_path).forecaster
    translated = choose_runtime(forecaster, "onnx").forecaster
    origins = np.arange(9, 500)
    for frame in made.frames.values():
        wanted = made.bundle.forecaster.predict(frame, origins)
        np.testing.assert_array_equal(forecaster.predict(frame, origins), wanted)
        np.testing.assert_allclose(translated.predict(frame, origins), wanted, rtol=1e-5)
    forecaster.scalers["south"] = forecaster.scalers["north"]
    as_south = replace(made.frames["north"], series="south")
    north, south = (translated.predict(frame, origins) for frame in (made.frames["north"], as_south))
    assert np.median(np.abs(north / south - 1)) > 1e-3


def test_windows_in_several_pieces_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_bundle(calibrated=False)
    forecaster = OnnxForecaster.of(made.bundle.forecaster)
    whole = forecaster.predict(made.frames["north"], np.arange(9, 109))
    monkeypatch.setattr(runtime, "CHUNK_WINDOWS", 7)
    np.testing.assert_allclose(forecaster.predict(made.frames["north"], np.arange(9, 109)), whole, rtol=1e-6)


@pytest.fixture
def wrong_gates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_GATES", {"gru": (0, 1, 2)})


@pytest.mark.usefixtures("wrong_gates")
def test_a_network_that_differs_is_not_used(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("flts_ray"), "propagate", True)
    made = make_bundle()
    engine = Engine(made.bundle)
    assert engine.runtime == "torch"
    assert "outputs differ from PyTorch's by" in engine.runtime_note
    assert "runtime_fallback" in caplog.messages
    with pytest.raises(BundleError, match=r"differ from PyTorch.* choose serve.runtime 'auto' or 'torch'"):
        Engine(made.bundle, runtime="onnx")


def test_without_the_package_pytorch_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'")
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    forecaster = make_bundle(calibrated=False).bundle.forecaster
    assert choose_runtime(forecaster, "auto").name == "torch"
    with pytest.raises(BundleError, match="onnxruntime"):
        choose_runtime(forecaster, "onnx")


def test_a_graph_that_cannot_be_loaded_is_a_reason_to_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "network_graph", lambda shape, weights: b"no graph")
    chosen = choose_runtime(make_bundle(calibrated=False).bundle.forecaster, "auto")
    assert chosen.name == "torch"
    assert "cannot be translated" in chosen.note


def test_other_choices_and_kinds_keep_their_forecaster() -> None:
    network, ridge = make_bundle(calibrated=False).bundle.forecaster, make_bundle(kind="ridge").bundle.forecaster
    assert choose_runtime(network, "torch").forecaster is network
    chosen = choose_runtime(ridge, "onnx")
    assert (chosen.forecaster, chosen.name) == (ridge, "numpy")


@pytest.mark.parametrize("vectors", [0, 2])
def test_the_graph_is_a_valid_model(vectors: int) -> None:
    import onnx

    meta, weights = make_bundle(kind="lstm", layers=2, vectors=vectors, calibrated=False).bundle.forecaster.state()
    onnx.checker.check_model(onnx.load_model_from_string(network_graph(meta["shape"], weights)), full_check=True)
