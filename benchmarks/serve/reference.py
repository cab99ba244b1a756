"""The right answers, worked out from a bundle the way evaluation does it: no part of the service is asked."""

from __future__ import annotations

import numpy as np

from benchmarks.serve.checks import Answer, Step
from flts_ray.data.frame import RawFrame
from flts_ray.data.windows import training_origins
from flts_ray.evaluation.backtest import backtest
from flts_ray.evaluation.intervals import bands, unpack
from flts_ray.models.bundle import Bundle


def answer_of(bundle: Bundle, histories: list[RawFrame], *, adapt_rows: int) -> Answer:
    """Forecasts of the rows that follow each history, as far as the model was trained.

    Args:
        bundle: The model.
        histories: Rows of a station of the bundle.
        adapt_rows: Latest origins by whose outcomes the intervals adapt.
    """
    return [_steps(bundle, raw, adapt_rows) for raw in histories]


def _steps(bundle: Bundle, raw: RawFrame, adapt_rows: int) -> list[Step]:
    manifest, frame = bundle.manifest, bundle.prepare(raw)
    origins = training_origins(frame.segment, manifest.lookback, 0)
    origins = origins[origins >= len(frame) - 1 - adapt_rows]
    test = backtest(frame, bundle.forecaster, origins)
    states = unpack(manifest.intervals, bundle.interval_arrays)[frame.series]
    lines = bands(test.predictions, test.observed, test.origins, states)
    step = np.timedelta64(round(manifest.step_s * 1e9), "ns")
    return [
        (
            time_text(raw.time[-1] + (h + 1) * step),
            float(test.predictions[-1, h, k]),
            float(lines.lower[-1, h, k]),
            float(lines.upper[-1, h, k]),
        )
        for h in range(manifest.horizon)
        for k in range(len(manifest.targets))
    ]


def time_text(time: np.datetime64) -> str:
    """ISO 8601 without zone, to the second."""
    return str(np.datetime_as_string(time, unit="s"))
