"""Ports for servers that tests start."""

from __future__ import annotations

import secrets
import socket


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, low enough that no outgoing connection takes one meanwhile."""
    found: list[int] = []
    while len(found) < count:
        port = 20000 + secrets.randbelow(9000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found
