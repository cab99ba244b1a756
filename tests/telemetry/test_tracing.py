"""Traces as a collector gets them: one tree a run, whatever threads and processes it took, and never at its cost."""

from __future__ import annotations

import contextvars
import json
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flts_ray.config import Settings
from flts_ray.config_experiments import TelemetrySettings
from flts_ray.data.storage import Store
from flts_ray.errors import TrainingError
from flts_ray.telemetry import collector, tracing, trails
from flts_ray.telemetry.collector import collector_of
from flts_ray.telemetry.origin import Origin, joined, origin
from flts_ray.training.capacity import Job, run_jobs
from tests.telemetry.receiver import Receiver, receiving

pytestmark = pytest.mark.unit

ELSEWHERE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def to_there(receiver: Receiver) -> TelemetrySettings:
    return TelemetrySettings(otlp_endpoint=receiver.endpoint)


def losses(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.message.startswith("traces_")]


def test_spans_are_a_tree_with_attributes_events_and_a_resource(
    receiver: Receiver, to_there: TelemetrySettings
) -> None:
    with tracing.traced(to_there, "run", run_id="r-1", dataset_id=None):
        with tracing.span("preprocess", series=("alpha", "beta")):
            tracing.annotate(rows=7)
        with tracing.span("train"), tracing.span("fit", candidate="gru"):
            tracing.note("epoch", epoch=1, val_rmse_scaled=0.5)
    run, fit = receiver.one("run"), receiver.one("fit")
    assert (run.parent_id, run.attributes) == ("", {"run_id": "r-1"})
    assert receiver.children_of(run) == {"preprocess", "train"}
    assert receiver.children_of(receiver.one("train")) == {"fit"}
    assert receiver.one("preprocess").attributes == {"series": ["alpha", "beta"], "rows": 7}
    assert fit.events == [("epoch", {"epoch": 1, "val_rmse_scaled": 0.5})]
    assert {span.trace_id for span in receiver.spans} == {run.trace_id}
    assert (run.resource["service.name"], run.resource["host.name"]) == ("flts", socket.gethostname())
    assert receiver.paths == {"/v1/traces"}
    assert not any(span.failed for span in receiver.spans)


