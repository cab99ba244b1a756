"""One trace from the sources to a forecast, over the processes of a real Ray, a real registry and a real service."""

from __future__ import annotations

import csv
import http.client
import json
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.desk import Desk, Started
from tests.helpers import Answer
from tests.services.ports import free_ports
from tests.telemetry.receiver import Received, Receiver, receiving

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@dataclass(frozen=True)
class Traced:
    """A run that was traced, and what its workers logged."""

    desk: Desk
    answer: Answer
    receiver: Receiver
    worker_lines: list[dict[str, Any]]

    @property
    def run(self) -> Received:
        return self.receiver.one("flts run")

    def path(self, span: Received) -> list[str]:
        """Names from the run down to a span."""
        names = [span.name]
        known = {other.span_id: other for other in self.receiver.spans}
        while span.parent_id in known:
            span = known[span.parent_id]
            names.insert(0, span.name)
        return names


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    """Two stations, a network and Prophet, promoted."""
    desk = Desk(tmp_path_factory.mktemp("traced"), ("alpha", "beta"))
    scratch = Path(tempfile.mkdtemp(prefix="ray-"))  # short: Ray's sockets lie in it
    with receiving() as receiver:
        answer = desk.run(
            env={"RAY_TMPDIR": str(scratch), "TRACEPARENT": CALLER},
            candidates="gru,prophet",
            training__epochs=20,
            telemetry__otlp_endpoint=receiver.endpoint,
        )
        lines = [
            json.loads(line)
            for file in scratch.glob("ray/session_2*/logs/worker-*.err")
            for line in file.read_text(encoding="utf-8").splitlines()
            if line.startswith('{"ts"')
        ]
        shutil.rmtree(scratch, ignore_errors=True)
        assert answer.code == 0, answer.err
        yield Traced(desk, answer, receiver, lines)


def test_everything_that_a_run_does_is_in_one_trace_that_the_caller_began(traced: Traced) -> None:
    spans = traced.receiver.spans
    assert {span.trace_id for span in spans} == {CALLER[3:35]}
    assert traced.run.parent_id == CALLER[36:52]
    assert not any(span.failed for span in spans)
    found = {tuple(traced.path(span)) for span in spans}
    assert found >= {
        ("flts run", "preprocess", "preprocess.shape_series"),
        ("flts run", "train", "fit", "train.worker", "load"),
        ("flts run", "train", "fit", "prophet.worker", "prophet.fit"),
        ("flts run", "evaluate"),
        ("flts run", "promote"),
        ("flts run", "report"),
    }
    assert {path[0] for path in found} == {"flts run"}  # no span has lost its parent


def test_spans_of_workers_say_whose_they_are(traced: Traced) -> None:
    receiver, document = traced.receiver, traced.answer.document
    assert traced.run.attributes["run_id"] == document["run_id"]
    assert receiver.one("preprocess").attributes["dataset_id"] == document["dataset_id"]
    assert {span.attributes["candidate"] for span in receiver.named("fit")} == {"gru", "prophet"}
    worker = receiver.one("train.worker")
    assert (worker.attributes["candidate"], worker.attributes["rank"]) == ("gru", 0)
    assert [event["epoch"] for name, event in worker.events if name == "epoch"][:3] == [1, 2, 3]
    fits = {(span.attributes["series"], span.attributes["target"]) for span in receiver.named("prophet.fit")}
    assert {series for series, _ in fits} == {"alpha", "beta"}
    processes = {span.resource["process.pid"] for span in receiver.spans}
    assert len(processes) >= 3  # the driver, the training worker, a Prophet worker


def test_every_line_of_the_run_and_of_its_workers_names_it(traced: Traced) -> None:
    document = traced.answer.document
    events = traced.desk.home / "runs" / document["run_id"] / "events.jsonl"
    lines = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    assert {line["run"] for line in lines} == {document["run_id"]}
    after = [line for line in lines if line["event"] not in ("stage_started", "preprocess_started")]
    assert {line.get("dataset") for line in after if line["ts"] > lines[5]["ts"]} == {document["dataset_id"]}
    works = {line["work"] for line in traced.worker_lines if line["event"] == "work_started"}
    assert works >= {"preprocess.shape_series", "train.worker", "prophet.worker"}
    for line in traced.worker_lines:
        assert line["run"] == document["run_id"]
        assert len(line["node_id"]) == 56
        assert line["pid"]
        assert line["trace_id"] == CALLER[3:35]
    trained = next(line for line in traced.worker_lines if line.get("work") == "train.worker")
    assert (trained["rank"], trained["dataset"]) == (0, document["dataset_id"])


def test_a_request_refers_to_the_run_that_made_the_model(traced: Traced, tmp_path: Path) -> None:
    receiver, desk = traced.receiver, traced.desk
    promote = receiver.one("promote")
    (port,) = free_ports(1)
    command = ["serve", "stations", "--home", str(desk.home), "--port", str(port)]
    command += ["--set", f"telemetry.otlp_endpoint={receiver.endpoint}", "--set", "serve.cpus_per_replica=0.5"]
    with Started(command, tmp_path) as started:
        started.wait_for(lambda e: e["event"] == "serving", "service")
        sent = json.dumps({"history": {"series": "alpha", **_history(desk)}})
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        other = CALLER.replace("4bf9", "abcd")
        connection.request("POST", "/v1/forecast", sent, {"Content-Type": "application/json", "traceparent": other})
        answer = connection.getresponse()
        assert (answer.status, bool(answer.read())) == (200, True)
        connection.close()
        [request] = receiver.wait_for("POST /v1/forecast")
        started.process.send_signal(signal.SIGTERM)
        started.process.wait(60)
    assert (request.trace_id, request.parent_id) == (other[3:35], other[36:52])
    assert request.links == [(promote.trace_id, promote.span_id)]
    assert request.attributes["flts.model.version"] == "1"
    assert receiver.children_of(request) == {"read", "wait", "compute", "write"}


def _history(desk: Desk) -> dict[str, Any]:
    """The last reports of a station in columns form."""
    with (desk.folder / "test" / "alpha.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[-60:]
    values = {name: [float(row[name]) for row in rows] for name in rows[0] if name != "time"}
    return {"columns": {"time": [row["time"] for row in rows], **values}}
