"""Request bodies from test rows, in every form that the service and its peers take."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from benchmarks.serve.checks import Answer, Expected
from benchmarks.serve.reference import answer_of, time_text
from flts_ray.data.dataset import Dataset
from flts_ray.data.frame import RawFrame
from flts_ray.models.bundle import Bundle

Form = Literal["columns", "rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Payloads:
    """Bodies and their right answers.

    Attributes:
        ours: Bodies of ``POST /v1/forecast``.
        mlflow: The same histories for ``/invocations``; empty where a request holds several.
        expected: Right answers, by model version.
        rows: Rows of one history.
    """

    ours: tuple[str, ...]
    mlflow: tuple[str, ...]
    expected: tuple[Expected, ...]
    rows: int


def histories(dataset: Dataset, *, rows: int, count: int, lookback: int, seed: int = 5) -> list[RawFrame]:
    """Stretches of the data that end at random test rows and whose latest rows have no gap.

    Args:
        dataset: Rows of the stations; the first one's are taken.
        rows: Rows of each stretch.
        count: How many.
        lookback: Rows at the end that must be free of gaps.
        seed: Of the choice.

    Raises:
        ValueError: If there are not enough of them.
    """
    raw, frame = dataset.raws[0], dataset.frames[0]
    last = np.arange(max(frame.train_rows, rows) - 1, len(frame))
    last = last[frame.segment[last - lookback + 1] == frame.segment[last]]
    if len(last) < count:
        raise ValueError(f"{count} histories of {rows} rows were asked for, the test rows hold {len(last)}")
    chosen = np.random.default_rng(seed).choice(last, size=count, replace=False)
    return [_cut(raw, int(end) + 1 - rows, int(end) + 1) for end in chosen]


def make_payloads(
    stretches: Sequence[RawFrame], bundles: Mapping[str, Bundle], *, adapt_rows: int, together: int = 1
) -> Payloads:
    """Bodies in the columns form, with what every version should answer.

    Args:
        stretches: Histories.
        bundles: Models by version.
        adapt_rows: As the service is set.
        together: Histories in one request.
    """
    groups = [list(stretches[i : i + together]) for i in range(0, len(stretches), together)]
    return Payloads(
        ours=tuple(json.dumps(_request(group)) for group in groups),
        mlflow=tuple(json.dumps({"inputs": columns_of(group[0])}) for group in groups) if together == 1 else (),
        expected=tuple(
            {version: _answer(bundle, group, adapt_rows) for version, bundle in bundles.items()} for group in groups
        ),
        rows=len(stretches[0]),
    )


def history_of(raw: RawFrame, form: Form = "columns", order: Sequence[int] | None = None) -> dict[str, Any]:
    """A history in a form of the interface; ``order`` permutes the columns, the time among them."""
    columns = columns_of(raw)
    names = [list(columns)[i] for i in order] if order is not None else list(columns)
    columns = {name: columns[name] for name in names}
    if form == "columns":
        return {"series": raw.series, "columns": columns}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return {"series": raw.series, "rows": rows}


def columns_of(raw: RawFrame) -> dict[str, list[Any]]:
    """Values by column, times as text, None for what is missing."""
    values = np.where(np.isfinite(raw.values), raw.values, None).astype(object)
    return {"time": [time_text(t) for t in raw.time]} | {
        name: values[:, i].tolist() for i, name in enumerate(raw.columns)
    }


def _request(group: list[RawFrame]) -> dict[str, Any]:
    return {"history": history_of(group[0])} if len(group) == 1 else {"histories": [history_of(raw) for raw in group]}


def _answer(bundle: Bundle, group: list[RawFrame], adapt_rows: int) -> Answer:
    return answer_of(bundle, group, adapt_rows=adapt_rows)


def _cut(raw: RawFrame, start: int, stop: int) -> RawFrame:
    return RawFrame(series=raw.series, time=raw.time[start:stop], columns=raw.columns, values=raw.values[start:stop])
