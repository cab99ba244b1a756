"""Requests to an ASGI application byte by byte, for what no well-behaved client does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message


@dataclass
class Wire:
    """One connection: what the client sends, and what it got back.

    Attributes:
        chunks: Parts of the body; after the last the client is gone if ``leaves``, else the body ends with it.
        leaves: Whether the client hangs up before the end of the body.
        read: Parts that the application has read.
    """

    chunks: list[bytes]
    leaves: bool = False
    read: int = 0
    sent: list[Message] = field(default_factory=list)

    async def receive(self) -> Message:
        if self.read == len(self.chunks):
            return {"type": "http.disconnect"}
        self.read += 1
        more = self.leaves or self.read < len(self.chunks)
        return {"type": "http.request", "body": self.chunks[self.read - 1], "more_body": more}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    def header(self, name: str) -> list[str]:
        """Every value of a header of the answer."""
        return [value.decode() for key, value in self.sent[0]["headers"] if key.decode().lower() == name]

    async def request(
        self,
        app: ASGIApp,
        path: str,
        *,
        method: str = "POST",
        headers: Iterable[tuple[str, str]] = (("content-type", "application/json"),),
        root_path: str = "",
    ) -> None:
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": root_path + path,
            "raw_path": (root_path + path).encode(),
            "query_string": b"",
            "root_path": root_path,
            "headers": [(name.encode(), value.encode()) for name, value in headers],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        await app(scope, self.receive, self.send)
