"""Scalers of one column: fitted on training rows, kept as plain numbers, invertible."""

from __future__ import annotations

import numpy as np

from flts_ray.config import ScalerKind, ScalingSettings, Section
from flts_ray.data.frame import FloatArray
from flts_ray.errors import NegativeValueError


class ColumnScaler(Section):
    """``z = (g(x + offset) - center) / scale`` with ``g = log`` for kind ``log``, else the identity.

    A constant column gets scale 1, so it maps to zero and back to itself.
    """

    kind: ScalerKind
    offset: float = 0.0
    center: float = 0.0
    scale: float = 1.0

    @classmethod
    def fit(cls, values: FloatArray, settings: ScalingSettings, *, name: str) -> ColumnScaler:
        """Learn the numbers from the training rows.

        Args:
            values: ``(n,)`` without NaN.
            settings: Which scaler, and its constants.
            name: Column name, for the error.

        Raises:
            NegativeValueError: If kind is ``log`` and a value is negative.
        """
        kind, offset = settings.scaler, settings.add
        if kind == "log":
            lowest = float(values.min())
            if lowest < 0:
                raise NegativeValueError(
                    f"column '{name}' holds negative values (lowest {lowest:g}), which a log scale cannot take: "
                    "correct the data or choose another scaling.scaler, for example 'standard'"
                )
            offset += settings.log_offset_fraction * float(values.mean()) or 1.0
        shifted = np.log(values + offset) if kind == "log" else values + offset
        center, scale = _center_and_scale(shifted, kind)
        # Rounding leaves a trace of spread in a constant column, and nothing can be divided by a subnormal number.
        constant = scale <= max(1e-12 * abs(center), 1e-150)
        return cls(kind=kind, offset=offset, center=center, scale=1.0 if constant else scale)

    def forward(self, x: FloatArray) -> FloatArray:
        """Physical units to scaled. Values below zero count as zero on a log scale."""
        g = np.log(np.maximum(x, 0.0) + self.offset) if self.kind == "log" else x + self.offset
        return (g - self.center) / self.scale

    def inverse(self, z: FloatArray) -> FloatArray:
        """Scaled units to physical. Never below zero on a log scale."""
        g = z * self.scale + self.center
        return np.maximum(np.exp(g) - self.offset, 0.0) if self.kind == "log" else g - self.offset


def _center_and_scale(values: FloatArray, kind: ScalerKind) -> tuple[float, float]:
    if kind in ("log", "standard"):
        return float(values.mean()), float(values.std())
    if kind == "minmax":
        return float(values.min()), float(values.max() - values.min())
    if kind == "robust":
        low, middle, high = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
        return middle, high - low
    if kind == "maxabs":
        return 0.0, float(np.abs(values).max())
    return 0.0, 1.0
