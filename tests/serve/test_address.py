"""The address of the local profile: free means that nobody listens there."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from flts_ray.errors import ClusterError
from serve.address import is_free, wait_until_free
from tests.services.ports import free_ports

pytestmark = pytest.mark.unit
HOST = "127.0.0.1"


def listener(port: int) -> socket.socket:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as a replica does
    server.bind((HOST, port))
    server.listen()
    return server


def test_a_port_is_taken_while_somebody_listens() -> None:
    (port,) = free_ports(1)
    assert is_free(HOST, port)
    with listener(port):
        assert not is_free(HOST, port)
    assert is_free(HOST, port)


def test_connections_that_are_ending_do_not_count() -> None:
    (port,) = free_ports(1)
    with listener(port) as server, socket.create_connection((HOST, port)):
        accepted, _ = server.accept()
        accepted.close()  # the side that closes first keeps the port for a minute
    assert is_free(HOST, port)


def test_it_waits_for_whoever_leaves() -> None:
    (port,) = free_ports(1)
    server = listener(port)
    threading.Timer(0.3, server.close).start()
    began = time.monotonic()
    wait_until_free(HOST, port, limit_s=10)
    assert time.monotonic() - began > 0.2
    assert is_free(HOST, port)


def test_it_does_not_wait_for_ever() -> None:
    (port,) = free_ports(1)
    with listener(port), pytest.raises(ClusterError, match="still taken"):
        wait_until_free(HOST, port, limit_s=0.2)
