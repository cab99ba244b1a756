"""Forecasts as JSON. Equal requests to the same version give equal bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic_core import to_json

from flts_ray.data.frame import TimeArray
from flts_ray.inference.queries import Forecast
from serve.problems import Refusal
from serve.service import LoadedModel


def answer_json(model: LoadedModel, entries: Sequence[dict[str, Any]]) -> bytes:
    """The body of an answer; what is not finite is null.

    Args:
        model: What answered.
        entries: From :func:`forecast_entry` and :func:`error_entry`, in the order of the histories.
    """
    return to_json({"model": model_entry(model), "forecasts": entries}, inf_nan_mode="null")


def model_entry(model: LoadedModel) -> dict[str, str]:
    """How an answer names its model."""
    manifest = model.engine.bundle.manifest
    return {
        "name": model.name,
        "version": model.version,
        "run_id": model.run_id,
        "dataset_id": manifest.identity.dataset_id,
        "kind": manifest.kind,
    }


def forecast_entry(forecast: Forecast, offset_s: int | None) -> dict[str, Any]:
    """A forecast as answered.

    Args:
        forecast: Its times are in UTC if they have a zone.
        offset_s: Seconds east of UTC in which they are answered; None: without a zone.
    """
    origin, *times = time_texts(np.concatenate([[forecast.origin], forecast.time]), offset_s)
    return {
        "series": forecast.series,
        "origin": origin,
        "step_s": forecast.step_s,
        "unit": forecast.unit,
        "targets": forecast.targets,
        "direct_steps": forecast.direct_steps,
        "method": "direct" if len(times) <= forecast.direct_steps else "recursive",
        "steps": _steps(forecast, times),
        "warnings": [{"code": notice.code, "message": notice.message} for notice in forecast.notices],
    }


def error_entry(series: str | None, refusal: Refusal) -> dict[str, Any]:
    """What is answered for one of several histories that has no forecast."""
    return {"series": series, "error": {"title": refusal.title, "problems": refusal.listed()}}


def time_texts(time: TimeArray, offset_s: int | None) -> list[str]:
    """Times as ISO 8601, to the second unless one of them has a fraction.

    Args:
        time: ``(n,)``, in UTC if there is a zone.
        offset_s: Seconds east of UTC; None: without a zone.
    """
    local = time if not offset_s else time + np.timedelta64(offset_s, "s")
    whole = local.astype("datetime64[s]")
    texts: list[str] = np.datetime_as_string(whole if (whole == local).all() else local).tolist()
    zone = zone_text(offset_s)
    return [text + zone for text in texts] if zone else texts


def zone_text(offset_s: int | None) -> str:
    """``Z``, an offset such as ``+01:00``, or nothing."""
    if offset_s is None:
        return ""
    hours, minutes = divmod(abs(offset_s) // 60, 60)
    return f"{'-' if offset_s < 0 else '+'}{hours:02d}:{minutes:02d}" if offset_s else "Z"


def _steps(forecast: Forecast, times: Sequence[str]) -> list[dict[str, Any]]:
    """One entry a step and target; ``lower`` and ``upper`` are those of the first level."""
    values = forecast.values.tolist()
    bounds = list(zip(forecast.levels, forecast.lower.tolist(), forecast.upper.tolist(), strict=True))
    steps = []
    for h, time in enumerate(times):
        for k, target in enumerate(forecast.targets):
            intervals = [{"level": level, "lower": lower[h][k], "upper": upper[h][k]} for level, lower, upper in bounds]
            first = intervals[0] if intervals else {"lower": None, "upper": None}
            steps.append(
                {
                    "step": h + 1,
                    "time": time,
                    "target": target,
                    "value": values[h][k],
                    "lower": first["lower"],
                    "upper": first["upper"],
                    "intervals": intervals,
                }
            )
    return steps
