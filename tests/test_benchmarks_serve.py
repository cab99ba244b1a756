"""The load generator of the service's benchmark counts what happened, and only right bodies count as right."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.serve import scenario
from benchmarks.serve.checks import Checker, WrongBodyError, difference
from benchmarks.serve.load import Load, generate
from benchmarks.serve.payloads import columns_of, history_of
from benchmarks.serve.plan import Latency, Outcome, Plan, Sample
from benchmarks.serve.report import markdown, rich_tables
from benchmarks.serve.throughput import Cell, judge, table
from benchmarks.serve.wire import Reply, WireError, post, read_reply
from flts_ray.data.frame import RawFrame

pytestmark = pytest.mark.unit

STEP = ("2018-03-01T03:20:00", 40.0, 30.0, 50.0)
EXPECTED = {"1": [[STEP]], "2": [[("2018-03-01T03:20:00", 41.0, 31.0, 51.0)]]}

Answer = Callable[[int, asyncio.StreamWriter], Awaitable[None]]


def body(value: float = 40.0, *, version: str = "1", **changes: Any) -> bytes:
    step = dict(zip(("time", "value", "lower", "upper"), STEP, strict=True)) | {"value": value} | changes
    return json.dumps({"model": {"version": version}, "forecasts": [{"steps": [step]}]}).encode()


def http(content: bytes, status: int = 200, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(content)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + content


async def outcome_of(answer: Answer, **options: Any) -> Outcome:
    """Load a server that hands request number n (from 0) to ``answer``."""
    number = -1

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal number
        try:
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
                number += 1
                await answer(number, writer)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass  # the client has gone, or the test is over
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    given: dict[str, Any] = {"clients": 1, "seconds": 0.5, "warmup_s": 0.0, "samples": True} | options
    plan = Plan(host="127.0.0.1", port=port, path="/v1/forecast", bodies=("{}",), expected=(EXPECTED,), **given)
    try:
        return await Load(plan).run()
    finally:
        server.close()


def run_load(answer: Answer, **options: Any) -> Outcome:
    return asyncio.run(outcome_of(answer, **options))


def writes(*replies: bytes) -> Answer:
    """A server that answers with these in turn, over and over, a little slowly."""

    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.002)
        writer.write(replies[number % len(replies)])

    return answer


def test_right_answers_are_counted_with_the_version_that_made_them() -> None:
    found = run_load(writes(http(body()), http(body(41.0, version="2", lower=31.0, upper=51.0))), clients=3)
    assert set(found.kinds) == {"ok"}
    assert found.ok == found.sent > 10
    assert set(found.versions) == {"1", "2"}
    assert found.latency.n == found.ok
    assert found.failed == found.refused == found.reconnects == 0
    assert found.ok - 3 <= round(found.rps * 0.5) <= found.ok  # the last answer of each client may come late


def test_wrong_bodies_are_not_right_however_often_they_come() -> None:
    bad = [
        http(body(40.1)),
        http(body(lower=29.0)),
        http(body(float("nan"))),
        http(body(time="2018-03-01T03:22:00")),
        http(body(version="3")),
        http(body(upper=None)),
        http(b"{"),
        http(b"{}"),
        http(b'{"model": {"version": "1"}, "forecasts": []}'),
    ]
    found = run_load(writes(http(body()), *bad))
    assert found.kinds["wrong"] >= 8 * (found.kinds["ok"] - 1) > 0
    assert found.failed == found.kinds["wrong"]
    assert len(found.examples) == 5


def test_refusals_and_errors_are_told_apart() -> None:
    found = run_load(
        writes(
            http(body()),
            http(b"", 503, "Retry-After: 1"),
            http(b"", 429),
            http(b"no", 500),
            http(b"", 422),
            http(b"", 404),
        )
    )
    assert {"ok", "refused_503", "refused_429", "http_500", "http_422", "http_404"} == set(found.kinds)
    assert found.refused == found.kinds["refused_503"] + found.kinds["refused_429"]
    assert found.failed == found.kinds["http_500"] + found.kinds["http_422"] + found.kinds["http_404"]
    assert found.without_retry_after == found.kinds["refused_429"]
    assert found.latency.n == found.kinds["ok"]


def test_a_connection_that_ends_fails_its_request_and_the_client_comes_back() -> None:
    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.002)
        if number % 3 == 0:
            writer.write(http(body()))
        elif number % 3 == 1:
            writer.write(http(body())[:-5])
            writer.close()
        else:
            writer.transport.abort()

    found = run_load(answer)
    assert found.kinds["ok"] > 2
    assert abs(found.kinds["truncated"] - found.kinds["ok"]) <= 1
    assert abs(found.kinds["closed"] - found.kinds["ok"]) <= 1
    assert found.failed == found.kinds["truncated"] + found.kinds["closed"]


def test_connections_closed_between_requests_are_counted_not_failed() -> None:
    found = run_load(writes(http(body(), 200, "Connection: close")))
    assert found.failed == 0
    assert found.reconnects >= found.ok - 1 > 2


def test_bodies_in_chunks_and_bodies_that_end_with_the_connection_are_read() -> None:
    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        content = body()
        if number % 2:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + content)
            await writer.drain()
            writer.close()
            return
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in (content[:10], content[10:]):
            writer.write(f"{len(part):x};note=1\r\n".encode() + part + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0.001)
        writer.write(b"0\r\n\r\n")

    found = run_load(answer)
    assert set(found.kinds) == {"ok"}
    assert found.ok > 2


def test_what_is_no_http_is_malformed() -> None:
    found = run_load(writes(b"HELLO WORLD\r\n\r\n"))
    assert set(found.kinds) == {"malformed"}
    assert found.failed == found.sent > 0


def test_a_request_that_takes_too_long_fails_and_the_load_ends() -> None:
    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    found = run_load(answer, timeout_s=0.2)
    assert set(found.kinds) == {"timeout"}
    assert found.rps == 0
    assert found.latency == Latency(n=0, p50=None, p90=None, p99=None, max=None)


def test_without_a_server_nothing_was_sent() -> None:
    async def refused() -> Outcome:
        server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        plan = Plan(host="127.0.0.1", port=port, path="/", bodies=("{}",), expected=(EXPECTED,), clients=2, seconds=0.2)
        return await Load(plan).run()

    found = asyncio.run(refused())
    assert set(found.kinds) == {"unconnected"}
    assert found.sent == found.failed == 0


def test_in_open_loop_the_wait_of_requests_behind_a_stall_is_part_of_their_latency() -> None:
    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        if number == 5:
            await asyncio.sleep(0.4)
        writer.write(http(body()))

    found = run_load(answer, clients=0, rate=100.0, seconds=0.5, connections=1)
    assert found.sent == 50
    assert found.ok == 50
    # One connection: those that were due during the stall wait for its end.
    assert sum(sample.latency_ms > 50 for sample in found.samples) >= 25
    assert found.latency.max is not None and found.latency.max >= 390


def test_open_loop_opens_connections_as_needed_and_keeps_its_rate() -> None:
    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1)
        writer.write(http(body()))

    found = run_load(answer, clients=0, rate=100.0, seconds=0.4)
    assert found.sent == found.ok == 40
    due = sorted(sample.due_s for sample in found.samples)
    assert np.diff(due) == pytest.approx(0.01, abs=1e-6)


def test_what_happened_before_counting_began_is_kept_apart() -> None:
    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.002)
        writer.write(http(body(), 500 if number < 3 else 200))

    found = run_load(answer, warmup_s=0.3)
    assert found.warmup["http_500"] == 3
    assert set(found.kinds) == {"ok"}


def test_a_generator_in_its_own_process_says_the_same() -> None:
    async def measured() -> Outcome:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            replies = [http(body()), http(body(40.1))]
            while head := await reader.read(65536):
                assert head.startswith(b"POST /v1/forecast HTTP/1.1\r\n")
                writer.write(replies[0])
                replies.reverse()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        plan = Plan(
            host="127.0.0.1", port=port, path="/v1/forecast", bodies=("{}",), expected=(EXPECTED,), clients=1,
            seconds=0.2, warmup_s=0.0, samples=True,
        )  # fmt: skip
        found = await asyncio.to_thread(generate, plan)
        server.close()
        return found

    found = asyncio.run(measured())
    assert abs(found.kinds["ok"] - found.kinds["wrong"]) <= 1
    assert len(found.samples) == found.sent > 2
    assert isinstance(found.samples[0], Sample)


@pytest.mark.parametrize("cut", [0, 5, 17, 30, -1])
def test_an_answer_is_not_read_before_all_of_it_is_there(cut: int) -> None:
    whole = http(b"abc", 200, "Connection: close")
    assert read_reply(whole[:cut]) is None
    assert read_reply(whole + b"rest") == (
        Reply(200, whole[: whole.index(b"\r\n\r\n")].lower(), b"abc", True),
        len(whole),
    )


def test_bytes_that_are_no_answer_are_refused() -> None:
    for content in (
        b"NOTHTTP",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ):
        with pytest.raises(WireError):
            read_reply(content)


def test_a_request_says_how_long_its_body_is() -> None:
    request = post("/x", b"12345", host="h:1", headers={"X-A": "b"})
    assert request == (
        b"POST /x HTTP/1.1\r\nHost: h:1\r\nContent-Type: application/json\r\nContent-Length: 5\r\nX-A: b\r\n\r\n12345"
    )


def test_differences_are_relative_to_the_expected_value() -> None:
    assert difference([[("t", 101.0, 0.0, 200.0)]], [[("t", 100.0, 2.0, 200.0)]]) == pytest.approx(0.02)
    with pytest.raises(WrongBodyError, match="at u instead of t"):
        difference([[("u", 1.0, 1.0, 1.0)]], [[("t", 1.0, 1.0, 1.0)]])


def test_a_known_body_is_only_known_for_its_own_payload() -> None:
    checker = Checker([EXPECTED, {"1": [[("2018-03-01T03:20:00", 7.0, 6.0, 8.0)]]}])
    assert checker.version(0, body()) == checker.version(0, body()) == "1"
    with pytest.raises(WrongBodyError, match="off by"):
        checker.version(1, body())


def test_a_wrapped_answer_is_unwrapped() -> None:
    wrapped = b'{"predictions": ' + body() + b"}"
    assert Checker([EXPECTED], unwrap="predictions").version(0, wrapped) == "1"
    with pytest.raises(WrongBodyError):
        Checker([EXPECTED]).version(0, wrapped)


def test_percentiles_are_values_that_were_measured() -> None:
    assert Latency.of([float(v) for v in range(100, 0, -1)]) == Latency(n=100, p50=50.0, p90=90.0, p99=99.0, max=100.0)
    assert Latency.of([3.0]).p50 == 3.0


def test_a_plan_is_closed_or_open() -> None:
    common: dict[str, Any] = {"host": "h", "port": 1, "path": "/", "bodies": ("{}",), "expected": (EXPECTED,)}
    for wrong in ({}, {"clients": 1, "rate": 2.0}):
        with pytest.raises(ValueError, match="either clients"):
            Plan(**common, **wrong)


def test_both_forms_of_a_history_say_the_same_in_any_order() -> None:
    time = np.datetime64("2018-03-01T00:00", "ns") + np.arange(3) * np.timedelta64(120, "s")
    values = np.array([[1.0, 2.0], [np.nan, 4.0], [5.0, 6.0]])
    raw = RawFrame(series="a", time=time, columns=("down", "up"), values=values)
    columns = columns_of(raw)
    assert columns["down"] == [1.0, None, 5.0]
    assert columns["time"][1] == "2018-03-01T00:02:00"
    shuffled = history_of(raw, "rows", [2, 0, 1])
    assert list(shuffled["rows"][0]) == ["up", "time", "down"]
    assert [row["down"] for row in shuffled["rows"]] == columns["down"]
    assert history_of(raw, "columns", [1, 0, 2])["columns"] == columns


def _cell(kind: Any, clients: int, rps: float, p99: float, number: int = 0) -> Cell:
    latency = Latency(n=100, p50=1.0, p90=2.0, p99=p99, max=p99)
    outcome = Outcome(
        seconds=1.0, began_s=0.0, kinds={"ok": 100}, rps=rps, latency=latency, by_kind={"ok": latency}, versions={},
        warmup={}, reconnects=0, without_retry_after=0, largest_difference=0.0, examples=(), cpu=0.1, late_p99_ms=None,
    )  # fmt: skip
    return Cell(round=number, kind=kind, payload="30 rows", clients=clients, load_1min=0.0, outcome=outcome)


def test_the_bars_are_medians_of_the_ratios_of_each_round() -> None:
    cells = [_cell("fastapi", 32, rps, 10.0, n) for n, rps in enumerate((100.0, 200.0, 100.0))]
    cells += [_cell("throughput", 32, rps, 5.0, n) for n, rps in enumerate((160.0, 200.0, 170.0))]
    rows = {row.case: row for row in judge(cells)}
    ratio = next(row for case, row in rows.items() if "ours by peer" in case and row.unit == "requests/s")
    assert ratio.score == pytest.approx(1.6)
    assert ratio.spread == (1.0, 1.7)
    assert ratio.passed
    tail = next(row for row in rows.values() if row.unit == "ms (p99)")
    assert (tail.score, tail.passed) == (0.5, True)
    assert table(cells, "30 rows").rows[0][1] == "100 / 1.0 / 10.0"


def test_a_result_file_becomes_markdown(tmp_path: Path) -> None:
    options = scenario.Options(home=None, rounds=1)  # type: ignore[arg-type]
    rows = judge([_cell("throughput", 1, 10.0, 9.0), _cell("fastapi", 1, 20.0, 3.0)])
    found = table([_cell("local", 1, 10.0, 9.0)], "30 rows")
    result = scenario.Result(name="throughput", rows=rows, tables=[found])
    document = json.loads(json.dumps(result.document(options, 0.1)))
    text = markdown({"throughput": document})
    assert "| 9 | 3 | ms (p99) | 6 | 6-6 | <= 5 | **missed** |" in text
    assert "| flts serve, local | 10 / 1.0 / 9.0 |" in text
    assert len(rich_tables(document)) == 1
