from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from bench import client, endpoints
from bench.client import Client
from bench.load import BenchError, Refused
from tests import servers


class Handler(servers.QuietHandler):
    """Responds to /sign with a status and a size, which the body states."""

    protocol_version = "HTTP/1.1"

    def respond(self) -> None:
        status, size = self.body().split()
        self.reply(int(status), b"x" * int(size))


def post(*bodies: bytes) -> list[int]:
    """The sizes of the responses to these bodies, on one connection."""
    endpoint = endpoints.Endpoint("test", "/sign", {"x-api-key": "a"}, bodies, (), lambda _: [])

    async def send(url: str) -> list[int]:
        http_client = Client(url, endpoint)
        try:
            return [await http_client.post() for _ in bodies]
        finally:
            await http_client.close()

    with servers.http_server(Handler) as url, client.runner() as runner:
        return runner.run(send(url))


def test_response_is_read_whole() -> None:
    """Sizes that differ by 2 % count as equal; a connection is used again."""
    assert post(b"200 100000", b"200 101000") == [100_000, 101_000]


@pytest.mark.parametrize(
    ("bodies", "error", "message"),
    [
        ([b"503 20"], Refused, "503 Service Unavailable x{20}"),
        ([b"200 100", b"200 103"], BenchError, "a response of 103 bytes, but the first has 100"),
    ],
)
def test_other_response_is_an_error(bodies: list[bytes], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        post(*bodies)


def test_connection_failure_is_a_refusal() -> None:
    endpoint = endpoints.sign(endpoints.requests()[:1])
    url = f"http://127.0.0.1:{servers.free_port()}"
    with pytest.raises(Refused, match="ConnectionRefusedError"), client.runner() as runner:
        runner.run(Client(url, endpoint).post())


def run(function: Callable[..., object], *arguments: object) -> object:
    with client.runner() as runner:
        return runner.run(function(*arguments))  # type: ignore[arg-type]


def test_paced_calls_do_not_wait_for_earlier_ones() -> None:
    """20 calls of 0.2 s start within 0.2 s."""
    active, most = 0, 0

    async def call() -> None:
        nonlocal active, most
        active += 1
        most = max(most, active)
        await asyncio.sleep(0.2)
        active -= 1

    latencies = run(client.pace, call, 100, 0.2)
    assert isinstance(latencies, list)
    assert most > 10
    assert len(latencies) == 20
    assert all(190 < latency < 2000 for latency in latencies)


def test_delay_before_a_call_counts_as_latency() -> None:
    """A client that is blocked for 0.1 s sends requests late; their latency starts when they were due."""

    async def call() -> None:
        time.sleep(0.1)  # noqa: ASYNC251 - blocks the client

    latencies = run(client.pace, call, 1000, 0.003)
    assert isinstance(latencies, list)
    assert latencies[2] > 250


def test_calls_in_flight_are_repeated() -> None:
    """As many calls as are given run at the same time during the block, and none after it."""
    calls, repeated = [0, 0], asyncio.Event()

    async def call(index: int) -> None:
        await asyncio.sleep(0.01)
        calls[index] += 1
        if min(calls) > 2:
            repeated.set()

    async def main() -> None:
        async with client.in_flight(lambda: call(0), lambda: call(1)):
            await asyncio.wait_for(repeated.wait(), 10)
        after = calls.copy()
        await asyncio.sleep(0.05)
        assert calls == after

    run(main)


async def fail() -> None:
    raise Refused("test")


def test_failure_of_a_call_in_flight_is_an_error() -> None:
    """Also if the call lasts longer than the block, in which none has ended."""

    async def fail_late() -> None:
        await asyncio.sleep(0.2)
        await fail()

    async def main(call: client.Call) -> None:
        async with client.in_flight(call):
            await asyncio.sleep(0.01)

    for call in (fail, fail_late):
        with pytest.raises(Refused, match="test"):
            run(main, call)
    run(main, lambda: asyncio.sleep(0.2))


def test_failure_ends_a_repetition() -> None:
    """No further call is made."""
    started = 0

    async def call() -> None:
        nonlocal started
        started += 1
        await (fail() if started == 1 else asyncio.sleep(10))

    with pytest.raises(Refused, match="test"):
        run(client.repeat, call, 2, 100)
    assert started == 2


def test_repetition_makes_every_call() -> None:
    ended: list[None] = []

    async def call() -> None:
        await asyncio.sleep(0.02)
        ended.append(None)

    seconds = run(client.repeat, call, 2, 10)
    assert isinstance(seconds, float)
    assert (len(ended), seconds > 0.095) == (10, True)
