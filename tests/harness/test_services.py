"""What stands in for kube-proxy loses no connection."""

from __future__ import annotations

import gc
import socket
import threading
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.harness.services import Services

pytestmark = [pytest.mark.manifests, pytest.mark.unit]


def test_a_client_that_has_said_all_still_gets_its_answer() -> None:
    """Nothing but the task that waits for the answer holds such a connection: it must not be collected."""
    asked, collected = threading.Event(), threading.Event()

    def answer(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            while connection.recv(100):
                pass
            asked.set()
            collected.wait(20)
            connection.sendall(b"answer")

    with socket.create_server(("127.0.0.1", 0)) as server:
        pod = SimpleNamespace(
            address="127.0.0.1", labels={"app": "a"}, ready=True, over=False, ports={"http": server.getsockname()[1]}
        )
        network = SimpleNamespace(cluster_ip=lambda: "127.0.0.2", call=lambda name, address: None)
        services = Services(cast(Any, network), lambda: [cast(Any, pod)])
        thread = threading.Thread(target=answer, args=(server,), daemon=True)
        thread.start()
        services.start()
        try:
            port = free_port()
            spec = {"selector": {"app": "a"}, "ports": [{"port": port, "targetPort": "http"}]}
            services.open({"metadata": {"name": "a"}, "spec": spec})
            with socket.create_connection(("127.0.0.2", port), timeout=20) as client:
                client.sendall(b"question")
                client.shutdown(socket.SHUT_WR)
                assert asked.wait(20)
                for _ in range(20):  # the proxy has to see the end of the question first
                    gc.collect()
                    time.sleep(0.02)
                collected.set()
                assert client.recv(100) == b"answer"
        finally:
            collected.set()
            services.stop()
            thread.join(20)


def free_port() -> int:
    with socket.create_server(("127.0.0.2", 0)) as server:
        port: int = server.getsockname()[1]
        return port
