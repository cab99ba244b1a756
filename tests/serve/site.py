"""A service over HTTP in this process: a small champion with its run, its dataset and a real tracking store."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from flts_ray.evaluation.promotion import decide
from flts_ray.evaluation.stage import evaluate
from flts_ray.inference.engine import Engine
from serve.service import LoadedModel
from tests.serve.here import HereModels, HereService
from tests.serve.shelf import open_tracker
from tests.services.ports import free_ports
from tests.stages import Bench, make_bench

RUN_NAME = "the-run"


@dataclass(frozen=True)
class Champion:
    """A model that a run promoted."""

    bench: Bench
    model: LoadedModel

    def service(self, **sections: Any) -> HereService:
        return HereService(self.bench.with_settings(**sections), HereModels(current=self.model))


def make_champion(folder: Path, stations: tuple[str, ...] = ("alpha", "beta"), **sections: Any) -> Champion:
    """Preprocess, fit, score, decide, and log what ``flts run`` logs."""
    bench = make_bench(folder, stations, **sections)
    fitted = bench.fit()
    evaluated = evaluate(bench.dataset, {"gru": fitted}, {}, bench.settings)
    verdict = decide(evaluated.leaderboard, evaluated.checks, bench.settings.promotion, expected=("gru",))
    with open_tracker(bench) as tracker:
        with tracker.run(RUN_NAME) as run:
            with run.child("gru") as child:
                child.log_bundle(fitted.folder)
            run.log_json("leaderboard.json", json.loads(evaluated.leaderboard.to_json()))
            run.log_json("verdict.json", verdict.model_dump(mode="json"))
        assert tracker.flush()
        run_id = tracker.resolve(child.run_key)
    model = LoadedModel(
        name="flts-test", version="1", run_id=run_id, engine=Engine(fitted.bundle), loaded_at="2026-01-01T00:00:00Z"
    )
    return Champion(bench, model)


@contextmanager
def serving(app: ASGIApp) -> Iterator[str]:
    """Serve an application on a port of its own, and give its address."""
    (port,) = free_ports(1)
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 20
    while not server.started:
        assert thread.is_alive() and time.monotonic() < end, "the server did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
