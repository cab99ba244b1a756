"""Random test rows through HTTP, in every form a history can be sent in, against what evaluation computed for them."""

from __future__ import annotations

import http.client
import json
from typing import Any

import numpy as np

from benchmarks.harness import Row
from benchmarks.serve.checks import TOLERANCE, Answer, difference, read_answer
from benchmarks.serve.payloads import Form, history_of
from benchmarks.serve.reference import answer_of, time_text
from benchmarks.serve.scenario import Options, Result, scratch_folder
from benchmarks.serve.servers import NAMES, Kind, Server, serving
from flts_ray.data.frame import RawFrame
from flts_ray.data.windows import test_origins
from flts_ray.evaluation.backtest import backtest
from flts_ray.models.bundle import Bundle

ROWS = 200
FORMS: tuple[tuple[Form, bool], ...] = (("columns", False), ("rows", False), ("columns", True), ("rows", True))


def run(options: Options) -> Result:
    """200 random test rows in four forms, through the service as it is started."""
    home = options.home
    bundle = home.bundle(home.champion)
    cases = _cases(options, bundle)
    rows: list[Row] = []
    with scratch_folder() as scratch:
        for kind in options.profiles():
            with serving(kind, home, scratch, settings=options.settings) as server:
                rows += _compared(kind, server, cases)
    return Result(name="parity", rows=rows, detail={"history_rows": bundle.context_rows, "model": bundle.manifest.kind})


def _cases(options: Options, bundle: Bundle) -> list[tuple[RawFrame, list[float], Answer]]:
    """Histories, what evaluation forecast at their last row, and what the bundle makes of the history alone."""
    dataset, context = options.home.dataset, bundle.context_rows
    raw, frame = dataset.raws[0], dataset.frames[0]
    origins = test_origins(frame, bundle.manifest.lookback, bundle.manifest.horizon)
    origins = origins[origins >= context - 1]
    chosen = np.sort(np.random.default_rng(7).choice(origins, size=min(ROWS, len(origins)), replace=False))
    evaluated = backtest(frame, bundle.forecaster, chosen).predictions
    adapt_rows = options.home.settings.serve.interval_rows
    cases = []
    for origin, values in zip(chosen.tolist(), evaluated, strict=True):
        cut = slice(origin + 1 - context, origin + 1)
        history = RawFrame(series=raw.series, time=raw.time[cut], columns=raw.columns, values=raw.values[cut])
        cases.append((history, values.ravel().tolist(), answer_of(bundle, [history], adapt_rows=adapt_rows)))
    return cases


def _compared(kind: Kind, server: Server, cases: list[tuple[RawFrame, list[float], Answer]]) -> list[Row]:
    random = np.random.default_rng(11)
    largest: dict[str, float] = {}
    bounds = 0.0
    for history, evaluated, wanted in cases:
        for form, shuffled in FORMS:
            order = random.permutation(len(history.columns) + 1).tolist() if shuffled else None
            answer = _ask(server, {"history": history_of(history, form, order)})
            values = [step[1] for step in answer[0]]
            name = f"{form} form" + (", columns shuffled" if shuffled else "")
            gap = max(abs(v - e) / abs(e) for v, e in zip(values, evaluated, strict=True))
            largest[name] = max(gap, largest.get(name, 0.0))
            bounds = max(bounds, difference(answer, wanted))
            if answer[0][0][0] != time_text(history.time[-1] + (history.time[-1] - history.time[-2])):
                raise AssertionError(f"the forecast after {history.time[-1]} is of {answer[0][0][0]}")
    label = f"{NAMES[kind]}: {len(cases)} test rows"
    rows = [_row(f"{label}, {name}: forecasts against evaluation", gap) for name, gap in largest.items()]
    return [*rows, _row(f"{label}: forecasts and intervals against the bundle on the same history", bounds)]


def _row(case: str, gap: float) -> Row:
    return Row(
        benchmark="parity",
        case=case,
        ours=gap,
        unit="largest relative difference",
        score=gap,
        sense="<=",
        bar=TOLERANCE,
    )


def _ask(server: Server, body: dict[str, Any]) -> Answer:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
    connection.request("POST", server.path, json.dumps(body), {"Content-Type": "application/json"})
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    if reply.status != 200:
        raise AssertionError(f"{reply.status}: {content[:500]!r}")
    return read_answer(json.loads(content))[1]