def test_an_error_fails_the_spans_that_it_leaves_and_hides_secrets(
    receiver: Receiver, to_there: TelemetrySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_SECRET", "hidden-value")
    with pytest.raises(TrainingError), tracing.traced(to_there, "run", address="hidden-value"):
        with tracing.span("fine"):
            pass
        with tracing.span("train"):
            raise TrainingError("it broke at hidden-value")
    assert {span.name: span.failed for span in receiver.spans} == {"run": True, "train": True, "fine": False}
    train = receiver.one("train")
    assert (train.attributes["error.type"], train.message) == ("TrainingError", "it broke at ***")
    assert receiver.one("run").attributes["address"] == "***"


def test_several_commands_are_one_trace_by_the_environment(
    receiver: Receiver, to_there: TelemetrySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text, trace, parent in ((ELSEWHERE, ELSEWHERE[3:35], ELSEWHERE[36:52]), ("nonsense", None, "")):
        monkeypatch.setenv("TRACEPARENT", text)
        with tracing.traced(to_there, "run"):
            pass
        run = receiver.spans.pop()
        assert run.parent_id == parent
        assert trace in (None, run.trace_id)
    monkeypatch.setenv("TRACEPARENT", ELSEWHERE[:-2] + "00")  # whoever began it decided not to keep it
    with tracing.traced(to_there, "run"):
        pass
    assert receiver.spans == []


def test_without_a_collector_nothing_is_imported_and_nothing_done() -> None:
    code = """
import sys
from flts_ray.config_experiments import TelemetrySettings
from flts_ray.telemetry import tracing
from flts_ray.telemetry.origin import joined, origin
with tracing.traced(TelemetrySettings(), "run"), tracing.span("train", rows=1):
    tracing.annotate(rows=2); tracing.note("epoch"); tracing.link("x")
    with joined(origin(), "task", node_id="n"):
        found = [tracing.traceparent(), tracing.tags(), tracing.endpoint(), tracing.here()]
assert found == ["", {}, "", None], found
print([name for name in sys.modules if name.startswith(("opentelemetry", "requests", "ray", "torch"))])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_fits_that_run_side_by_side_are_children_of_their_stage(
    receiver: Receiver, to_there: TelemetrySettings
) -> None:
    def fit(name: str) -> None:
        with tracing.span("fit", candidate=name):
            pass

    with tracing.traced(to_there, "run"), tracing.span("train"):
        run_jobs([Job(name, 1.0, lambda n=name: fit(n)) for name in ("gru", "lstm")], 2.0)
    train = receiver.one("train")
    assert [(span.attributes["candidate"], span.parent_id) for span in receiver.named("fit")] == [
        ("gru", train.span_id),
        ("lstm", train.span_id),
    ]


def test_a_worker_joins_the_trace_and_sends_its_spans_before_it_goes(
    receiver: Receiver, to_there: TelemetrySettings
) -> None:
    sent: list[Origin] = []
    with tracing.traced(to_there, "run"), tracing.span("fit"):
        sent.append(origin())

    def work() -> None:
        with joined(sent[0], "train.worker", node_id="node-1", rank=1), tracing.span("load"):
            pass
        assert len(receiver.named("load")) == 1  # sent already
        assert tracing.traceparent() == ""

    thread = threading.Thread(target=contextvars.Context().run, args=(work,))  # as another process: it knows nothing
    thread.start()
    thread.join()
    worker = receiver.one("train.worker")
    assert worker.parent_id == receiver.one("fit").span_id
    assert receiver.children_of(worker) == {"load"}
    assert (worker.attributes["rank"], worker.attributes["node_id"]) == (1, "node-1")


@pytest.mark.parametrize("trouble", ["refused", "hanging", "error"])
def test_a_collector_in_trouble_is_asked_once_and_fails_nothing(
    trouble: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "EXPORT_S", 0.3)
    with receiving(delay_s=60.0 if trouble == "hanging" else 0.0, status=500) as receiver, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}" if trouble == "refused" else receiver.endpoint
        settings = TelemetrySettings(otlp_endpoint=address)
        for _ in range(20):
            with tracing.traced(settings, "run"), tracing.span("train"):
                pass
        assert receiver.requests == {"refused": 0, "hanging": 1, "error": 1}[trouble]
    assert losses(caplog) == ["traces_lost"]


def test_the_end_of_a_run_does_not_wait_for_a_slow_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "FLUSH_S", 0.1)
    monkeypatch.setattr(collector, "EXPORT_S", 30.0)
    with receiving(delay_s=3.0) as receiver:
        with tracing.traced(TelemetrySettings(otlp_endpoint=receiver.endpoint), "run"):
            pass
        assert receiver.spans == []
        receiver.wait_for("run")  # taken all the same, by a thread that nobody waits for


def test_a_collector_that_comes_back_gets_what_ends_then(
    receiver: Receiver, to_there: TelemetrySettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flts_ray")
    receiver.status = 400
    with tracing.traced(to_there, "first"):
        pass
    receiver.status = 200
    with tracing.traced(to_there, "second"):
        pass
    assert receiver.spans == []  # it is left alone for a while
    monkeypatch.setattr(collector_of(receiver.endpoint, "flts")._outlet, "_closed_until_s", 0.0)
    with tracing.traced(to_there, "third"):
        pass
    assert [span.name for span in receiver.spans] == ["third"]
    assert losses(caplog) == ["traces_lost", "traces_sent_again"]
    assert caplog.records[-1].fields["lost_spans"] == 2


def test_what_was_made_by_another_trace_is_referred_to(
    receiver: Receiver, to_there: TelemetrySettings, tmp_path: Path
) -> None:
    store = Store(str(tmp_path))
    trails.leave(store, "dataset-1")
    trails.follow(store, "dataset-1")
    assert store.list() == []
    with tracing.traced(to_there, "made"):
        trails.leave(store, "dataset-1")
        assert tracing.tags() == {"traceparent": store.read_bytes("traces/dataset-1").decode()}
    with tracing.traced(to_there, "used"):
        trails.follow(store, "dataset-1")
        trails.follow(store, "never made")
    store.write_bytes("traces/dataset-1", b"\\xffno traceparent")
    with tracing.traced(to_there, "damaged"):
        trails.follow(store, "dataset-1")
    made = receiver.one("made")
    assert receiver.one("used").links == [(made.trace_id, made.span_id)]
    assert receiver.one("used").trace_id != made.trace_id
    assert receiver.one("damaged").links == []


def test_lines_of_the_log_name_the_trace(
    to_there: TelemetrySettings, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    from flts_ray.telemetry import logging as log

    log.configure(stream=sys.stderr)
    try:
        with log.bound(run="r-1"), tracing.traced(to_there, "run"):
            log.event("inside")
    finally:
        log.reset()
    line = json.loads(capsys.readouterr().err)
    assert (line["run"], line["trace_id"]) == ("r-1", receiver.one("run").trace_id)


def test_a_fraction_of_the_traces_of_requests_is_kept_and_all_that_were_kept_elsewhere(receiver: Receiver) -> None:
    there = collector_of(receiver.endpoint, "flts-serve", 0.25)
    with tracing.below(there, "", flush_s=5.0):
        for _ in range(400):
            with tracing.span("request"):
                pass
    kept = len(receiver.named("request"))
    assert 50 < kept < 150
    for _ in range(20):
        with tracing.below(there, ELSEWHERE, flush_s=5.0), tracing.span("called"):
            pass
    assert len(receiver.named("called")) == 20


def test_an_address_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="no address of OTLP over HTTP"):
        Settings.model_validate({"telemetry": {"otlp_endpoint": "collector:4317"}})
