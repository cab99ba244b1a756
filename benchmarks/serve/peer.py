"""What both peers compute: the same bundle, the same library code, one forecast a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flts_ray.config_serving import ServeSettings
from flts_ray.errors import FltsError
from flts_ray.inference.engine import Engine
from flts_ray.inference.history import read_history
from flts_ray.inference.queries import Query
from flts_ray.inference.runtime import RuntimeChoice
from flts_ray.models.bundle import Bundle


class Answerer:
    """Forecasts with a bundle, with intervals, as one document.

    Args:
        folder: The bundle.
        version: What it is registered as.
        runtime: ``torch`` or ``onnx``.
    """

    def __init__(self, folder: Path, *, version: str, runtime: RuntimeChoice) -> None:
        import torch

        torch.set_num_threads(1)
        self.bundle = Bundle.load(folder)
        self.settings = ServeSettings()
        self._version = version
        self._engine = Engine(self.bundle, runtime=runtime)
        self._engine.check()  # the first forecast pays for imports: not the first client

    def answer(
        self, series: str | None, time: Sequence[str], columns: Mapping[str, Sequence[float | None] | np.ndarray]
    ) -> dict[str, Any]:
        """Forecast what follows one history.

        Raises:
            FltsError: If the history cannot be forecast from.
        """
        manifest = self.bundle.manifest
        checked = read_history(manifest, series=series, time=time, columns=columns, settings=self.settings)
        query = Query(
            history=checked.frame,
            horizon=manifest.horizon,
            levels=self._engine.levels,
            adapt_rows=self.settings.interval_rows,
            notices=checked.notices,
        )
        (made,) = self._engine.forecast([query])
        if isinstance(made, FltsError):
            raise made
        steps = [
            {
                "step": h + 1,
                "time": str(made.time[h].astype("datetime64[s]")),
                "target": target,
                "value": float(made.values[h, k]),
                "lower": float(made.lower[0, h, k]),
                "upper": float(made.upper[0, h, k]),
            }
            for h in range(len(made.time))
            for k, target in enumerate(made.targets)
        ]
        return {
            "model": {"version": self._version, "kind": manifest.kind},
            "forecasts": [
                {
                    "series": made.series,
                    "unit": made.unit,
                    "steps": steps,
                    "warnings": [{"code": n.code, "message": n.message} for n in made.notices],
                }
            ],
        }
