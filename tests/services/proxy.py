"""A TCP proxy on loopback that breaks what passes through it, on command."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from tests.services.ports import free_ports

Mode = Literal["pass", "refuse", "hang", "error", "slow", "cut"]

REQUEST = re.compile(rb"(GET|HEAD|PUT|POST|PATCH|DELETE|OPTIONS) \S+ HTTP/1")
BLOCK = 1 << 16


@dataclass(eq=False)
class _Connection:
    """One client, and its counterpart at the target while there is one."""

    client: socket.socket
    upstream: socket.socket | None = None
    closed: threading.Event = field(default_factory=threading.Event)
    fresh: bool = True  # the client has spoken since the last answer began
    answered: int = 0  # bytes of the present answer

    def close(self) -> None:
        self.closed.set()
        for end in (self.client, self.upstream):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)  # wakes whoever reads from it
                end.close()


class FaultProxy:
    """Passes bytes to a server unchanged, or does one of these:

    * ``refuse``: connections are refused; the same port answers again when another mode is set.
    * ``hang``: accepts, reads, never answers.
    * ``error``: answers every request with ``status`` (503) and ``body`` itself.
    * ``slow``: waits ``delay_s`` before each answer.
    * ``cut``: closes the connection after ``after_bytes`` of an answer.

    A change of mode cuts what is open. Requests pass unchanged, so signatures over the host (this proxy's, as the
    client sees it) stay valid.

    Attributes:
        port: Where it listens on 127.0.0.1.
        requests: HTTP requests seen so far, in every mode but ``refuse``.
    """

    def __init__(self, target_host: str, target_port: int) -> None:
        self.target = (target_host, target_port)
        self.port = 0
        self.requests = 0
        self._mode: Mode = "pass"
        self._status = 503
        self._body: bytes | None = None
        self._delay_s = 0.0
        self._after_bytes = 0
        self._guard = threading.Lock()
        self._socket: socket.socket | None = None
        self._listening = False
        self._connections: set[_Connection] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def mode(self) -> Mode:
        return self._mode

    def start(self) -> FaultProxy:
        with self._guard:
            self._listen()
        return self

    def stop(self) -> None:
        with self._guard:
            self._silence()
            self._cut_all()

    def __enter__(self) -> FaultProxy:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def set(
        self,
        mode: Mode,
        *,
        status: int = 503,
        body: bytes | None = None,
        delay_s: float = 1.0,
        after_bytes: int = 0,
    ) -> None:
        """Change what happens to every connection from now on, and cut those that are open."""
        with self._guard:
            self._mode, self._status, self._body = mode, status, body
            self._delay_s, self._after_bytes = delay_s, after_bytes
            if mode == "refuse":
                self._silence()
                self._socket = self._bound()  # bound without listening: refused, and nobody else takes the port
            elif not self._listening:
                self._listen()
            self._cut_all()

    @contextlib.contextmanager
    def during(self, mode: Mode, **options: float) -> Iterator[None]:
        """A fault for the length of a block."""
        self.set(mode, **options)  # type: ignore[arg-type]
        try:
            yield
        finally:
            self.set("pass")

    def _bound(self) -> socket.socket:
        self.port = self.port or free_ports(1)[0]
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", self.port))
        return bound

    def _listen(self) -> None:
        if self._socket is None:
            self._socket = self._bound()
        self._socket.listen(128)
        self._listening = True
        threading.Thread(target=self._accept, args=(self._socket,), name="fault-proxy", daemon=True).start()

    def _silence(self) -> None:
        if self._socket is not None:
            if self._listening:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)  # wakes accept
            self._socket.close()
        self._socket, self._listening = None, False

    def _cut_all(self) -> None:
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(client)
            with self._guard:
                if listener is not self._socket:
                    connection.close()
                    return
                self._connections.add(connection)
                mode = self._mode
            serve = {"hang": self._swallow, "error": self._answer_error}.get(mode, self._forward)
            threading.Thread(target=self._run, args=(serve, connection), daemon=True).start()

    def _run(self, serve: object, connection: _Connection) -> None:
        try:
            with contextlib.suppress(OSError):
                serve(connection)  # type: ignore[operator]
        finally:
            connection.close()
            with self._guard:
                self._connections.discard(connection)

    def _count(self, block: bytes) -> None:
        if REQUEST.match(block):
            with self._guard:
                self.requests += 1

    def _swallow(self, connection: _Connection) -> None:
        while block := connection.client.recv(BLOCK):
            self._count(block)
        connection.closed.wait()  # the client has no more to say, and gets no answer still

    def _answer_error(self, connection: _Connection) -> None:
        """Answer once and say that the connection ends; the rest of the request is read and thrown away."""
        head = b""
        while b"\r\n\r\n" not in head:
            block = connection.client.recv(BLOCK)
            if not block:
                return
            head += block
        self._count(head)
        reason = b"<Error><Code>InjectedFault</Code><Message>broken on purpose</Message></Error>"
        body = reason if self._body is None else self._body
        lines = (
            f"HTTP/1.1 {self._status} Injected Fault",
            "Content-Type: application/xml",
            f"Content-Length: {len(body)}",
            "Connection: close",
        )
        answer = "\r\n".join((*lines, "", "")).encode()
        connection.client.sendall(answer if head.startswith(b"HEAD ") else answer + body)
        connection.client.shutdown(socket.SHUT_WR)
        connection.client.settimeout(10)
        while connection.client.recv(BLOCK):
            pass

    def _forward(self, connection: _Connection) -> None:
        upstream = socket.create_connection(self.target, timeout=10)
        upstream.settimeout(None)
        upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.upstream = upstream
        if connection.closed.is_set():
            upstream.close()
            return
        back = threading.Thread(target=self._answers, args=(connection,), daemon=True)
        back.start()
        while block := connection.client.recv(BLOCK):
            self._count(block)
            connection.fresh = True
            upstream.sendall(block)
        upstream.shutdown(socket.SHUT_WR)
        back.join()

    def _answers(self, connection: _Connection) -> None:
        assert connection.upstream is not None
        with contextlib.suppress(OSError):
            while block := connection.upstream.recv(BLOCK):
                if connection.fresh:
                    connection.fresh, connection.answered = False, 0
                    if self._mode == "slow" and connection.closed.wait(self._delay_s):
                        break
                if self._mode == "cut":
                    block = block[: max(0, self._after_bytes - connection.answered)]
                    connection.answered += len(block)
                    connection.client.sendall(block)
                    if connection.answered >= self._after_bytes:
                        break
                    continue
                connection.client.sendall(block)
        connection.close()
