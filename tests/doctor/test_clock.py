"""What time it is elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from flts_ray.doctor.clock import greet, report_skew
from flts_ray.doctor.findings import Report, run_checks
from flts_ray.doctor.storage import storage_checks
from flts_ray.doctor.tracking import tracking_checks
from flts_ray.errors import InfrastructureError
from tests.doctor.findings import resolved
from tests.services import FaultProxy, free_ports

pytestmark = pytest.mark.unit


class _Clock(BaseHTTPRequestHandler):
    """Answers 403 with the time it is told to believe in."""

    offset_s: float | None = 0.0

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.send_response_only(403)
        if self.offset_s is not None:
            self.send_header("Date", formatdate(time.time() + self.offset_s, usegmt=True))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def elsewhere(request: pytest.FixtureRequest) -> Iterator[str]:
    handler = type("Clock", (_Clock,), {"offset_s": request.param})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("elsewhere", "state", "said"),
    [
        (0.0, "ok", "within 5 s"),
        (60.0, "warning", "s ahead of this machine"),
        (-60.0, "warning", "behind this machine's"),
        (3600.0, "trouble", "signed requests are refused"),
        (-3600.0, "trouble", "signed requests are refused"),
        (None, "skipped", "does not tell"),
    ],
    indirect=["elsewhere"],
)
def test_clocks_are_compared(elsewhere: str, state: str, said: str) -> None:
    report = Report("clock", elsewhere)
    answer = greet(elsewhere)
    assert answer.status == 403
    report_skew(report, answer)
    (found,) = report.findings
    assert found.state == state
    assert said in found.detail


@pytest.mark.parametrize("elsewhere", [3600.0], indirect=True)
def test_servers_of_another_time_are_found(elsewhere: str) -> None:
    settings = resolved(storage__root="s3://b/p", storage__endpoint_url=elsewhere, tracking__uri=elsewhere).settings
    found = run_checks([storage_checks(settings)[:2], tracking_checks(settings)[:2]])
    assert [(finding.check, finding.state) for finding in found] == [
        ("store: server", "ok"),
        ("store: clock", "trouble"),
        ("tracker: server", "ok"),
        ("tracker: clock", "trouble"),
    ]


def test_nobody_there() -> None:
    with pytest.raises(InfrastructureError, match="does not answer"):
        greet(f"http://127.0.0.1:{free_ports(1)[0]}")
    with FaultProxy("127.0.0.1", 1) as proxy:
        proxy.set("hang")
        with pytest.raises(InfrastructureError, match="timed out"):
            greet(proxy.url, timeout_s=0.1)
