"""The proxy breaks what it is told to break, and nothing else."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.services import FaultProxy

pytestmark = pytest.mark.unit

BODY = bytes(range(256)) * 1000
SOON_S = 5.0


class _Echo(BaseHTTPRequestHandler):
    """Answers GET with BODY and PUT with what was sent, on connections that stay open."""

    protocol_version = "HTTP/1.1"
    hosts: list[str] = []  # noqa: RUF012 - a fresh class for every server

    def do_GET(self) -> None:
        self._answer(BODY)

    def do_PUT(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body: bytes) -> None:
        self.hosts.append(self.headers["Host"])
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hosts() -> list[str]:
    return []


@pytest.fixture
def proxy(hosts: list[str]) -> Iterator[FaultProxy]:
    handler = type("Echo", (_Echo,), {"hosts": hosts})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with FaultProxy("127.0.0.1", server.server_port) as running:
            yield running
        server.shutdown()


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=SOON_S)
    yield connection
    connection.close()


def get(client: http.client.HTTPConnection, path: str = "/") -> tuple[int, bytes]:
    try:
        client.request("GET", path)
        answer = client.getresponse()
        return answer.status, answer.read()
    except OSError:
        client.close()  # the next one begins afresh
        raise


def test_bytes_pass_unchanged_with_the_hosts_name(
    proxy: FaultProxy, client: http.client.HTTPConnection, hosts: list[str]
) -> None:
    assert get(client) == (200, BODY)
    client.request("PUT", "/x", body=BODY * 10)
    assert client.getresponse().read() == BODY * 10
    assert set(hosts) == {f"127.0.0.1:{proxy.port}"}
    assert proxy.requests == 2


def test_refused_then_back_on_the_same_port(proxy: FaultProxy, client: http.client.HTTPConnection) -> None:
    get(client)
    port = proxy.port
    for _ in range(3):
        proxy.set("refuse")
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
            get(client)  # the open connection was cut
        with pytest.raises(ConnectionRefusedError):
            get(client)
        proxy.set("pass")
        assert proxy.port == port
        assert get(client) == (200, BODY)


def test_hanging_never_answers(proxy: FaultProxy, client: http.client.HTTPConnection, hosts: list[str]) -> None:
    proxy.set("hang")
    client.timeout = 0.2
    with pytest.raises(TimeoutError):
        get(client)
    assert (proxy.requests, hosts) == (1, [])


def test_errors_come_from_the_proxy(proxy: FaultProxy, client: http.client.HTTPConnection, hosts: list[str]) -> None:
    proxy.set("error", status=500, body=b"{}")
    assert get(client) == (500, b"{}")
    client.request("PUT", "/x", body=BODY * 100)  # a large request is read to its end before the connection goes
    assert client.getresponse().status == 500
    client.request("HEAD", "/x")
    assert client.getresponse().read() == b""
    assert (proxy.requests, hosts) == (3, [])
    proxy.set("error")
    assert get(client)[0] == 503


def test_slow_answers_are_whole(proxy: FaultProxy, client: http.client.HTTPConnection) -> None:
    proxy.set("slow", delay_s=0.3)
    client.timeout = 0.1
    with pytest.raises(TimeoutError):
        get(client)
    client.timeout = SOON_S
    assert get(client) == (200, BODY)


def test_an_answer_is_cut(proxy: FaultProxy, client: http.client.HTTPConnection) -> None:
    proxy.set("cut", after_bytes=1000)
    client.request("GET", "/")
    answer = client.getresponse()
    with pytest.raises((http.client.IncompleteRead, ConnectionError)) as cut:
        answer.read()
    if isinstance(cut.value, http.client.IncompleteRead):
        assert 0 < len(cut.value.partial) < 1000


def test_a_fault_for_the_length_of_a_block(proxy: FaultProxy, client: http.client.HTTPConnection) -> None:
    with proxy.during("error", status=429):
        assert get(client)[0] == 429
    client.close()
    assert get(client)[0] == 200


def test_a_dead_target_is_a_cut_connection(client: http.client.HTTPConnection, proxy: FaultProxy) -> None:
    with FaultProxy("127.0.0.1", 1) as lonely:
        to_nobody = http.client.HTTPConnection("127.0.0.1", lonely.port, timeout=SOON_S)
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
            get(to_nobody)
        to_nobody.close()
