"""What a service would have seen and answered, had it been asked after every row of a series."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from flts_ray.data.frame import RawFrame
from flts_ray.evaluation.backtest import outcomes
from flts_ray.evaluation.intervals import bands, unpack
from flts_ray.inference.queries import Forecast, Query
from flts_ray.models.bundle import Bundle


def answers(bundle: Bundle, raw: RawFrame, *, history_rows: int = 20) -> Iterator[tuple[Query, Forecast]]:
    """A query and its answer after each row that has a history, as evaluation would have it, intervals included."""
    manifest, forecaster = bundle.manifest, bundle.forecaster
    frame = manifest.transforms[raw.series].apply(raw, 0)
    origins = np.arange(manifest.lookback - 1, len(frame), dtype=np.int64)
    values = forecaster.predict(frame, origins).astype(np.float64)
    observed, _ = outcomes(frame, origins, manifest.horizon)
    states = unpack(manifest.intervals, bundle.interval_arrays)[raw.series]
    lines = bands(values, observed, origins, states)
    step = np.timedelta64(round(manifest.step_s * 1e9), "ns")
    for i, origin in enumerate(origins.tolist()):
        past = slice(max(0, origin + 1 - history_rows), origin + 1)
        history = RawFrame(series=raw.series, time=raw.time[past], columns=raw.columns, values=raw.values[past])
        yield (
            Query(history=history, horizon=manifest.horizon, levels=(0.9,), adapt_rows=0),
            Forecast(
                series=raw.series,
                origin=raw.time[origin],
                time=raw.time[origin] + step * np.arange(1, manifest.horizon + 1),
                values=values[i],
                lower=lines.lower[None, i],
                upper=lines.upper[None, i],
                levels=(0.9,),
                direct_steps=manifest.horizon,
                targets=manifest.targets,
                unit=manifest.target_unit,
                step_s=manifest.step_s,
            ),
        )
