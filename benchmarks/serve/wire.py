"""The least of HTTP/1.1 that a load generator needs: request bytes made once, answers cut out of a byte stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple


class WireError(ValueError):
    """What arrived is not an HTTP answer."""


class Reply(NamedTuple):
    """One answer.

    Attributes:
        status: Status code.
        head: Status line and headers, lower case.
        body: Content, freed from its transfer coding.
        close: Whether the server will not answer again on this connection.
    """

    status: int
    head: bytes
    body: bytes
    close: bool


def post(path: str, body: bytes, *, host: str, headers: dict[str, str] | None = None) -> bytes:
    """The bytes of a POST of JSON on a connection that is kept."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body


def read_reply(buffer: bytes, *, ended: bool = False) -> tuple[Reply, int] | None:
    """Cut the first answer out of what has arrived.

    Args:
        buffer: All bytes since the request was sent.
        ended: Whether the server has closed the connection: the end of a body without a length.

    Returns:
        The answer and how many bytes it took, or None while some are missing.

    Raises:
        WireError: If this is no HTTP answer.
    """
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        if not b"HTTP/1.".startswith(buffer[:7]):
            raise WireError(f"not an HTTP answer: {buffer[:40]!r}")
        return None
    head, start = buffer[:end].lower(), end + 4
    if not head.startswith(b"http/1.") or not head[9:12].isdigit():
        raise WireError(f"not an HTTP answer: {buffer[:40]!r}")
    status, close = int(head[9:12]), b"\r\nconnection: close" in head or head.startswith(b"http/1.0")
    length = _header(head, b"content-length")
    if length is not None:
        stop = start + int(length)
        if len(buffer) < stop:
            return None
        return Reply(status, head, buffer[start:stop], close), stop
    if b"chunked" in (_header(head, b"transfer-encoding") or b""):
        found = _chunks(buffer, start)
        return None if found is None else (Reply(status, head, found[0], close), found[1])
    if not ended:
        return None
    return Reply(status, head, buffer[start:], True), len(buffer)


def _header(head: bytes, name: bytes) -> bytes | None:
    at = head.find(b"\r\n" + name + b":")
    if at < 0:
        return None
    stop = head.find(b"\r\n", at + 2)
    return head[at + len(name) + 3 : stop if stop >= 0 else None].strip()


def _chunks(buffer: bytes, at: int) -> tuple[bytes, int] | None:
    parts: list[bytes] = []
    while True:
        line = buffer.find(b"\r\n", at)
        if line < 0:
            return None
        try:
            size = int(buffer[at:line].partition(b";")[0], 16)
        except ValueError as error:
            raise WireError(f"not the size of a chunk: {buffer[at:line][:40]!r}") from error
        at = line + 2
        if size == 0:
            # Trailers, if any, end with an empty line.
            end = buffer.find(b"\r\n", at) if buffer[at : at + 2] == b"\r\n" else buffer.find(b"\r\n\r\n", at) + 2
            return (b"".join(parts), end + 2) if end >= at else None
        if len(buffer) < at + size + 2:
            return None
        parts.append(buffer[at : at + size])
        at += size + 2


class Connection(asyncio.Protocol):
    """One connection that carries one request at a time.

    Args:
        on_reply: Called with each answer.
        on_lost: Called once when this connection is gone, with what had arrived of an unfinished answer and the reason.
    """

    def __init__(
        self, on_reply: Callable[[Reply], None], on_lost: Callable[[Connection, bytes, Exception | None], None]
    ) -> None:
        self._on_reply, self._on_lost = on_reply, on_lost
        self._buffer = b""
        self._waiting = False
        self._transport: asyncio.Transport | None = None
        self._broken: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, request: bytes) -> None:
        """Write a request; the connection must be idle."""
        assert self._transport is not None and not self._waiting
        self._waiting = True
        self._transport.write(request)

    def drop(self) -> None:
        """Close at once, whatever is on the way."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._read(ended=False)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._broken is None and self._waiting:
            self._read(ended=True)
        left, self._buffer = self._buffer, b""
        self._on_lost(self, left, self._broken or exc)

    def _read(self, *, ended: bool) -> None:
        try:
            found = read_reply(self._buffer, ended=ended)
            if found is not None and (not self._waiting or found[1] != len(self._buffer)):
                raise WireError("more arrived than the answer to one request")
        except WireError as error:
            self._broken = error
            self.drop()
            return
        if found is not None:
            self._buffer, self._waiting = b"", False
            self._on_reply(found[0])
