"""The model bundle: what is saved, loaded, evaluated and served.

A folder of two files: ``bundle.json`` says everything that is not a weight, ``weights.safetensors`` holds the arrays.
Nothing is pickled. ``bundle.json`` is canonical JSON that carries its own digest and that of the weights, so a
changed byte in either file is found on loading.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as dump_arrays

from flts_ray import __version__
from flts_ray.data.frame import FloatArray, RawFrame, SeriesFrame, TimeArray
from flts_ray.data.transform import Transform
from flts_ray.data.windows import training_origins
from flts_ray.errors import BundleError, DataError, StorageError, TimeOrderError, TooFewRowsError
from flts_ray.models.base import Arrays, Forecaster
from flts_ray.models.manifest import ArrayShape, BundleIdentity, BundleManifest, check_transforms, read_manifest
from flts_ray.models.registry import forecaster_class

__all__ = ["Bundle", "BundleForecast", "BundleIdentity", "BundleManifest", "smoke_test"]

MANIFEST_FILE = "bundle.json"
WEIGHTS_FILE = "weights.safetensors"
LIBRARIES = ("numpy", "torch", "prophet", "safetensors")

_MODEL, _INTERVALS = "model/", "intervals/"


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleForecast:
    """A forecast of the rows that follow a history.

    Attributes:
        series: Station, as the caller named it.
        time: ``(horizon,)`` datetime64[ns]; the first is one step after the last row of the history.
        values: ``(horizon, n_targets)`` float64.
        targets: Names of the columns of ``values``.
        unit: Their unit.
        step_s: Seconds between rows.
    """

    series: str
    time: TimeArray
    values: FloatArray
    targets: tuple[str, ...]
    unit: str
    step_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A forecaster with all that is needed to use it and to know where it comes from.

    Attributes:
        manifest: What ``bundle.json`` says.
        forecaster: The model.
        interval_arrays: Arrays that go with ``manifest.intervals``.
        weights: Content of the weights file.
    """

    manifest: BundleManifest
    forecaster: Forecaster
    interval_arrays: Arrays
    weights: bytes

    @classmethod
    def create(
        cls,
        forecaster: Forecaster,
        transforms: Mapping[str, Transform],
        identity: BundleIdentity,
        *,
        target_unit: str,
        intervals: tuple[dict[str, Any], Arrays] = ({}, {}),
        snapshot: Mapping[str, Any] | None = None,
    ) -> Self:
        """Bundle a fitted forecaster.

        Args:
            forecaster: The model.
            transforms: Per series, what its features and scales were made by.
            identity: Where it comes from.
            target_unit: Unit of the forecasts.
            intervals: What ``evaluation.intervals.pack`` returned.
            snapshot: What ``drift.snapshot.take_snapshot`` returned.

        Raises:
            BundleError: If the transforms disagree or a number is not finite.
        """
        meta, arrays = forecaster.state()
        interval_meta, interval_arrays = intervals
        stored = {_MODEL + name: np.asarray(array, order="C") for name, array in arrays.items()}
        stored |= {_INTERVALS + name: np.asarray(array, order="C") for name, array in interval_arrays.items()}
        weights = dump_arrays(stored)
        some = next(iter(transforms.values()))
        manifest = BundleManifest(
            kind=forecaster.kind,
            identity=identity,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            code_version=__version__,
            libraries={name: version(name) for name in LIBRARIES},
            feature_names=some.feature_names,
            targets=some.targets,
            target_unit=target_unit,
            step_s=some.step_s,
            lookback=forecaster.lookback,
            horizon=forecaster.horizon,
            transforms=dict(transforms),
            forecaster=meta,
            intervals=interval_meta,
            snapshot=dict(snapshot or {}),
            arrays=_shapes(stored),
            weights_sha256=hashlib.sha256(weights).hexdigest(),
        ).sealed()
        check_transforms(manifest)
        return cls(manifest=manifest, forecaster=forecaster, interval_arrays=interval_arrays, weights=weights)

    def save(self, folder: Path) -> None:
        """Write the bundle so that ``folder`` holds either all of it or what was there before.

        Raises:
            StorageError: If the disk refuses.
        """
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
                new = Path(scratch, "new")
                new.mkdir()
                _write(new / WEIGHTS_FILE, self.weights)
                _write(new / MANIFEST_FILE, self.manifest.to_json().encode())
                if folder.exists():
                    folder.rename(Path(scratch, "old"))
                new.rename(folder)
        except OSError as error:
            raise StorageError(f"the model bundle cannot be written to {folder}: {error}") from error

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a bundle and prove that it is whole.

        Raises:
            BundleError: If a file is missing, altered, of another format, or does not fit the rest.
        """
        try:
            text, weights = (folder / MANIFEST_FILE).read_bytes(), (folder / WEIGHTS_FILE).read_bytes()
        except OSError as error:
            raise BundleError(f"{folder} is not a whole model bundle: {error}") from error
        manifest = read_manifest(text, folder / MANIFEST_FILE)
        if hashlib.sha256(weights).hexdigest() != manifest.weights_sha256:
            raise BundleError(f"{folder / WEIGHTS_FILE} is not the file that was saved: its SHA-256 differs")
        try:
            stored = load_arrays(weights)
        except SafetensorError as error:
            raise BundleError(f"{folder / WEIGHTS_FILE} is not a safetensors file: {error}") from error
        if _shapes(stored) != manifest.arrays:
            raise BundleError(f"{folder / WEIGHTS_FILE} holds other arrays than {MANIFEST_FILE} says")
        forecaster = forecaster_class(manifest.kind).from_state(manifest.forecaster, _part(stored, _MODEL))
        if (forecaster.lookback, forecaster.horizon) != (manifest.lookback, manifest.horizon):
            raise BundleError(
                f"the model in {folder} reads {forecaster.lookback} rows and forecasts {forecaster.horizon}, but "
                f"{MANIFEST_FILE} says {manifest.lookback} and {manifest.horizon}"
            )
        return cls(manifest=manifest, forecaster=forecaster, interval_arrays=_part(stored, _INTERVALS), weights=weights)

    @property
    def series(self) -> tuple[str, ...]:
        """Stations it can forecast."""
        return tuple(self.manifest.transforms)

    @property
    def context_rows(self) -> int:
        """Rows of history with which a forecast is what it would be with all of history; fewer make it coarser."""
        context = max(transform.context_rows for transform in self.manifest.transforms.values())
        return context + self.manifest.lookback

    def prepare(self, raw: RawFrame) -> SeriesFrame:
        """The history as the model reads it, checked; all rows count as test rows.

        Args:
            raw: At least ``manifest.lookback`` rows, the last of them without a gap. With one station in the bundle
                any name is accepted.

        Raises:
            DataError: If the station is unknown.
            MissingColumnError: If a column is absent.
            TooFewRowsError: If there are fewer rows than the model reads.
            TimeOrderError: If the rows that the model reads have a gap.
        """
        transforms, lookback = self.manifest.transforms, self.manifest.lookback
        name = raw.series if raw.series in transforms or len(transforms) > 1 else next(iter(transforms))
        if name not in transforms:
            raise DataError(f"series '{raw.series}' is unknown to this model: it knows {', '.join(transforms)}")
        if len(raw) < lookback:
            raise TooFewRowsError(f"the history has {len(raw)} rows, the model reads {lookback}: send more")
        frame = transforms[name].apply(replace(raw, series=name), train_rows=0)
        if frame.segment[-lookback] != frame.segment[-1]:
            raise TimeOrderError(
                f"the last {lookback} rows of the history must be {self.manifest.step_s:g} s apart: there is a gap"
            )
        return frame

    def forecast(self, raw: RawFrame) -> BundleForecast:
        """Forecast the rows after a history. Raises what :meth:`prepare` raises."""
        values = self.forecaster.forecast(self.prepare(raw))
        step = np.timedelta64(round(self.manifest.step_s * 1e9), "ns")
        return BundleForecast(
            series=raw.series,
            time=raw.time[-1] + step * np.arange(1, self.manifest.horizon + 1),
            values=values,
            targets=self.manifest.targets,
            unit=self.manifest.target_unit,
            step_s=self.manifest.step_s,
        )


def smoke_test(bundle: Bundle, frame: SeriesFrame, reference: Forecaster, *, rows: int = 8) -> None:
    """Prove on a few rows that a loaded bundle forecasts what the fitted model does.

    Args:
        bundle: As loaded.
        frame: Rows of one of its stations.
        reference: The forecaster that was saved.
        rows: Latest origins to try.

    Raises:
        TooFewRowsError: If the frame has no gap-free history.
        BundleError: If the forecasts have the wrong shape, are not finite, or differ.
    """
    origins = training_origins(frame.segment, bundle.manifest.lookback, 0)[-rows:]
    if len(origins) == 0:
        raise TooFewRowsError(f"series '{frame.series}' has no gap-free {bundle.manifest.lookback} rows to try")
    found, wanted = bundle.forecaster.predict(frame, origins), reference.predict(frame, origins)
    shape = (len(origins), bundle.manifest.horizon, len(bundle.manifest.targets))
    label = f"the saved '{bundle.manifest.kind}' model"
    if found.shape != shape:
        raise BundleError(f"{label} forecasts the shape {found.shape} instead of {shape} on series '{frame.series}'")
    if not np.isfinite(found).all():
        raise BundleError(f"{label} forecasts values that are not finite on series '{frame.series}'")
    if not np.allclose(found, wanted, rtol=1e-6, atol=0.0):
        raise BundleError(f"{label} differs from the fitted one by up to {np.abs(found - wanted).max():g}")


def _shapes(arrays: Arrays) -> dict[str, ArrayShape]:
    return {name: ArrayShape(dtype=str(array.dtype), shape=array.shape) for name, array in arrays.items()}


def _part(arrays: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
