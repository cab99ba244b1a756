"""A load generator: raw HTTP/1.1 on asyncio protocols, every answer checked, in a process of its own.

``python -m benchmarks.serve.load`` reads a plan from stdin, prints ``{"began_s": …}`` when counting starts, and at the
end the outcome. Use :class:`Generator` to run it so.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from benchmarks.serve.checks import Checker, WrongBodyError
from benchmarks.serve.plan import Latency, Outcome, Plan, Sample, rank, read_outcome
from benchmarks.serve.wire import Connection, Reply, WireError, post

BACK_OFF_S = 0.05
"""How long a client waits after a refused connection."""
SWEEP_S = 0.1
"""Seconds between looks for requests that take too long."""
EXAMPLES = 5


class Client:
    """One connection of the load, opened anew when it ends; counts what becomes of each of its requests."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._payload = 0
        self._late = False
        self.due_s: float | None = None  # of the request in progress

    def send(self, due_s: float, payload: int) -> None:
        """Send a request, after connecting if need be; the client must be idle."""
        self.due_s, self._payload = due_s, payload
        if self._connection is not None:
            self._connection.send(self._load.requests[payload])
        else:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    def give_up(self) -> None:
        """The request takes too long."""
        if self._connecting is not None and not self._connecting.done():
            self._connecting.cancel()
            self._connection = None
            self._end("unconnected")
        elif self._connection is not None:
            self._late = True
            self._connection.drop()

    def close(self) -> None:
        """Drop the connection."""
        if self._connection is not None:
            self._connection.drop()

    async def _connect(self) -> None:
        plan, connection = self._load.plan, Connection(self._reply, self._lost)
        self._connection = connection
        try:
            await asyncio.get_running_loop().create_connection(lambda: connection, plan.host, plan.port)
        except OSError:
            self._connection = None
            await asyncio.sleep(BACK_OFF_S)
            self._end("unconnected")
            return
        if self._connection is connection:
            connection.send(self._load.requests[self._payload])

    def _reply(self, reply: Reply) -> None:
        kind, version = self._load.judge(self._payload, reply)
        if reply.close and self._connection is not None:
            last, self._connection = self._connection, None
            last.drop()
            self._load.reconnects += 1
        self._end(kind, version)

    def _lost(self, connection: Connection, left: bytes, reason: Exception | None) -> None:
        if connection is not self._connection:
            return
        self._connection = None
        if self.due_s is None:
            self._load.reconnects += not self._load.over
        elif self._late:
            self._end("timeout")
        elif isinstance(reason, WireError):
            self._end("malformed")
        else:
            self._end("truncated" if left else "closed")

    def _end(self, kind: str, version: str = "") -> None:
        due_s, self.due_s, self._late = self.due_s, None, False
        if due_s is not None:
            self._load.ended(self, due_s, kind, version)


