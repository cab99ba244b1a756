"""What kube-proxy and cluster DNS do: a Service's name leads to those of its pods that are ready."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.harness.network import Network
from tests.harness.objects import Manifest, matches
from tests.harness.pod import Pod

CHUNK_BYTES = 65536


@dataclass
class Services:
    """Forwards each port of each Service to its endpoints, connection by connection, in turn.

    Attributes:
        network: Where the Services have their addresses.
        pods: The pods that exist now.
    """

    network: Network
    pods: Callable[[], list[Pod]]
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _thread: threading.Thread | None = None
    _turn: itertools.count[int] = field(default_factory=itertools.count)
    _servers: dict[str, list[asyncio.Server]] = field(default_factory=dict)
    _headless: dict[str, Manifest] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _ending: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._loop.run_forever, name="kube-proxy", daemon=True)
        self._thread.start()
        threading.Thread(target=self._resolve, name="cluster-dns", daemon=True).start()

    def stop(self) -> None:
        self._ending.set()
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        if self._thread is not None:
            self._thread.join(10)
        self._loop.close()

    def open(self, service: Manifest) -> None:
        """Begin to serve a Service; it is given its address."""
        name = service["metadata"]["name"]
        if service["spec"].get("clusterIP") == "None":
            self._headless[name] = service
            return
        service["spec"]["clusterIP"] = self.network.cluster_ip()
        self._call(self._listen(service))
        self.network.call(name, service["spec"]["clusterIP"])

    def close(self, name: str) -> None:
        self._headless.pop(name, None)
        self.network.forget(name)
        for server in self._servers.pop(name, []):
            self._loop.call_soon_threadsafe(server.close)

    def endpoints(self, service: Manifest) -> list[Pod]:
        """Pods that get its connections now."""
        spec = service["spec"]
        early = bool(spec.get("publishNotReadyAddresses"))
        chosen = [pod for pod in self.pods() if matches(spec.get("selector", {}), pod.labels) and pod.address]
        return [pod for pod in chosen if (pod.ready or early) and not pod.over]

    def _resolve(self) -> None:
        """A headless Service's name is its pod's address, as soon as there is one."""
        told: dict[str, str] = {}
        while not self._ending.wait(0.1):
            for name, service in list(self._headless.items()):
                found = self.endpoints(service)
                address = found[0].address if found else ""
                if told.get(name, "") != address:
                    told[name] = address
                    if address:
                        self.network.call(name, address)
                    else:
                        self.network.forget(name)

    def _call(self, work: object) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)  # type: ignore[arg-type]

    async def _listen(self, service: Manifest) -> None:
        servers = []
        for port in service["spec"]["ports"]:

            async def forward(
                reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: Manifest = port
            ) -> None:
                cluster_ends = asyncio.CancelledError
                with self._kept(asyncio.current_task()), contextlib.suppress(cluster_ends):
                    await self._forward(service, port, reader, writer)

            servers.append(await asyncio.start_server(forward, service["spec"]["clusterIP"], port["port"]))
        self._servers[service["metadata"]["name"]] = servers

    async def _close(self) -> None:
        for servers in self._servers.values():
            for server in servers:
                server.close()
        mine = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not mine]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _forward(
        self, service: Manifest, port: Manifest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.closing(writer):
            ready = self.endpoints(service)
            if not ready:
                return  # closed at once: kube-proxy rejects what has no endpoint
            pod = ready[next(self._turn) % len(ready)]
            target: str | int = port["targetPort"] if "targetPort" in port else port["port"]
            number = pod.ports[target] if isinstance(target, str) else target
            try:
                far_reader, far_writer = await asyncio.open_connection(pod.address, number)
            except OSError:
                return
            with contextlib.closing(far_writer):
                upward = asyncio.create_task(_pump(reader, far_writer))
                with self._kept(upward):
                    try:
                        await _pump(far_reader, writer)  # the server's end is the connection's
                    finally:
                        upward.cancel()

    @contextlib.contextmanager
    def _kept(self, task: asyncio.Task[None] | None) -> Iterator[None]:
        """Hold on to a task: the loop does not, and one whose client has said all it has to say is then collected."""
        assert task is not None
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.discard(task)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):  # either side may be killed at any time
        while chunk := await reader.read(CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


def wait_until(what: Callable[[], bool], timeout_s: float, told: Callable[[], str]) -> None:
    """Wait for something; if it does not come, say how things stand."""
    until = time.monotonic() + timeout_s
    while not what():
        if time.monotonic() > until:
            raise TimeoutError(told())
        time.sleep(0.1)