class Load:
    """A plan being carried out."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        host = f"{plan.host}:{plan.port}"
        self.requests = [post(plan.path, b.encode(), host=host, headers=plan.headers) for b in plan.bodies]
        self.reconnects = 0
        self.over = False
        self._checker = Checker(plan.expected, unwrap=plan.unwrap, tolerance=plan.tolerance)
        self._payloads = itertools.cycle(range(len(plan.bodies)))
        self._clients: list[Client] = []
        self._idle: list[Client] = []
        self._waiting: deque[float] = deque()
        self._samples: list[tuple[float, float, str, str]] = []
        self._late_ms: list[float] = []
        self._examples: list[str] = []
        self._without_retry_after = 0
        self._in_progress = 0

    async def run(self, announce: Callable[[float], None] = lambda began_s: None) -> Outcome:
        """Carry it out; ``announce`` is told when counting starts."""
        plan = self.plan
        start = time.monotonic()
        self._began, self._until = start + plan.warmup_s, start + plan.warmup_s + plan.seconds
        announce(self._began)
        sweeper = asyncio.get_running_loop().create_task(self._sweep())
        cpu = time.process_time()
        if plan.clients:
            for _ in range(plan.clients):
                self._send(self._new_client(), time.monotonic())
            await asyncio.sleep(self._until - time.monotonic())
        else:
            await self._arrivals(start)
        cpu = (time.process_time() - cpu) / (plan.warmup_s + plan.seconds)
        while self._in_progress or self._waiting:
            await asyncio.sleep(0.005)
        self.over = True
        sweeper.cancel()
        for client in self._clients:
            client.close()
        return self._outcome(cpu)

    def judge(self, payload: int, reply: Reply) -> tuple[str, str]:
        """Kind and model version of an answer."""
        if reply.status == 200:
            try:
                return "ok", self._checker.version(payload, reply.body)
            except WrongBodyError as error:
                self._note(str(error))
                return "wrong", ""
        if reply.status in (429, 503):
            self._without_retry_after += b"\r\nretry-after:" not in reply.head
            return f"refused_{reply.status}", ""
        self._note(f"http_{reply.status}: {reply.body[:200]!r}")
        return f"http_{reply.status}", ""

    def _note(self, example: str) -> None:
        if len(self._examples) < EXAMPLES:
            self._examples.append(example)

    def ended(self, client: Client, due_s: float, kind: str, version: str) -> None:
        """Note a request and give its client the next one."""
        now = time.monotonic()
        self._samples.append((due_s, now - due_s, kind, version))
        self._in_progress -= 1
        if self.plan.clients:
            if now < self._until:
                self._send(client, now)
        elif self._waiting:
            self._send(client, self._waiting.popleft())
        else:
            self._idle.append(client)

    def _send(self, client: Client, due_s: float) -> None:
        self._in_progress += 1
        client.send(due_s, next(self._payloads))

    def _new_client(self) -> Client:
        client = Client(self)
        self._clients.append(client)
        return client

    async def _arrivals(self, start: float) -> None:
        number, gap = 0, 1 / self.plan.rate
        while (due_s := start + number * gap) < self._until:
            now = time.monotonic()
            if due_s > now:
                await asyncio.sleep(due_s - now)
                continue
            number += 1
            self._late_ms.append((now - due_s) * 1000)
            if self._idle:
                self._send(self._idle.pop(), due_s)
            elif len(self._clients) < self.plan.connections:
                self._send(self._new_client(), due_s)
            else:
                self._waiting.append(due_s)
            if number % 16 == 0:
                await asyncio.sleep(0)  # answers are read even when the generator lags behind

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            limit = time.monotonic() - self.plan.timeout_s
            for client in self._clients:
                if client.due_s is not None and client.due_s < limit:
                    client.give_up()
            while self._waiting and self._waiting[0] < limit:
                due_s = self._waiting.popleft()
                self._samples.append((due_s, time.monotonic() - due_s, "timeout", ""))

    def _outcome(self, cpu: float) -> Outcome:
        counted = [sample for sample in self._samples if self._began <= sample[0] < self._until]
        warmup = Counter(kind for due_s, _, kind, _ in self._samples if due_s < self._began)
        by_kind: dict[str, list[float]] = {}
        for _, latency_s, kind, _ in counted:
            by_kind.setdefault(kind, []).append(latency_s * 1000)
        arrived = sum(
            kind == "ok" and self._began <= due_s + latency_s < self._until
            for due_s, latency_s, kind, _ in self._samples
        )
        return Outcome(
            seconds=self.plan.seconds,
            began_s=self._began,
            kinds={kind: len(found) for kind, found in sorted(by_kind.items())},
            rps=arrived / self.plan.seconds,
            latency=Latency.of(by_kind.get("ok", [])),
            by_kind={kind: Latency.of(found) for kind, found in sorted(by_kind.items())},
            versions=dict(Counter(version for _, _, kind, version in counted if kind == "ok")),
            warmup=dict(warmup),
            reconnects=self.reconnects,
            without_retry_after=self._without_retry_after,
            largest_difference=self._checker.largest_difference,
            examples=tuple(self._examples),
            cpu=round(cpu, 3),
            late_p99_ms=rank(sorted(self._late_ms), 0.99),
            samples=tuple(
                Sample(due_s=due_s, latency_ms=latency_s * 1000, kind=kind, version=version)
                for due_s, latency_s, kind, version in self._samples
            )
            if self.plan.samples
            else (),
        )


class Generator:
    """A load in a process of its own.

    Attributes:
        began_s: When counting starts, by ``time.monotonic``: known when the constructor returns.
    """

    def __init__(self, plan: Plan) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serve.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(plan.document()))
        self._process.stdin.close()
        first = self._process.stdout.readline()
        if not first:
            raise RuntimeError(f"the load generator ended with {self._process.wait()}: see its message above")
        self.began_s = float(json.loads(first)["began_s"])

    def outcome(self) -> Outcome:
        """Wait for the end."""
        assert self._process.stdout is not None
        with self._process.stdout as answers:
            text = answers.read()
        if self._process.wait():
            raise RuntimeError(f"the load generator ended with {self._process.returncode}: see its message above")
        return read_outcome(json.loads(text))


def generate(plan: Plan) -> Outcome:
    """Run a load in a process of its own and wait for its outcome."""
    return Generator(plan).outcome()


def main() -> None:
    """Read a plan, carry it out, print the outcome."""
    given: dict[str, Any] = json.loads(sys.stdin.read())
    load = Load(Plan(**given))
    gc.collect()
    gc.freeze()  # payloads and expected numbers live to the end: do not look at them again
    outcome = asyncio.run(load.run(lambda began_s: print(json.dumps({"began_s": began_s}), flush=True)))
    print(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main()
